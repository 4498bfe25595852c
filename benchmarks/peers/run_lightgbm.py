"""LightGBM on encoded rows. The variant: `native` categories, or `ordinal`, ids taken as numbers. See boosted.py."""

from __future__ import annotations

import boosted
import lightgbm
import measure
import numpy as np
import numpy.typing as npt


class LightGBM(boosted.Boosted):
    def train(self, rows: measure.Rows) -> None:
        parameters = {
            "objective": "binary",
            "num_leaves": boosted.LEAVES,
            "learning_rate": boosted.LEARNING_RATE,
            "num_threads": self.job.threads,
            "seed": self.job.seed,
            "verbosity": -1,
        }
        native = list(self.fields.categorical) if self.job.variant == "native" else []
        data = lightgbm.Dataset(
            boosted.matrix(rows), rows.labels, feature_name=self.names, categorical_feature=native, params=parameters
        )
        self.booster = lightgbm.Booster(parameters, data)
        while True:
            self.booster.update()
            if not self.round_ended():
                return

    def predict_after(self, rounds: int, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return np.asarray(self.booster.predict(boosted.matrix(rows), num_iteration=rounds), np.float64)


if __name__ == "__main__":
    measure.main(LightGBM)
