"""DCN-v2: cross layers with a full weight matrix each, beside or before an MLP.

Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535.

    x_0 = [v_1, …, v_F, x]
    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l                                            (eq. 1)
    parallel:  ŷ = σ(w·[x_L, MLP(x_0)] + b)
    stacked:   ŷ = σ(w·MLP(x_L) + b)

Which structure is better depends on the data (section 3.3); parallel is the default because the BARS benchmark and the
CowClip code use it. The full matrix costs N² weights a layer; `dcnv2_mix` is the cheaper form.

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
    """Settings of DCN-v2."""

    wide: ClassVar[bool] = False
    name: Literal["dcnv2"] = "dcnv2"
    structure: Literal["parallel", "stacked"] = "parallel"
    num_cross_layers: int = Field(3, ge=1)
    cross_l2: float = Field(1e-5, ge=0, description="λ of λΣw² over the cross layers' matrices, at every batch size")
    mlp: MLPConfig = MLPConfig()

    def build(self, num_fields: int, num_numeric: int) -> DCNv2:
        """The network."""
        return DCNv2(self, num_fields, num_numeric)


class DCNv2(CTRModel):
    """Cross layers and an MLP over shared embeddings, side by side or one after the other."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width = num_fields * config.embedding_dim + num_numeric
        self.cross_l2, self.stacked = config.cross_l2, config.structure == "stacked"
        self.cross = nn.ModuleList(glorot_linear(width, width) for _ in range(config.num_cross_layers))
        self.mlp = MLP(width, config.mlp)
        self.head = glorot_linear(self.mlp.num_outputs + (0 if self.stacked else width), 1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x0_BN = torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)
        x_BN = x0_BN
        for cross in self.cross:
            x_BN = torch.addcmul(x_BN, x0_BN, cross(x_BN))
        final = self.mlp(x_BN) if self.stacked else torch.cat([x_BN, self.mlp(x0_BN)], dim=1)
        logits_B1: Tensor = self.head(final)
        return logits_B1.squeeze(1)

    def l2_terms(self) -> Iterator[tuple[Tensor, float]]:
        """The matrices W_l."""
        yield from ((weight, self.cross_l2) for weight in self.cross.parameters() if weight.ndim == 2)
