"""FCN, once called DCNv3: an exponential and a linear cross network, without an MLP.

Li et al., 2024, https://arxiv.org/abs/2407.13349, with the self-mask of its versions up to 7 and of the authors' code.

    h_l = W_l x_l,  m_l = h_l ⊙ ReLU(LN(h_l))                                         self-mask
    exponential:  x_{l+1} = x_l ⊙ ([h_l, m_l] + b_l) + x_l                            degrees double
    linear:       x_{l+1} = x_0 ⊙ ([h_l, m_l] + b_l) + x_l                            degrees grow by one
    y_E = w_E·x_E + b,  y_L = w_L·x_L + b,  ŷ = σ((y_E + y_L) / 2);  of several heads y_E and y_L are means
    loss = L + max(0, L_E − L)·L_E + max(0, L_L − L)·L_L                              Tri-BCE

h is half as wide as x: the first halves of all embeddings meet h, the second halves the masked h. `num_heads` cuts
each embedding in as many parts; every part goes through the same weights. Real-valued columns stand behind the second
halves, in every head.

L, L_E and L_L are the mean BCEs of ŷ, σ(y_E) and σ(y_L): over the rows of a micro-batch, not of the batch, as in ghost
batch norm. As in the authors' code gradients flow through the weights of the loss too. That is more than a detail:
∂loss/∂L = 1 − L_E − L_L and ∂loss/∂L_E = 2L_E − L while both branches are worse than their mean. Training reports L.

Shapes: B rows, F fields, D embedding width, K real-valued columns, H heads, C = D/H, N = F·C + K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.layers.mlp import glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of FCN; the numbers of layers are the authors' for Criteo."""

    wide: ClassVar[bool] = False
    name: Literal["fcn"] = "fcn"
    num_exponential_layers: int = Field(3, ge=1)
    num_linear_layers: int = Field(4, ge=1)
    num_heads: int = Field(1, ge=1)
    exponential_dropout: float = Field(0.0, ge=0, lt=1)
    linear_dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("num_heads")
    @classmethod
    def _divides_the_width(cls, num_heads: int, info: ValidationInfo) -> int:
        width = info.data.get("embedding_dim", num_heads)
        if width % num_heads:
            raise ValueError(f"must divide embedding_dim, {width}")
        return num_heads

    def build(self, num_fields: int, num_numeric: int) -> FCN:
        """The network."""
        return FCN(self, num_fields, num_numeric)


class CrossNetwork(nn.Module):
    """Self-masked cross layers and a linear layer to one logit. b starts uniform in [0, 1), as the authors' does."""

    def __init__(self, width: int, num_layers: int, dropout: float, *, exponential: bool) -> None:
        super().__init__()
        self.exponential, self.masked = exponential, width // 2
        half = width - self.masked
        self.cross = nn.ModuleList(glorot_linear(width, half, bias=False) for _ in range(num_layers))
        self.norm = nn.ModuleList(nn.LayerNorm(half) for _ in range(num_layers))
        self.bias = nn.ParameterList(torch.rand(width) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = glorot_linear(width, 1)

    def forward(self, x0_BHN: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x_BHN = x0_BHN
        for cross, norm, bias_N in zip(self.cross, self.norm, self.bias, strict=True):
            h = cross(x_BHN)
            mask = torch.relu(norm(h))[..., : self.masked]
            weights_BHN = torch.cat([h, h[..., : self.masked] * mask], dim=-1) + bias_N
            x_BHN = self.dropout(torch.addcmul(x_BHN, x_BHN if self.exponential else x0_BHN, weights_BHN))
        logits_BH1: Tensor = self.head(x_BHN)
        return logits_BH1.squeeze(-1).mean(dim=1)


class FCN(CTRModel):
    """Two cross networks over the same embeddings."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        width = num_fields * config.embedding_dim // config.num_heads + num_numeric
        sizes = (width, config.num_exponential_layers, config.exponential_dropout)
        self.exponential = CrossNetwork(*sizes, exponential=True)
        self.linear = CrossNetwork(width, config.num_linear_layers, config.linear_dropout, exponential=False)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        return self.branches(rows_BFD, wide_B, numeric_BK)[0]

    def branches(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> tuple[Tensor, ...]:
        """The logits of the prediction, of the exponential and of the linear cross network; (B,) each."""
        rows, fields, width = rows_BFD.shape
        part = width // self.num_heads
        rows_BHFC = rows_BFD.reshape(rows, fields, self.num_heads, part).transpose(1, 2)
        half = -(-part // 2)
        numeric_BHK = numeric_BK.unsqueeze(1).expand(-1, self.num_heads, -1)
        halves = rows_BHFC[..., :half].flatten(2), rows_BHFC[..., half:].flatten(2)
        x_BHN = torch.cat([*halves, numeric_BHK], dim=2)
        exponential_B, linear_B = self.exponential(x_BHN), self.linear(x_BHN)
        return (exponential_B + linear_B) / 2, exponential_B, linear_B

    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """Those of the two networks' logits."""
        return self.exponential.head.bias, self.linear.head.bias

    def auxiliary_loss(self, logits: Sequence[Tensor], labels_B: Tensor) -> Tensor:
        """What Tri-BCE adds to the prediction's BCE, times the number of rows."""
        loss, *branches = (binary_cross_entropy_with_logits(y_B, labels_B) for y_B in logits)
        return len(labels_B) * torch.stack([torch.relu(branch - loss) * branch for branch in branches]).sum()
