"""FuxiCTR, run as its experiment script runs it: a feature map, its data loader, `fit` with validation.

The wheel carries the parts of its models but not the models, which live in its repository's model zoo; the class here
puts the same parts together. FuxiCTR embeds a numeric column as its value times a learned vector. For DeepFM all
vectors are of one width, so its MLP reads 390 inputs where the others read 273; for the others a numeric column's
`embedding_dim` is set to 1. Its `fit` always validates: it gets 1,024 rows to do so. No L2.

The variant is the loader: npz (its RankDataLoader's default) or parquet (through Ray, which its preprocessing
writes for).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import CrossNetV2, FactorizationMachine, FeatureEmbedding, LogisticRegression, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from networks import parameter_counts
from torch import nn

LABEL = "label"
VALIDATION_ROWS = 1024


class Model(BaseModel):
    """DeepFM, DCN-v2 or Wide & Deep."""

    def __init__(self, name: str, feature_map: FeatureMap, *, checkpoints: Path) -> None:
        super().__init__(
            feature_map,
            model_id=name,
            model_root=str(checkpoints),
            metrics=["logloss", "AUC"],
            monitor="AUC",
            verbose=1,
        )
        width = feature_map.sum_emb_out_dim()
        self.embedding = FeatureEmbedding(feature_map, measure.EMBEDDING_DIM)
        self.fm = FactorizationMachine(feature_map) if name == "deepfm" else None
        self.linear = LogisticRegression(feature_map, use_bias=False) if name == "wide_deep" else None
        self.cross = CrossNetV2(width, measure.CROSS_LAYERS) if name == "dcnv2" else None
        self.head = nn.Linear(width + measure.HIDDEN_UNITS[-1], 1) if name == "dcnv2" else None
        self.mlp = MLP_Block(
            width,
            hidden_units=list(measure.HIDDEN_UNITS),
            hidden_activations="relu",
            output_dim=None if self.head else 1,
        )
        self.compile("adam", "binary_crossentropy", measure.LEARNING_RATE)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.get_inputs(inputs)
        if self.fm is not None:
            rows_BFD = self.embedding(x)
            logit_B1 = self.fm(x, rows_BFD) + self.mlp(rows_BFD.flatten(start_dim=1))
        else:
            x_BN = self.embedding(x, flatten_emb=True)
            if self.linear is not None:
                logit_B1 = self.linear(x) + self.mlp(x_BN)
            else:
                logit_B1 = self.head(torch.cat([self.cross(x_BN), self.mlp(x_BN)], dim=-1))
        return {"y_pred": self.output_activation(logit_B1)}


class FuxiCTR:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.fields, self.batch_size, self.scratch = fields, job.batch_size, job.scratch / "fuxictr"
        self.loader = job.variant or "npz"
        seed_everything(job.seed)
        numeric_dim = measure.EMBEDDING_DIM if job.model == "deepfm" else 1
        self.feature_map = feature_map(fields, numeric_dim, self.scratch)
        (self.scratch / "checkpoints" / self.feature_map.dataset_id).mkdir(parents=True, exist_ok=True)
        self.model = Model(job.model, self.feature_map, checkpoints=self.scratch / "checkpoints")
        self.validation = self._write(measure.read_rows(job.data, "test", 0, VALIDATION_ROWS))
        self.settings: dict[str, Any] = {
            "optimizer": "adam, learning rate 1e-3",
            "l2": 0,
            "loader": f"{self.loader}, its default of 1 worker",
            "metrics": "none while training",
            "validation": f"{VALIDATION_ROWS} rows at the end of the epoch, as fit cannot do without",
            "gradient clipping": "norm 10 over all parameters, its default",
            "network": f"a numeric column is multiplied by a learned vector of width {numeric_dim}",
            **parameter_counts(self.model),
        }

    def prepare(self, rows: measure.Rows) -> Any:
        path = self._write(rows)
        return RankDataLoader(
            self.feature_map,
            stage="train",
            train_data=path,
            valid_data=self.validation,
            batch_size=self.batch_size,
            shuffle=True,
            data_format=self.loader,
        )

    def fit(self, prepared: Any) -> None:
        train, valid = prepared
        # fit keeps the steps between validations from the fit before: after the short warm-up it would validate every
        # few steps and stop early, long before all rows are trained on.
        self.model._eval_steps = None
        self.model.fit(train, epochs=1, validation_data=valid)

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.scorer(rows, measure.SCORED_AT_A_TIME)()

    def scorer(self, rows: measure.Rows, batch_size: int) -> Callable[[], npt.NDArray[np.float64]]:
        loader = RankDataLoader(
            self.feature_map,
            stage="test",
            test_data=self._write(rows),
            batch_size=batch_size,
            shuffle=False,
            data_format=self.loader,
        )
        return lambda: self.model.predict(loader)

    def _write(self, rows: measure.Rows) -> str:
        """The rows as a file that FuxiCTR's loader reads, written once and then reused."""
        path = self.scratch / f"{rows.split}-{rows.start}-{rows.stop}.{self.loader}"
        if not path.exists():
            columns = rows.columns(self.fields) | {LABEL: rows.labels}
            unfinished = path.with_name(f"unfinished-{path.name}")
            if self.loader == "npz":
                np.savez(unfinished, **columns)
            else:
                pq.write_table(pa.table(columns), unfinished)
            unfinished.rename(path)
        return str(path)


def feature_map(fields: measure.Fields, numeric_dim: int, folder: Path) -> FeatureMap:
    """The description of the columns that FuxiCTR's preprocessing would have written."""
    described = FeatureMap("clickherd_speed", str(folder))
    for name, size in fields.categorical.items():
        described.features[name] = {"source": "", "type": "categorical", "vocab_size": size}
    for name in fields.numeric:
        described.features[name] = {"source": "", "type": "numeric", "embedding_dim": numeric_dim}
    described.labels = [LABEL]
    described.num_fields = described.get_num_fields()
    described.total_features = sum(fields.categorical.values()) + len(fields.numeric)
    described.default_emb_dim = measure.EMBEDDING_DIM
    described.set_column_index()
    return described


if __name__ == "__main__":
    measure.main(FuxiCTR)
