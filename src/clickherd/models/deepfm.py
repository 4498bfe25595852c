"""DeepFM: a factorisation machine and an MLP over the same embeddings.

Guo et al., IJCAI 2017, https://arxiv.org/abs/1703.04247.

    ŷ = σ(y_FM + y_DNN)                                                              (eq. 1)
    y_FM = ⟨w, x⟩ + Σ_{f<g} ⟨v_f, v_g⟩                                               (eq. 2)
    y_DNN = W·MLP([v_1, …, v_F]) + b                                                 (eqs. 3, 4)

Real-valued columns enter the MLP and the linear term, not the pairwise term, as in the CowClip code.

Shapes: B rows, F fields, D embedding width, K real-valued columns.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from clickherd.layers.interaction import pairwise_products
from clickherd.layers.linear import NumericLinear
from clickherd.layers.mlp import MLP, MLPConfig
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of DeepFM; the defaults are CowClip's."""

    wide: ClassVar[bool] = True
    name: Literal["deepfm"] = "deepfm"
    mlp: MLPConfig = MLPConfig()

    def build(self, num_fields: int, num_numeric: int) -> DeepFM:
        """The network."""
        return DeepFM(self, num_fields, num_numeric)


class DeepFM(CTRModel):
    """A factorisation machine and an MLP over shared embeddings, summed."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.linear = NumericLinear(num_numeric, bias=False)
        self.mlp = MLP(num_fields * config.embedding_dim + num_numeric, config.mlp, num_outputs=1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        linear_B: Tensor = wide_B + self.linear(numeric_BK)
        pairwise_B = pairwise_products(rows_BFD).sum(dim=1)
        deep_B1: Tensor = self.mlp(torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1))
        return linear_B + pairwise_B + deep_B1.squeeze(1)
