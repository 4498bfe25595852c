"""FinalMLP: two MLPs over differently gated inputs, fused by a bilinear form.

Mao et al., AAAI 2023, https://arxiv.org/abs/2304.00902.

    g_s = 2σ(MLP_gate,s(c_s)),  x_s = g_s ⊙ x_0,  x_0 = [v_1, …, v_F, x],  s = 1, 2        feature selection
    o_s = MLP_s(x_s)
    ŷ = σ(w_1·o_1 + w_2·o_2 + b + Σ_h o_{1,h}ᵀ W_h o_{2,h})                               fusion, heads h

c_s is a learned vector, the same for every row, or embeddings of the fields that `context` (of the first stream) and
`context2` name. Those embeddings are not the v_f: with contexts a row of the table is 2·D wide, and its second half is
used by context fields only. A field in both contexts has one such embedding, where the authors' code has two.

The learned vector starts at random. At zero, where the authors' code starts it, the gate's ReLUs pass no gradient to
anything below them, for ever: such a gate learns its last bias only.

Shapes: B rows, F fields, D embedding width, W row width (D or 2·D), K real-valued columns, N = F·D + K, H heads of
I and J units, C width of a context.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from torch import Tensor, nn

from clickherd.errors import ConfigError, did_you_mean
from clickherd.layers.mlp import MLP, MLPConfig, glorot_linear, glorot_stack
from clickherd.models.base import CTRModel, ModelConfig

GATE_BIAS_STD = 1e-2


class Config(ModelConfig):
    """Settings of FinalMLP. `mlp` and `context` are the first stream's, `mlp2` and `context2` the second's."""

    wide: ClassVar[bool] = False
    name: Literal["finalmlp"] = "finalmlp"
    mlp: MLPConfig = MLPConfig()
    mlp2: MLPConfig = MLPConfig(hidden_units=(400,))
    num_heads: int = Field(2, ge=1, validate_default=True, description="heads of the bilinear fusion")
    context: tuple[str, ...] = Field((), description="fields whose own context embeddings make the gate")
    context2: tuple[str, ...] = ()
    gate_units: tuple[PositiveInt, ...] = Field((400,), description="hidden layers of a gate")
    feature_selection: bool = Field(True, description="without it both streams read x_0 as it is")

    @field_validator("num_heads")
    @classmethod
    def _divides_both_streams(cls, num_heads: int, info: ValidationInfo) -> int:
        for stream in ("mlp", "mlp2"):
            units = info.data[stream].hidden_units if stream in info.data else (num_heads,)
            if not units or units[-1] % num_heads:
                raise ValueError(f"must divide the width of the last hidden layer of {stream}, {list(units)}")
        return num_heads

    @property
    def row_width(self) -> int:
        """D, and as much again for the embeddings of contexts."""
        return self.embedding_dim * (2 if self.feature_selection and (self.context or self.context2) else 1)

    def build(self, num_fields: int, num_numeric: int) -> FinalMLP:
        """The network for fields that go by their positions: "0", "1", …"""
        return self.build_for(tuple(map(str, range(num_fields))), num_numeric)

    def check_fields(self, field_names: tuple[str, ...]) -> None:
        """Whether contexts name fields.

        Raises:
            ConfigError: one does not.
        """
        for name in (*self.context, *self.context2):
            if name not in field_names:
                setting = "model.context" if name in self.context else "model.context2"
                raise ConfigError(f"{setting}: no field is called {name!r}", mend=did_you_mean(name, field_names))

    def build_for(self, field_names: tuple[str, ...], num_numeric: int) -> FinalMLP:
        """The network."""
        self.check_fields(field_names)
        positions = [tuple(map(field_names.index, names)) for names in (self.context, self.context2)]
        return FinalMLP(self, len(field_names), num_numeric, positions)


class Gate(nn.Module):
    """Weights in (0, 2) for the N inputs, from the embeddings of some fields or, without any, from a learned vector."""

    def __init__(self, config: Config, fields: tuple[int, ...], num_inputs: int) -> None:
        super().__init__()
        self.fields, self.embedding_dim = fields, config.embedding_dim
        self.bias_1D = None if fields else nn.Parameter(GATE_BIAS_STD * torch.randn(1, config.embedding_dim))
        gate = MLPConfig(hidden_units=config.gate_units)
        self.mlp = MLP(max(1, len(fields)) * config.embedding_dim, gate, num_outputs=num_inputs)

    def forward(self, rows_BFW: Tensor) -> Tensor:
        """Shape (B, N), or (1, N) if every row has the same."""
        if self.bias_1D is not None:
            return 2 * torch.sigmoid(self.mlp(self.bias_1D))
        context_BC = torch.cat([rows_BFW[:, field, self.embedding_dim :] for field in self.fields], dim=1)
        return 2 * torch.sigmoid(self.mlp(context_BC))


class FinalMLP(CTRModel):
    """Two gated MLPs, fused."""

    def __init__(
        self, config: Config, num_fields: int, num_numeric: int, contexts: list[tuple[int, ...]] | None = None
    ) -> None:
        super().__init__()
        self.embedding_dim = config.embedding_dim
        width = num_fields * config.embedding_dim + num_numeric
        self.streams = nn.ModuleList(MLP(width, mlp) for mlp in (config.mlp, config.mlp2))
        gates = [Gate(config, fields, width) for fields in contexts or [(), ()]] if config.feature_selection else []
        self.gates = nn.ModuleList(gates)
        units, units2 = config.mlp.hidden_units[-1], config.mlp2.hidden_units[-1]
        self.head, self.head2 = glorot_linear(units, 1), glorot_linear(units2, 1, bias=False)
        self.fusion_HIJ = glorot_stack(config.num_heads, units // config.num_heads, units2 // config.num_heads)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        x_BN = torch.cat([rows_BFD[:, :, : self.embedding_dim].flatten(1), numeric_BK], dim=1)
        inputs = [gate(rows_BFD) * x_BN for gate in self.gates] or [x_BN, x_BN]
        first_BI, second_BJ = (mlp(x) for mlp, x in zip(self.streams, inputs, strict=True))
        heads, units, units2 = self.fusion_HIJ.shape
        first_BHI, second_BHJ = first_BI.unflatten(1, (heads, units)), second_BJ.unflatten(1, (heads, units2))
        products_BHJ = torch.einsum("bhi,hij->bhj", first_BHI, self.fusion_HIJ) * second_BHJ
        linear_B1: Tensor = self.head(first_BI) + self.head2(second_BJ)
        logits_B: Tensor = linear_B1.squeeze(1) + products_BHJ.sum(dim=(1, 2))
        return logits_B
