"""IPNN, a product-based network: an MLP over the embeddings and all their inner products.

Qu et al., ICDM 2016, https://arxiv.org/abs/1611.00144.

    z = [v_1, …, v_F],  p = [⟨v_f, v_g⟩ for f < g]                                   (eqs. 6, 7)
    l_1 = ReLU(W_z z + W_p p + b_1)                                                  (eqs. 3, 5)
    l_2 = ReLU(W_2 l_1 + b_2), …;  ŷ = σ(W_L l_{L−1} + b_L)                          (eqs. 1, 2)

The first layer is thus that of an MLP over [z, p]. W_p is a full matrix, as in the authors' code; the paper also
offers one of rank one. The outer products of OPNN are not here.
Real-valued columns enter the MLP and take no part in the products.

Shapes: B rows, F fields, D embedding width, K real-valued columns, P = F(F−1)/2 pairs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from clickherd.layers.interaction import InnerProducts
from clickherd.layers.mlp import MLP, MLPConfig
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of IPNN."""

    wide: ClassVar[bool] = False
    name: Literal["ipnn"] = "ipnn"
    mlp: MLPConfig = MLPConfig()

    def build(self, num_fields: int, num_numeric: int) -> IPNN:
        """The network."""
        return IPNN(self, num_fields, num_numeric)


class IPNN(CTRModel):
    """An MLP that sees embeddings and their inner products."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.products = InnerProducts(num_fields)
        width = num_fields * config.embedding_dim + self.products.num_pairs + num_numeric
        self.mlp = MLP(width, config.mlp, num_outputs=1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        inputs_BN = torch.cat([rows_BFD.flatten(1), self.products(rows_BFD), numeric_BK], dim=1)
        logits_B1: Tensor = self.mlp(inputs_BN)
        return logits_B1.squeeze(1)
