"""The networks of the comparison in plain torch, for a peer that brings the embeddings only.

Shapes: B batch, F categorical fields, K numeric columns, D = 10, N = F·D + K.
"""

from __future__ import annotations

import itertools

import measure
import torch
from torch import Tensor, nn


class Network(nn.Module):
    """DeepFM, DCN-v2 or Wide & Deep on embedding rows; logits come out. DCN-v2 has no linear part."""

    def __init__(self, model: str, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.model = model
        width = num_fields * measure.EMBEDDING_DIM + num_numeric
        head_inputs = measure.HIDDEN_UNITS[-1]
        if model == "dcnv2":
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(measure.CROSS_LAYERS))
            head_inputs += width
        else:
            self.numeric_linear = nn.Linear(num_numeric, 1, bias=False)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([width, *measure.HIDDEN_UNITS]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers)
        self.head = nn.Linear(head_inputs, 1)

    def forward(self, rows_BFD: Tensor, linear_BF: Tensor, numeric_BK: Tensor) -> Tensor:
        x0_BN = torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)
        deep = self.mlp(x0_BN)
        if self.model == "dcnv2":
            x_BN = x0_BN
            for cross in self.cross:
                x_BN = x0_BN * cross(x_BN) + x_BN
            crossed_B: Tensor = self.head(torch.cat([x_BN, deep], dim=1)).squeeze(1)
            return crossed_B
        logits_B: Tensor = linear_BF.sum(1) + (self.numeric_linear(numeric_BK) + self.head(deep)).squeeze(1)
        if self.model == "deepfm":
            logits_B = logits_B + 0.5 * (rows_BFD.sum(1).square() - rows_BFD.square().sum(1)).sum(1)
        return logits_B


def parameter_counts(module: nn.Module) -> dict[str, int]:
    """The weights in `nn.Embedding` tables, and all others."""
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    table = sum(weight.numel() for part in tables for weight in part.parameters())
    return measure.parameter_counts(sum(weight.numel() for weight in module.parameters()) - table, table)
