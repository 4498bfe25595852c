"""xDeepFM: a compressed interaction network (CIN), an MLP and a linear term, summed.

Lian et al., KDD 2018, https://arxiv.org/abs/1803.05170.

    X^k_h = Σ_i Σ_j W^{k,h}_{ij} (X^{k−1}_i ⊙ X^0_j),  X^0_j = v_j                    (eq. 6)
    p^k_h = Σ_d X^k_{hd}                                                             (eq. 7)
    ŷ = σ(⟨w, x⟩ + w_cin·[p^1, …, p^T] + MLP([v_1, …, v_F]) + b)                     (eq. 9)

As the paper recommends, the CIN has no activation. With the connection `half` of the authors' code, every layer but the
last hands the first half of its maps to the next layer and the other half to the output; with `direct`, as in the
equations, all maps do both.
Real-valued columns enter the MLP and the linear term, not the CIN.

Shapes: B rows, F fields, D embedding width, K real-valued columns, H and M maps of a layer and the next.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from clickherd.layers.interaction import bilinear
from clickherd.layers.linear import NumericLinear
from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of xDeepFM. The paper's 200 maps a layer cost about forty times what 32 do."""

    wide: ClassVar[bool] = True
    name: Literal["xdeepfm"] = "xdeepfm"
    cin_maps: tuple[PositiveInt, ...] = Field((32, 32, 32), min_length=1, description="maps of each layer of the CIN")
    cin_connection: Literal["direct", "half"] = "direct"
    mlp: MLPConfig = MLPConfig()

    @model_validator(mode="after")
    def _halves_are_whole(self) -> Self:
        if self.cin_connection == "half" and any(maps % 2 for maps in self.cin_maps[:-1]):
            raise ValueError(f"the connection 'half' needs even numbers of maps; cin_maps is {list(self.cin_maps)}")
        return self

    def build(self, num_fields: int, num_numeric: int) -> XDeepFM:
        """The network."""
        return XDeepFM(self, num_fields, num_numeric)


class CIN(nn.Module):
    """Eqs. 6 and 7. A row's D columns do not meet, so that a layer is one product over B·D rows."""

    def __init__(self, num_fields: int, maps: tuple[int, ...], *, half: bool) -> None:
        super().__init__()
        handed_on = [count // 2 if half else count for count in maps[:-1]]
        sizes = [(num_fields, count) for count in maps[:1]] + list(zip(handed_on, maps[1:], strict=True))
        self.weights = nn.ParameterList(
            torch.randn(out, inputs, num_fields) * (2 / (inputs * num_fields + out)) ** 0.5 for inputs, out in sizes
        )
        self.handed_on = [*handed_on, 0]
        self.kept_from = [*(handed_on if half else [0] * len(handed_on)), 0]
        self.num_outputs = sum(count - first for count, first in zip(maps, self.kept_from, strict=True))

    def forward(self, rows_BFD: Tensor) -> Tensor:
        """All p^k, shape (B, num_outputs)."""
        x0_BDF = rows_BFD.transpose(1, 2).contiguous()
        x_BDH, sums = x0_BDF, []
        for weight_MHF, handed_on, kept_from in zip(self.weights, self.handed_on, self.kept_from, strict=True):
            x_BDM = bilinear(x_BDH, x0_BDF, weight_MHF)
            sums.append(x_BDM[..., kept_from:].sum(dim=1))
            x_BDH = x_BDM[..., :handed_on]
        return torch.cat(sums, dim=1)


class XDeepFM(CTRModel):
    """A linear term, a CIN and an MLP over shared embeddings, summed."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.linear = NumericLinear(num_numeric, bias=False)
        self.cin = CIN(num_fields, config.cin_maps, half=config.cin_connection == "half")
        self.cin_head = glorot_linear(self.cin.num_outputs, 1, bias=False)
        self.mlp = MLP(num_fields * config.embedding_dim + num_numeric, config.mlp, num_outputs=1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        linear_B: Tensor = wide_B + self.linear(numeric_BK)
        explicit_B1: Tensor = self.cin_head(self.cin(rows_BFD))
        deep_B1: Tensor = self.mlp(torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1))
        return linear_B + (explicit_B1 + deep_B1).squeeze(1)
