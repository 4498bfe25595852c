"""AutoInt: multi-head self-attention between the fields' embeddings; with an MLP beside it, AutoInt+.

Song et al., CIKM 2019, https://arxiv.org/abs/1810.11921.

    α_{mk} = softmax_k(⟨W_Q e_m, W_K e_k⟩)                                           (eq. 5)
    ẽ_m = Σ_k α_{mk} W_V e_k, for every head, the heads one beside the other         (eqs. 6, 7)
    e_m^Res = ReLU(ẽ_m + W_Res e_m)                                                  (eq. 8)
    ŷ = σ(w·[e_1^Res, …, e_F^Res, x] + b)                                            (eq. 9)

The authors' code, with which their results were made, adds to this: a bias and a ReLU in each of the four products,
scores over the square root of a head's width, and a layer norm behind eq. 8. That is the default. FuxiCTR has neither
bias nor ReLU in the products, takes e_m itself as the residual where the widths agree, and normalises before the ReLU.

Real-valued columns enter the output layer, and the MLP and the linear term where there is one; the paper makes
embeddings of them.

Shapes: B rows, F fields, D embedding width, K real-valued columns, A attention width, H heads, N = D or A.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from clickherd.layers.linear import NumericLinear
from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of AutoInt; the defaults are those of the authors' code. With `mlp` it is AutoInt+."""

    name: Literal["autoint"] = "autoint"
    num_attention_layers: int = Field(3, ge=1)
    attention_dim: int = Field(64, ge=1, description="width A of an attention layer's output, all heads together")
    num_heads: int = Field(2, ge=1)
    form: Literal["authors", "fuxictr"] = "authors"
    scale: bool = Field(True, description="scores over √(A/H)")
    layer_norm: bool = True
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="of the attention weights")
    linear: bool = Field(False, description="a linear term over ids and real-valued columns")
    mlp: MLPConfig | None = Field(None, description="the MLP of AutoInt+")

    @property
    def wide(self) -> bool:
        """Whether ids carry a linear weight."""
        return self.linear

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.attention_dim % self.num_heads:
            raise ValueError(f"attention_dim {self.attention_dim} is not a multiple of num_heads {self.num_heads}")
        return self

    def build(self, num_fields: int, num_numeric: int) -> AutoInt:
        """The network."""
        return AutoInt(self, num_fields, num_numeric)


class Attention(nn.Module):
    """One interacting layer: eqs. 5 to 8. Queries, keys, values and residual are one matrix product."""

    def __init__(self, num_inputs: int, config: Config) -> None:
        super().__init__()
        width, authors = config.attention_dim, config.form == "authors"
        self.heads, self.authors = (config.num_heads, width // config.num_heads), authors
        self.num_parts = 4 if authors or num_inputs != width else 3  # the residual is x itself, or a fourth product
        units = self.num_parts * width
        self.projection = (
            MLP(num_inputs, MLPConfig(hidden_units=(units,))) if authors else nn.Linear(num_inputs, units, bias=False)
        )
        for weight in self.projection.parameters():
            for part in weight.detach().chunk(self.num_parts) if weight.ndim == 2 else ():
                nn.init.xavier_normal_(part)
        self.scale = None if config.scale else 1.0  # None: √ of a head's width
        self.dropout = nn.Dropout(config.attention_dropout) if config.attention_dropout else None
        self.norm = nn.LayerNorm(width) if config.layer_norm else nn.Identity()

    def forward(self, x_BFN: Tensor) -> Tensor:
        """Shape (B, F, A)."""
        products: Tensor = self.projection(x_BFN.flatten(0, 1)).unflatten(0, x_BFN.shape[:2])
        *parts, residual_BFA = (*products.chunk(self.num_parts, dim=2), x_BFN)[:4]
        query, key, value = (part.view(*part.shape[:2], *self.heads).transpose(1, 2) for part in parts)
        rate = self.dropout.p if self.dropout is not None and self.training else 0.0
        mixed_BHFd = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, scale=self.scale)
        out_BFA = mixed_BHFd.transpose(1, 2).flatten(2) + residual_BFA
        normed_BFA: Tensor = self.norm(out_BFA.relu() if self.authors else out_BFA)
        return normed_BFA if self.authors else normed_BFA.relu()


class AutoInt(CTRModel):
    """Attention layers over the embeddings, and what is added to them: a linear term, an MLP."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        dim, width = config.embedding_dim, config.attention_dim
        self.attention = nn.Sequential(
            *(Attention(width if i else dim, config) for i in range(config.num_attention_layers))
        )
        self.head = glorot_linear(num_fields * width + num_numeric, 1, bias=config.mlp is None)
        self.linear = NumericLinear(num_numeric, bias=False) if config.linear else None
        self.mlp = MLP(num_fields * dim + num_numeric, config.mlp, num_outputs=1) if config.mlp else None

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        attended_BFA = self.attention(rows_BFD)
        logits_B1: Tensor = self.head(torch.cat([attended_BFA.flatten(1), numeric_BK], dim=1))
        if self.mlp is not None:
            logits_B1 = logits_B1 + self.mlp(torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1))
        logits_B = logits_B1.squeeze(1)
        return logits_B if self.linear is None else logits_B + wide_B + self.linear(numeric_BK)
