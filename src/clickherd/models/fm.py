"""Factorisation machine: logistic regression plus the inner products of all pairs of embeddings.

Rendle, ICDM 2010, https://doi.org/10.1109/ICDM.2010.127.

    ŷ = σ(w_0 + ⟨w, x⟩ + Σ_{f<g} ⟨v_f, v_g⟩ x_f x_g)                                  (eq. 1)

For ids x is 1. The pairs are summed in time linear in F (Lemma 3.1). Real-valued columns enter the linear term only,
as in the CowClip code.

Shapes: B rows, F fields, D embedding width, K real-valued columns.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from clickherd.layers.interaction import pairwise_products
from clickherd.layers.linear import NumericLinear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of the factorisation machine."""

    wide: ClassVar[bool] = True
    name: Literal["fm"] = "fm"

    def build(self, num_fields: int, num_numeric: int) -> FM:
        """The network."""
        return FM(num_numeric)


class FM(CTRModel):
    """A linear term and all pairwise inner products."""

    def __init__(self, num_numeric: int) -> None:
        super().__init__()
        self.linear = NumericLinear(num_numeric)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        linear_B: Tensor = wide_B + self.linear(numeric_BK)
        return linear_B + pairwise_products(rows_BFD).sum(dim=1)
