"""FinalNet: layers whose halves multiply each other, in one block or in two that learn together.

Zhu et al., SIGIR 2023, https://doi.org/10.1145/3539618.3591988, as the authors' code (FuxiCTR) has it.

    [a, b] = W_l x_l + c_l;   x_{l+1} = [a, a ⊙ b]  (residual: concat)  or  a + a ⊙ b  (sum)
    field gate, first block only:  x_0 = [V, (W_g V + b_g) ⊙ V, x],  V = [v_1, …, v_F];  otherwise x_0 = [V, x]
    y_s = w_s·x_L + b_s  for block s
    one block:   ŷ = σ(y_1)
    two blocks:  ŷ = σ((y_1 + y_2) / 2),  loss = BCE(y, ŷ) + Σ_s BCE(ŷ, σ(y_s))

In the second terms of the loss ŷ is a teacher: no gradient flows into it (block-wise knowledge distillation). Degrees
double with every layer; there is no activation in between. Training reports the first term alone.

Shapes: B rows, F fields (also G), D embedding width, K real-valued columns, N width of a block's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.layers.mlp import BatchNorm, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class BlockConfig(BaseModel):
    """Widths and regularisation of a block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_units: tuple[PositiveInt, ...] = Field((400, 400), min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_norm: bool = Field(False, description="as an MLP's, after each layer")


class Config(ModelConfig):
    """Settings of FinalNet; `block2` is for two blocks only."""

    wide: ClassVar[bool] = False
    name: Literal["finalnet"] = "finalnet"
    num_blocks: Literal[1, 2] = 2
    block: BlockConfig = BlockConfig()
    block2: BlockConfig = BlockConfig(hidden_units=(400,))
    residual: Literal["concat", "sum"] = Field("concat", validate_default=True)
    field_gate: bool = True

    @field_validator("residual")
    @classmethod
    def _halves_are_whole(cls, residual: str, info: ValidationInfo) -> str:
        for name in ("block", "block2"):
            units = info.data[name].hidden_units if name in info.data else ()
            if residual == "concat" and any(count % 2 for count in units):
                raise ValueError(f"a layer is two halves, so hidden_units of {name} must be even, not {list(units)}")
        return residual

    def build(self, num_fields: int, num_numeric: int) -> FinalNet:
        """The network."""
        return FinalNet(self, num_fields, num_numeric)


class Interaction(nn.Module):
    """One factorised interaction layer."""

    def __init__(self, num_inputs: int, num_outputs: int, residual: str) -> None:
        super().__init__()
        self.concat = residual == "concat"
        self.linear = glorot_linear(num_inputs, num_outputs if self.concat else 2 * num_outputs)

    def forward(self, x_BN: Tensor) -> Tensor:
        """Shape (B, num_outputs)."""
        a, b = self.linear(x_BN).chunk(2, dim=1)
        return torch.cat([a, a * b], dim=1) if self.concat else torch.addcmul(a, a, b)


def block(num_inputs: int, config: BlockConfig, residual: str) -> nn.Sequential:
    """Interaction → batch norm → dropout, repeated; a linear layer to one logit."""
    layers: list[nn.Module] = []
    width = num_inputs
    for units in config.hidden_units:
        layers.append(Interaction(width, units, residual))
        if config.batch_norm:
            layers.append(BatchNorm(units))
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
        width = units
    return nn.Sequential(*layers, glorot_linear(width, 1))


class FinalNet(CTRModel):
    """One or two blocks of factorised interaction layers."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width, gated = num_fields * config.embedding_dim, config.field_gate
        self.gate_GF = nn.Parameter(torch.zeros(num_fields, num_fields)) if gated else None
        self.gate_bias_G1 = nn.Parameter(torch.ones(num_fields, 1)) if gated else None
        self.block = block((2 if gated else 1) * width + num_numeric, config.block, config.residual)
        self.block2 = block(width + num_numeric, config.block2, config.residual) if config.num_blocks == 2 else None

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        return self.branches(rows_BFD, wide_B, numeric_BK)[0]

    def branches(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> tuple[Tensor, ...]:
        """The logits of the prediction and, of two blocks, of each; (B,) every one."""
        flat_BN = rows_BFD.flatten(1)
        inputs = [flat_BN, numeric_BK]
        if self.gate_GF is not None and self.gate_bias_G1 is not None:
            gates_BGD = torch.matmul(self.gate_GF, rows_BFD) + self.gate_bias_G1
            inputs.insert(1, (gates_BGD * rows_BFD).flatten(1))
        first_B: Tensor = self.block(torch.cat(inputs, dim=1)).squeeze(1)
        if self.block2 is None:
            return (first_B,)
        second_B: Tensor = self.block2(torch.cat([flat_BN, numeric_BK], dim=1)).squeeze(1)
        return (first_B + second_B) / 2, first_B, second_B

    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """Those of the blocks."""
        heads = [block[-1] for block in (self.block, self.block2) if block is not None]
        return tuple(head.bias for head in heads if isinstance(head, nn.Linear))

    def auxiliary_loss(self, logits: Sequence[Tensor], labels_B: Tensor) -> Tensor | None:
        """Σ over rows and blocks of BCE(ŷ, σ(y_s)); none for one block."""
        if len(logits) == 1:
            return None
        teacher_B = torch.sigmoid(logits[0].detach())
        first, second = (binary_cross_entropy_with_logits(y_B, teacher_B, reduction="sum") for y_B in logits[1:])
        return first + second
