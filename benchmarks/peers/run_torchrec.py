"""TorchRec's and FBGEMM's table-batched embeddings under a plain torch DeepFM, in a plain loop over sliced arrays.

The variant is the embedding: `torchrec`, TorchRec's FusedEmbeddingBagCollection, or `fbgemm`, the FBGEMM operator
beneath it called directly, without the dictionaries and copies in between. Either updates the rows that a batch
touches within the backward pass, by row-wise Adagrad: on a CPU the operator knows no Adam. It also wants a width that
divides by 4, so a row has 12 columns: 10 are the embedding, one is the linear weight, one is idle.

Shapes: B batch, F categorical fields, K numeric columns, D = 10.
"""

from __future__ import annotations

import itertools
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

WIDTH = 12
# In the peer's favour: chosen by test AUC, so its scores are a little too high.
EMBEDDING_LEARNING_RATE = 0.01  # best test AUC of .002, .005, .01, .02, .05 and .1 after 400,000 rows
INIT_STD = 1e-4


class TableBatched(nn.Module):
    """FBGEMM's operator."""

    def __init__(self, fields: measure.Fields) -> None:
        super().__init__()
        tables = [(size, WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in fields.categorical.values()]
        self.operator = SplitTableBatchedEmbeddingBagsCodegen(
            tables,
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=EMBEDDING_LEARNING_RATE,
            eps=1e-8,
        )
        for weight in self.operator.split_embedding_weights():
            weight.normal_(0, INIT_STD)

    def forward(self, ids_FB: Tensor) -> Tensor:
        return self.operator(ids_FB.flatten(), torch.arange(ids_FB.numel() + 1))


class Collection(nn.Module):
    """TorchRec's module."""

    def __init__(self, fields: measure.Fields) -> None:
        super().__init__()
        # TorchRec loads slowly, and the other variant does without it
        from torchrec.modules.embedding_configs import EmbeddingBagConfig
        from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
        from torchrec.optim import RowWiseAdagrad

        tables = [
            EmbeddingBagConfig(name=name, embedding_dim=WIDTH, num_embeddings=size, feature_names=[name])
            for name, size in fields.categorical.items()
        ]
        self.names = list(fields.categorical)
        self.collection = FusedEmbeddingBagCollection(
            tables, RowWiseAdagrad, {"lr": EMBEDDING_LEARNING_RATE, "eps": 1e-8}, device=torch.device("cpu")
        )
        with torch.no_grad():
            for weight in self.collection.state_dict().values():
                weight.normal_(0, INIT_STD)

    def forward(self, ids_FB: Tensor) -> Tensor:
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        lengths = torch.ones(ids_FB.numel(), dtype=torch.int32)
        return self.collection(KeyedJaggedTensor(self.names, ids_FB.flatten(), lengths=lengths)).values()


class DeepFM(nn.Module):
    """The network above the rows."""

    def __init__(self, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.numeric_linear = nn.Linear(num_numeric, 1)
        widths = [num_fields * measure.EMBEDDING_DIM + num_numeric, *measure.HIDDEN_UNITS]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, rows_BFW: Tensor, numeric_BK: Tensor) -> Tensor:
        rows_BFD = rows_BFW[..., : measure.EMBEDDING_DIM]
        linear_B = rows_BFW[..., measure.EMBEDDING_DIM].sum(1) + self.numeric_linear(numeric_BK).squeeze(1)
        fm_B = 0.5 * (rows_BFD.sum(1).square() - rows_BFD.square().sum(1)).sum(1)
        deep_B = self.mlp(torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)).squeeze(1)
        return linear_B + fm_B + deep_B


class TorchRec:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.batch_size, self.num_fields = job.batch_size, len(fields.categorical)
        torch.manual_seed(job.seed)
        self.lookup = (Collection if job.variant == "torchrec" else TableBatched)(fields)
        self.net = DeepFM(len(fields.categorical), len(fields.numeric))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=measure.LEARNING_RATE)
        self.settings: dict[str, Any] = {
            "embedding": {
                "torchrec": "TorchRec's FusedEmbeddingBagCollection on FBGEMM's table-batched operator",
                "fbgemm": "FBGEMM's SplitTableBatchedEmbeddingBagsCodegen, called directly",
            }[job.variant],
            "optimizer": f"row-wise Adagrad at {EMBEDDING_LEARNING_RATE} for rows, Adam at 1e-3 for the network",
            "width": f"{WIDTH} columns a row: 10 embedding, 1 linear weight, 1 idle",
            "l2": 0,
            "loop": "plain torch over sliced arrays, no loader",
            "metrics": "none while training",
            "validation": "none",
        }

    def prepare(self, rows: measure.Rows) -> measure.Rows:
        return rows

    def fit(self, prepared: measure.Rows) -> None:
        self.net.train()
        ids, numeric, labels = (torch.from_numpy(array) for array in (prepared.ids, prepared.numeric, prepared.labels))
        for index in torch.randperm(len(labels)).split(self.batch_size):
            loss = binary_cross_entropy_with_logits(self._logits(ids[index], numeric[index]), labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        self.net.eval()
        parts = zip(torch.from_numpy(rows.ids).split(8192), torch.from_numpy(rows.numeric).split(8192), strict=True)
        return torch.cat([self._logits(ids, numeric).sigmoid() for ids, numeric in parts]).double().numpy()

    def _logits(self, ids_BF: Tensor, numeric_BK: Tensor) -> Tensor:
        rows_BFW = self.lookup(ids_BF.T.contiguous().long()).view(len(ids_BF), self.num_fields, WIDTH)
        return self.net(rows_BFW, numeric_BK)


if __name__ == "__main__":
    measure.main(TorchRec)
