"""torch-rechub, run as its examples run it: its DataGenerator's loader, its CTRTrainer.

Its networks differ a little: batch normalisation after every hidden layer, and a linear part that reads the embeddings
(in Wide & Deep also the numeric columns) instead of weights of its own. Its trainer's default weight decay of 1e-5 is
turned off, as L2 is for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import torch
from networks import parameter_counts
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.ranking import DCNv2, DeepFM, WideDeep
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator


class TorchRechub:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.fields, self.batch_size = fields, job.batch_size
        torch.manual_seed(job.seed)
        sparse = [
            SparseFeature(name, vocab_size=size, embed_dim=measure.EMBEDDING_DIM)
            for name, size in fields.categorical.items()
        ]
        dense = [DenseFeature(name) for name in fields.numeric]
        mlp = {"dims": list(measure.HIDDEN_UNITS), "dropout": 0.0}
        if job.model == "dcnv2":
            model = DCNv2(sparse + dense, measure.CROSS_LAYERS, mlp, use_low_rank_mixture=False)
        elif job.model == "wide_deep":
            model = WideDeep(sparse + dense, sparse + dense, mlp)
        else:
            model = DeepFM(sparse + dense, sparse, mlp)
        linear = {"dcnv2": "", "wide_deep": "; the linear part reads embeddings and numeric columns"}
        checkpoints = job.scratch / "torch-rechub"
        checkpoints.mkdir(parents=True, exist_ok=True)
        self.trainer = CTRTrainer(
            model,
            optimizer_params={"lr": measure.LEARNING_RATE, "weight_decay": 0},
            n_epoch=1,
            model_path=str(checkpoints),
        )
        self.settings: dict[str, Any] = {
            "optimizer": "adam, learning rate 1e-3",
            "l2": 0,
            "network": "batch normalisation in the MLP"
            + linear.get(job.model, "; the linear part reads the embeddings"),
            **parameter_counts(model),
            "loader": "its DataGenerator, its default of 0 workers",
            "metrics": "none while training",
            "validation": "none",
        }

    def prepare(self, rows: measure.Rows) -> Any:
        return self._loader(rows, self.batch_size, train=True)

    def fit(self, prepared: Any) -> None:
        self.trainer.fit(prepared)

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.scorer(rows, measure.SCORED_AT_A_TIME)()

    def scorer(self, rows: measure.Rows, batch_size: int) -> Callable[[], npt.NDArray[np.float64]]:
        loader = self._loader(rows, batch_size, train=False)
        return lambda: np.asarray(self.trainer.predict(self.trainer.model, loader), np.float64)

    def _loader(self, rows: measure.Rows, batch_size: int, *, train: bool) -> Any:
        """Its loaders come in threes; one keeps the order of the rows, another shuffles."""
        columns = rows.columns(self.fields)
        train_loader, _, test_loader = DataGenerator(columns, rows.labels).generate_dataloader(
            x_val=columns, y_val=rows.labels, x_test=columns, y_test=rows.labels, batch_size=batch_size
        )
        return train_loader if train else test_loader


if __name__ == "__main__":
    measure.main(TorchRechub)
