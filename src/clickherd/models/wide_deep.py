"""Wide & Deep: logistic regression plus an MLP over embeddings, trained together.

Cheng et al., DLRS 2016, https://arxiv.org/abs/1606.07792.

    a_{l+1} = f(W_l a_l + b_l),  a_0 = [v_1, …, v_F, x]                               (eq. 2)
    ŷ = σ(w_wide·[x, φ(x)] + w_deep·a_L + b)                                         (eq. 3)

The hand-made crosses φ(x) are left out, as in every benchmark of the model: a cross that matters can be a column of the
data. Wide and deep weights share one optimiser recipe here; the paper trains the wide part with FTRL.

Shapes: B rows, F fields, D embedding width, K real-valued columns.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from clickherd.layers.linear import NumericLinear
from clickherd.layers.mlp import MLP, MLPConfig
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of Wide & Deep; the defaults are CowClip's."""

    wide: ClassVar[bool] = True
    name: Literal["wide_deep"] = "wide_deep"
    mlp: MLPConfig = MLPConfig()

    def build(self, num_fields: int, num_numeric: int) -> WideDeep:
        """The network."""
        return WideDeep(self, num_fields, num_numeric)


class WideDeep(CTRModel):
    """A linear term that memorises and an MLP that generalises, summed."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.linear = NumericLinear(num_numeric, bias=False)
        self.mlp = MLP(num_fields * config.embedding_dim + num_numeric, config.mlp, num_outputs=1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        wide_B = wide_B + self.linear(numeric_BK)
        deep_B1: Tensor = self.mlp(torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1))
        return wide_B + deep_B1.squeeze(1)
