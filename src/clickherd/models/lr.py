"""Logistic regression: one weight per id and per real-valued column.

Richardson et al., WWW 2007 (as a click model), https://doi.org/10.1145/1242572.1242643.

    ŷ = σ(w_0 + Σ_f w_{id_f} + Σ_k w_k x_k)

There are no embeddings: D = 0, and rows_BFD is (B, F, 0).

Shapes: B rows, F fields, D embedding width, K real-valued columns.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from clickherd.layers.linear import NumericLinear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of logistic regression: there are none."""

    wide: ClassVar[bool] = True
    name: Literal["lr"] = "lr"
    embedding_dim: Literal[0] = 0

    def build(self, num_fields: int, num_numeric: int) -> LR:
        """The network."""
        return LR(num_numeric)


class LR(CTRModel):
    """A weighted sum of the features."""

    def __init__(self, num_numeric: int) -> None:
        super().__init__()
        self.linear = NumericLinear(num_numeric)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        logits_B: Tensor = wide_B + self.linear(numeric_BK)
        return logits_B
