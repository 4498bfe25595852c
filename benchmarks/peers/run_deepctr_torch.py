"""DeepCTR-Torch, run as its examples run it: dictionaries of columns, `compile` with metrics, `fit`.

Two settings differ from its defaults, both in its favour or for equality: no L2 (its default adds a pass over
every table to every step), and Adam instead of the example's Adagrad. DCN-v2 is its DCN with matrices, without its
linear part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DCN, WDL, DeepFM
from networks import parameter_counts


class DeepCTRTorch:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.fields, self.batch_size = fields, job.batch_size
        columns = [
            SparseFeat(name, vocabulary_size=size, embedding_dim=measure.EMBEDDING_DIM)
            for name, size in fields.categorical.items()
        ] + [DenseFeat(name, 1) for name in fields.numeric]
        shared = {"dnn_hidden_units": measure.HIDDEN_UNITS, "l2_reg_linear": 0, "l2_reg_embedding": 0, "seed": job.seed}
        if job.model == "dcnv2":
            crosses = {"cross_num": measure.CROSS_LAYERS, "cross_parameterization": "matrix", "l2_reg_cross": 0}
            self.model = DCN([], columns, **crosses, **shared)
        else:
            self.model = {"deepfm": DeepFM, "wide_deep": WDL}[job.model](columns, columns, **shared)
        self.model.compile("adam", "binary_crossentropy", metrics=["binary_crossentropy", "auc"])
        self.settings: dict[str, Any] = {
            "optimizer": "adam, learning rate 1e-3",
            "l2": 0,
            "metrics": "log loss and AUC of every batch, as in its examples",
            "validation": "none",
            **parameter_counts(self.model),
        }

    def prepare(self, rows: measure.Rows) -> tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.float32]]:
        return rows.columns(self.fields), rows.labels

    def fit(self, prepared: tuple[dict[str, npt.NDArray[np.generic]], npt.NDArray[np.float32]]) -> None:
        columns, labels = prepared
        self.model.fit(columns, labels, batch_size=self.batch_size, epochs=1, verbose=2)

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.scorer(rows, measure.SCORED_AT_A_TIME)()

    def scorer(self, rows: measure.Rows, batch_size: int) -> Callable[[], npt.NDArray[np.float64]]:
        columns = rows.columns(self.fields)
        return lambda: self.model.predict(columns, batch_size=batch_size).ravel()


if __name__ == "__main__":
    measure.main(DeepCTRTorch)
