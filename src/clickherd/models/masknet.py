"""MaskNet: hidden layers multiplied by masks that the row's own embeddings make.

Wang et al., DLP-KDD 2021, https://arxiv.org/abs/2102.07619.

    V = [v_1, …, v_F, x],  V_hidden = [LN_1(v_1), …, LN_F(v_F), x]
    mask(V) = W_2 ReLU(W_1 V + b_1) + b_2                         as wide as what it multiplies
    block(V, h) = ReLU(LN(W (mask(V) ⊙ h)))
    serial:    h_0 = V_hidden, h_{l+1} = block_l(V, h_l);  ŷ = σ(MLP(h_L))
    parallel:  ŷ = σ(MLP([block_1(V, V_hidden), …, block_L(V, V_hidden)]))

Every field has a layer norm of its own. The serial form has no hidden layers above the blocks in the paper, the
parallel one has; here `mlp.hidden_units` gives them for both, none by default. Real-valued columns enter V and V_hidden
as they are: the norm of a single number is nothing.

Shapes: B rows, F fields, D embedding width, K real-valued columns, N = F·D + K, M width of a hidden layer.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of MaskNet."""

    wide: ClassVar[bool] = False
    name: Literal["masknet"] = "masknet"
    structure: Literal["serial", "parallel"] = "serial"
    block_units: tuple[PositiveInt, ...] = Field((400, 400, 400), min_length=1, description="width of each block")
    reduction_ratio: float = Field(1.0, gt=0, description="width of a mask's hidden layer, in widths of the mask")
    dropout: float = Field(0.0, ge=0, lt=1, description="after each block; `mlp.dropout` is for the layers above")
    mlp: MLPConfig = MLPConfig(hidden_units=())

    def build(self, num_fields: int, num_numeric: int) -> MaskNet:
        """The network."""
        return MaskNet(self, num_fields, num_numeric)


class MaskBlock(nn.Module):
    """A linear layer over masked inputs, normalised."""

    def __init__(self, config: Config, num_inputs: int, num_hidden: int, num_units: int) -> None:
        super().__init__()
        mask_units = max(1, int(num_hidden * config.reduction_ratio))
        self.mask = MLP(num_inputs, MLPConfig(hidden_units=(mask_units,)), num_outputs=num_hidden)
        self.linear = glorot_linear(num_hidden, num_units, bias=False)
        self.norm = nn.LayerNorm(num_units)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x_BN: Tensor, hidden_BM: Tensor) -> Tensor:
        """Shape (B, num_units)."""
        out: Tensor = self.dropout(torch.relu(self.norm(self.linear(self.mask(x_BN) * hidden_BM))))
        return out


class MaskNet(CTRModel):
    """Mask blocks one after the other or side by side, and an MLP above them."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width, units = num_fields * config.embedding_dim + num_numeric, config.block_units
        self.serial = config.structure == "serial"
        self.gain_FD = nn.Parameter(torch.ones(num_fields, config.embedding_dim))
        self.bias_FD = nn.Parameter(torch.zeros(num_fields, config.embedding_dim))
        below = (width, *units[:-1]) if self.serial else (width,) * len(units)
        self.blocks = nn.ModuleList(MaskBlock(config, width, *sizes) for sizes in zip(below, units, strict=True))
        self.mlp = MLP(units[-1] if self.serial else sum(units), config.mlp, num_outputs=1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x_BN = torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)
        normed_BFD = nn.functional.layer_norm(rows_BFD, rows_BFD.shape[2:])
        normed_BFD = torch.addcmul(self.bias_FD, normed_BFD, self.gain_FD)
        hidden_BM = torch.cat([normed_BFD.flatten(1), numeric_BK], dim=1)
        if self.serial:
            for block in self.blocks:
                hidden_BM = block(x_BN, hidden_BM)
        else:
            hidden_BM = torch.cat([block(x_BN, hidden_BM) for block in self.blocks], dim=1)
        logits_B1: Tensor = self.mlp(hidden_BM)
        return logits_B1.squeeze(1)
