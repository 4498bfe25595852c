"""DCN-v2 with mixtures of low-rank experts in place of full cross matrices.

Wang et al., WWW 2021, https://arxiv.org/abs/2008.13535.

    x_{l+1} = Σ_i G_i(x_l) E_i(x_l) + x_l                                            (eq. 3)
    E_i(x_l) = x_0 ⊙ (U_i tanh(C_i tanh(V_iᵀ x_l)) + b)                              (eq. 4)
    G(x_l) = softmax(A x_l)

U_i, V_i, C_i, b and A are each layer's own. The gates sum to one, so that Σ_i G_i E_i = x_0 ⊙ (Σ_i G_i U_i … + b): all
experts are two matrix products. Structures as in `dcnv2`. The CowClip code calls this network DCNv2; there all layers
share one A, and a linear term over the ids, which the paper does not have, is added.

Shapes: B rows, F fields, D embedding width, K real-valued columns, N = F·D + K, E experts, R (also S) rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear, glorot_stack
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of DCN-v2's low-rank mixture; the defaults are CowClip's."""

    wide: ClassVar[bool] = False
    name: Literal["dcnv2_mix"] = "dcnv2_mix"
    structure: Literal["parallel", "stacked"] = "parallel"
    num_cross_layers: int = Field(3, ge=1)
    rank: int = Field(32, ge=1, description="rank R of an expert")
    num_experts: int = Field(4, ge=1)
    cross_l2: float = Field(1e-5, ge=0, description="λ of λΣw² over U, C and V, at every batch size")
    mlp: MLPConfig = MLPConfig()

    def build(self, num_fields: int, num_numeric: int) -> DCNv2Mix:
        """The network."""
        return DCNv2Mix(self, num_fields, num_numeric)


class LowRankMixture(nn.Module):
    """One cross layer: the sum over experts of eqs. 3 and 4, without the residual."""

    def __init__(self, width: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.U_ENR = glorot_stack(num_experts, width, rank)
        self.C_ESR = glorot_stack(num_experts, rank, rank)
        self.V_ENR = glorot_stack(num_experts, width, rank)
        self.bias_N = nn.Parameter(torch.zeros(width))
        self.gate = glorot_linear(width, num_experts, bias=False)

    def forward(self, x0_BN: Tensor, x_BN: Tensor) -> Tensor:
        """Shape (B, N)."""
        z_BER = torch.tanh(torch.einsum("bn,enr->ber", x_BN, self.V_ENR))
        z_BES = torch.tanh(torch.einsum("ber,esr->bes", z_BER, self.C_ESR))
        gates_BE = torch.softmax(self.gate(x_BN), dim=1)
        mixed_BN = torch.einsum("bes,ens->bn", gates_BE[:, :, None] * z_BES, self.U_ENR)
        return x0_BN * (mixed_BN + self.bias_N)


class DCNv2Mix(CTRModel):
    """Mixtures of low-rank cross layers and an MLP, side by side or one after the other."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width = num_fields * config.embedding_dim + num_numeric
        self.cross_l2, self.stacked = config.cross_l2, config.structure == "stacked"
        self.cross = nn.ModuleList(
            LowRankMixture(width, config.rank, config.num_experts) for _ in range(config.num_cross_layers)
        )
        self.mlp = MLP(width, config.mlp)
        self.head = glorot_linear(self.mlp.num_outputs + (0 if self.stacked else width), 1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x0_BN = torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)
        x_BN = x0_BN
        for cross in self.cross:
            x_BN = cross(x0_BN, x_BN) + x_BN
        final = self.mlp(x_BN) if self.stacked else torch.cat([x_BN, self.mlp(x0_BN)], dim=1)
        logits_B1: Tensor = self.head(final)
        return logits_B1.squeeze(1)

    def l2_terms(self) -> Iterator[tuple[Tensor, float]]:
        """The experts' U, C and V."""
        yield from ((weight, self.cross_l2) for weight in self.cross.parameters() if weight.ndim == 3)
