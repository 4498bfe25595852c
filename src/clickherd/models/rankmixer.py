"""RankMixer: tokens that swap their parts, and an MLP of its own for every token.

Zhu et al., CIKM 2025, https://arxiv.org/abs/2507.15551.

    X_0: x_0 = [v_1, …, v_F, x] cut into T pieces, each with its own linear layer to width E
    S_l = LN(mix(X_l) + X_l),   mix: token h of the result is the h-th parts of all tokens, T parts a token
    X_{l+1} = LN(W_2,t GELU(W_1,t S_l,t + b_1,t) + b_2,t + S_l,t)  for every token t
    ŷ = σ(w·mean_t X_L,t + b)

Mixing has no weights, and the MLPs of all tokens are two batched matrix products. Fields are cut into tokens in the
order of the data, where the paper groups them by meaning; x_0 is padded with zeros to a multiple of T. The paper's
sparse mixture of experts is left out.

Shapes: B rows, F fields, D embedding width, K real-valued columns, T tokens (of mixed ones also H), E width of a
token, P of a part of it or of a piece of x_0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import pad

from clickherd.layers.mlp import glorot_linear, glorot_stack
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of RankMixer."""

    wide: ClassVar[bool] = False
    name: Literal["rankmixer"] = "rankmixer"
    token_dim: int = Field(64, ge=1, description="width of a token, a multiple of num_tokens")
    num_tokens: int = Field(8, ge=1, validate_default=True)
    num_layers: int = Field(2, ge=1)
    expansion: int = Field(4, ge=1, description="width of a token's hidden layer, in widths of the token")

    @field_validator("num_tokens")
    @classmethod
    def _divides_a_token(cls, num_tokens: int, info: ValidationInfo) -> int:
        width = info.data.get("token_dim", num_tokens)
        if width % num_tokens:
            raise ValueError(f"must divide token_dim, {width}")
        return num_tokens

    def build(self, num_fields: int, num_numeric: int) -> RankMixer:
        """The network."""
        return RankMixer(self, num_fields, num_numeric)


class TokenLinear(nn.Module):
    """A linear layer of its own for every token, as one batched product."""

    def __init__(self, num_tokens: int, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = glorot_stack(num_tokens, num_inputs, num_outputs)
        self.bias = nn.Parameter(torch.zeros(num_tokens, 1, num_outputs))

    def forward(self, x_TBN: Tensor) -> Tensor:
        """Shape (T, B, N) in, (T, B, num_outputs) out."""
        return torch.baddbmm(self.bias, x_TBN, self.weight)


class Block(nn.Module):
    """Token mixing, then the MLP of every token; both with a residual and a layer norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        tokens, width, hidden = config.num_tokens, config.token_dim, config.expansion * config.token_dim
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(TokenLinear(tokens, width, hidden), nn.GELU(), TokenLinear(tokens, hidden, width))

    def forward(self, x_TBE: Tensor) -> Tensor:
        """Shape (T, B, E)."""
        tokens, rows, width = x_TBE.shape
        parts_HBTP = x_TBE.reshape(tokens, rows, tokens, width // tokens).permute(2, 1, 0, 3)
        s_TBE = self.norm(parts_HBTP.flatten(2) + x_TBE)
        out: Tensor = self.norm2(self.mlp(s_TBE) + s_TBE)
        return out


class RankMixer(CTRModel):
    """Blocks over tokens, and a linear layer over the tokens' mean."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width = num_fields * config.embedding_dim + num_numeric
        piece = -(-width // config.num_tokens)
        self.pieces, self.padding = (config.num_tokens, piece), piece * config.num_tokens - width
        self.tokens = TokenLinear(*self.pieces, config.token_dim)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.num_layers)))
        self.head = glorot_linear(config.token_dim, 1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x0_BN = pad(torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1), (0, self.padding))
        pieces_TBP = x0_BN.reshape(-1, *self.pieces).transpose(0, 1)
        x_TBE = self.blocks(self.tokens(pieces_TBP))
        logits_B1: Tensor = self.head(x_TBE.mean(dim=0))
        return logits_B1.squeeze(1)
