"""EDCN: cross and deep layers side by side that share what they find after every layer.

Chen et al., CIKM 2021, https://doi.org/10.1145/3459637.3481915.

    a_0 = [v_1, …, v_F, x]
    c_l = softmax(g^c_l / τ) ⊙ a_l,  d_l = softmax(g^d_l / τ) ⊙ a_l                  (regulation: a gate a field)
    c'_l = c_0 (c_l·w_l) + b_l + c_l                                                 (cross layer)
    d'_l = ReLU(W_l d_l + b_l)                                                       (deep layer)
    a_{l+1} = c'_l ⊙ d'_l, or c'_l + d'_l, or ReLU(W [c'_l, d'_l] + b)               (bridge)
    ŷ = σ(w·[c'_L, d'_L, a_L] + b)

The Hadamard product is the bridge that the paper found best; attention pooling is not here. The cross layer is that of
the authors' code; FuxiCTR leaves out its last term (`cross_residual`). The gates sum to one and so shrink what they
gate, F-fold at the start; `batch_norm` restores its scale; without it what
three Hadamard products leave of small embeddings is next to nothing, and so are the gradients.
A real-valued column is a field of width one.

Shapes: B rows, F fields, D embedding width, K real-valued columns, N = F·D + K.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clickherd.layers.mlp import MLP, BatchNorm, MLPConfig, glorot_linear
from clickherd.models.base import CTRModel, ModelConfig


class Config(ModelConfig):
    """Settings of EDCN. Its deep layers are as wide as their input: N units."""

    wide: ClassVar[bool] = False
    name: Literal["edcn"] = "edcn"
    num_layers: int = Field(3, ge=1)
    bridge: Literal["hadamard", "addition", "concatenation"] = "hadamard"
    temperature: float = Field(1.0, gt=0, description="τ of the gates: the higher, the more alike they are")
    cross_residual: bool = True
    dropout: float = Field(0.0, ge=0, lt=1, description="after each deep layer")
    batch_norm: bool = Field(True, description="behind the gates, with the statistics of the micro-batch")

    def build(self, num_fields: int, num_numeric: int) -> EDCN:
        """The network."""
        return EDCN(self, num_fields, num_numeric)


class Regulation(nn.Module):
    """Two sets of gates over the fields, one for the cross layer and one for the deep layer."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        self.num_fields, self.dim, self.temperature = num_fields, config.embedding_dim, config.temperature
        self.gates = nn.Parameter(torch.ones(2, num_fields + num_numeric))
        width = num_fields * config.embedding_dim + num_numeric
        self.norms = nn.ModuleList(BatchNorm(width) if config.batch_norm else nn.Identity() for _ in range(2))

    def forward(self, a_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the cross layer and of the deep layer."""
        fields_2F, numeric_2K = torch.softmax(self.gates / self.temperature, dim=1).tensor_split([self.num_fields], 1)
        gates_2N = torch.cat([fields_2F[..., None].expand(-1, -1, self.dim).flatten(1), numeric_2K], dim=1)
        cross_BN, deep_BN = (norm(a_BN * gates_N) for norm, gates_N in zip(self.norms, gates_2N, strict=True))
        return cross_BN, deep_BN


class Layer(nn.Module):
    """A cross layer, a deep layer and the bridge between them."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.bridge, self.residual = config.bridge, config.cross_residual
        self.cross = glorot_linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.deep = MLP(width, MLPConfig(hidden_units=(width,), dropout=config.dropout))
        join = MLPConfig(hidden_units=(width,))
        self.join = MLP(2 * width, join) if config.bridge == "concatenation" else None

    def forward(self, c0_BN: Tensor, c_BN: Tensor, d_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c', d' and the bridge between them, (B, N) each."""
        c_BN = torch.addcmul(c_BN + self.bias if self.residual else self.bias, c0_BN, self.cross(c_BN))
        d_BN = self.deep(d_BN)
        if self.join is not None:
            return c_BN, d_BN, self.join(torch.cat([c_BN, d_BN], dim=1))
        return c_BN, d_BN, c_BN * d_BN if self.bridge == "hadamard" else c_BN + d_BN


class EDCN(CTRModel):
    """Regulated layers, and an output layer over the last one's three results."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int) -> None:
        super().__init__()
        width, layers = num_fields * config.embedding_dim + num_numeric, range(config.num_layers)
        self.regulations = nn.ModuleList(Regulation(config, num_fields, num_numeric) for _ in layers)
        self.layers = nn.ModuleList(Layer(config, width) for _ in layers)
        self.head = glorot_linear(3 * width, 1)

    def forward(self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor) -> Tensor:
        """Logits, shape (B,)."""
        bridge_BN = torch.cat([rows_BFD.flatten(1), numeric_BK], dim=1)
        c0_BN = outputs = None
        for regulate, layer in zip(self.regulations, self.layers, strict=True):
            c_BN, d_BN = regulate(bridge_BN)
            c0_BN = c_BN if c0_BN is None else c0_BN
            *_, bridge_BN = outputs = layer(c0_BN, c_BN, d_BN)
        assert outputs is not None
        logits_B1: Tensor = self.head(torch.cat(outputs, dim=1))
        return logits_B1.squeeze(1)
