"""XGBoost on encoded rows. The variant: `native` categories, or `ordinal`, ids taken as numbers. See boosted.py."""

from __future__ import annotations

import boosted
import measure
import numpy as np
import numpy.typing as npt
import xgboost


class XGBoost(boosted.Boosted):
    def train(self, rows: measure.Rows) -> None:
        data = self._matrix(rows)
        parameters = {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "grow_policy": "lossguide",
            "max_leaves": boosted.LEAVES,
            "max_depth": 0,
            "learning_rate": boosted.LEARNING_RATE,
            "nthread": self.job.threads,
            "seed": self.job.seed,
        }
        self.booster = xgboost.Booster(parameters, [data])
        while True:
            self.booster.update(data, len(self.ends))
            if not self.round_ended():
                return

    def predict_after(self, rounds: int, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.booster.predict(self._matrix(rows), iteration_range=(0, rounds)).astype(np.float64)

    def _matrix(self, rows: measure.Rows) -> xgboost.DMatrix:
        native = self.job.variant == "native"
        types = ["c" if native else "q"] * len(self.fields.categorical) + ["q"] * len(self.fields.numeric)
        return xgboost.DMatrix(
            boosted.matrix(rows),
            rows.labels,
            feature_names=self.names,
            feature_types=types,
            enable_categorical=native,
            nthread=self.job.threads,
        )


if __name__ == "__main__":
    measure.main(XGBoost)
