"""CatBoost on encoded rows, with its own statistics of categories: `native` is the only variant. See boosted.py.

CatBoost's trees are symmetric: all nodes of a level split alike. Its depth here is the one that gives about as many
leaves as the others have.
"""

from __future__ import annotations

from typing import Any

import boosted
import measure
import numpy as np
import numpy.typing as npt
import pandas as pd
from catboost import CatBoostClassifier, Pool

DEPTH = (boosted.LEAVES + 1).bit_length() - 1


class CatBoost(boosted.Boosted):
    def train(self, rows: measure.Rows) -> None:
        self.settings["trees"] = f"symmetric, depth {DEPTH}, learning rate {boosted.LEARNING_RATE}"
        self.model = CatBoostClassifier(
            iterations=boosted.ROUNDS,
            depth=DEPTH,
            learning_rate=boosted.LEARNING_RATE,
            thread_count=self.job.threads,
            random_seed=self.job.seed,
            allow_writing_files=False,
            verbose=False,
        )
        self.model.fit(self._pool(rows), callbacks=[self])

    def after_iteration(self, info: Any) -> bool:
        """CatBoost's callback; it goes on while this is true."""
        return self.round_ended()

    def predict_after(self, rounds: int, rows: measure.Rows) -> npt.NDArray[np.float64]:
        probabilities: npt.NDArray[np.float64] = self.model.predict_proba(self._pool(rows), ntree_end=rounds)
        return probabilities[:, 1]

    def _pool(self, rows: measure.Rows) -> Pool:
        frame = pd.DataFrame(rows.columns(self.fields), copy=False)
        return Pool(frame, rows.labels, cat_features=list(self.fields.categorical), thread_count=self.job.threads)


if __name__ == "__main__":
    measure.main(CatBoost)
