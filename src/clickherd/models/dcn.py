"""Deep & Cross Network: cross layers with one weight vector each, beside an MLP.

Wang et al., ADKDD 2017, https://arxiv.org/abs/1708.05123.

    x_0 = [v_1, …, v_F, x]                                                           (eq. 2)
    x_{l+1} = x_0 (x_l·w_l) + b_l + x_l                                              (eq. 3)
    h_{l+1} = f(W_l h_l + b_l),  h_0 = x_0                                           (eq. 4)
    ŷ = σ(w·[x_L, h_L] + b)                                                          (eq. 5)

The final bias b is not in the paper. Nor is a linear term over the ids, which the CowClip code adds and this file does
not.

Shapes: B rows, F fields, D embedding width, K real-valued columns, N = F·D + K.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of DCN; the defaults are CowClip's."""

    wide: ClassVar[bool] = False
    name: Literal["dcn"] = "dcn"
    num_cross_layers: int = Field(3, ge=1)
    cross_l2: float = Field(1e-5, ge=0, description="λ of λΣw² over the cross layers' weights, at every batch size")
    mlp: MLPConfig = MLPConfig()

    def build(self, num_fields: int, num_numeric: int) -> DCN:
        """The network."""
        return DCN(self, num_fields, num_numeric)


class DCN(CTRModel):
    """Cross layers and an MLP side by side over shared embeddings."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width = num_fields * config.embedding_dim + num_numeric
        layers = range(config.num_cross_layers)
        self.cross_l2 = config.cross_l2
        self.cross = nn.ModuleList(glorot_linear(width, 1, bias=False) for _ in layers)
        self.bias = nn.ParameterList(torch.zeros(width) for _ in layers)
        self.mlp = MLP(width, config.mlp)
        self.head = glorot_linear(width + self.mlp.num_outputs, 1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x0_BN = torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)
        x_BN = x0_BN
        for cross, bias_N in zip(self.cross, self.bias, strict=True):
            x_BN = x0_BN * cross(x_BN) + bias_N + x_BN
        logits_B1: Tensor = self.head(torch.cat([x_BN, self.mlp(x0_BN)], dim=1))
        return logits_B1.squeeze(1)

    def l2_terms(self) -> Iterator[tuple[Tensor, float]]:
        """The vectors w_l (eq. 6)."""
        yield from ((weight, self.cross_l2) for weight in self.cross.parameters())
