"""Gates over fields: one binary gate for each column, or an ensemble of them, learned with the model.

After the abstract of https://arxiv.org/abs/2112.03487: one layer of differentiable binary gates explores too little, an
ensemble of layers more. The equations are ours. Gate b_kf of layer k and field f is open where its number is
positive, and has the slope of the sigmoid on the way back:

    b_kf = 1[θ_kf > 0],    o_f = 1/K Σ_k b_kf,    ∂b_kf/∂θ_kf := σ(θ_kf)(1 − σ(θ_kf))
    L = 1/N Σ_n BCE_n + ρ/N Σ_f o_f                                          ρ: nats that a field has to be worth

With K = 1 a closed field gives the model nothing, its rows learn nothing and the gate has little reason to open again;
among K gates some of it is left as long as one is open. What a closed gate leaves is the field's "unknown" row, as in
`optfs`; the layers start at θ ~ N(½, ¼²), so that they differ.

Shapes: V ids, W columns of the table, K layers, G fields with a gate.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from clickherd.data.store import UNKNOWN, Layout
from clickherd.layers.embedding import EmbeddingTable
from clickherd.selection.optfs import GatedTable, GateSettings

MEAN, SPREAD = 0.5, 0.25  # of the gates' numbers at the start


class FieldGatesConfig(GateSettings):
    """Settings of the search; `final_temperature` has no part in it."""

    penalty: float = 20.0  # ρ
    layers: int = 8  # K


class FieldGatedTable(GatedTable):
    """A table whose rows reach the model through the gates of their field."""

    def __init__(self, table: EmbeddingTable, layout: Layout, gated: Collection[str], layers: int) -> None:
        self.fields = [field for field in layout.fields if field.name in gated]
        device = table.weight.device
        self.field_V = torch.zeros(len(table.weight), dtype=torch.long, device=device)
        for number, field in enumerate(self.fields):
            self.field_V[field.offset : field.offset + field.size] = number
        started_KG = torch.full((layers, len(self.fields)), MEAN, device=device)
        started_KG += SPREAD * torch.randn(started_KG.shape).to(device) * (layers > 1)
        super().__init__(table, layout, gated, MEAN, "unknown", gates=started_KG)
        self.initial = 1.0
        for field in layout.fields:  # without the field, its "missing" tells nothing either
            if field.name in gated:
                self.is_gated_V[field.offset : field.offset + field.size] = True
                self.is_gated_V[field.offset + UNKNOWN] = False
        self.refresh()

    def open_fields(self) -> Tensor:
        """o_f, the share of its gates that are open, shape (G,)."""
        return (self.gates > 0).float().mean(dim=0)

    def openness(self) -> Tensor:
        """How open the way of each id is, shape (V,); 1 where there is no gate."""
        return torch.where(self.is_gated_V, self.open_fields()[self.field_V], 1.0)

    @property
    def kept(self) -> Tensor:
        """Which ids have an open gate, shape (V,)."""
        return self.openness() > 0

    def gate_gradient(self, of_open_V: Tensor, l0: float) -> Tensor:
        """That of all layers' gates, shape (K, G)."""
        sums_G = torch.zeros_like(self.gates[0])
        sums_G.index_add_(0, self.field_V, of_open_V * self.is_gated_V)
        shares = self.gates.sigmoid()
        return (sums_G + l0) * shares * (1 - shares) / len(self.gates)
