"""Embeddings decoded from shorter rows, by a matrix of each field's own.

Mixed dimensions (Ginart et al., https://arxiv.org/abs/1909.11810) with a mean: e = Bᵀz + μ.

Shapes: B rows, F fields, K numbers of a short row, D embedding width, R fields with short rows, N values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clickherd.layers.sequences import SequenceRows
from clickherd.models.base import CTRModel


class Decoding(nn.Module, ABC):
    """What makes the embeddings that a network reads of the rows of the table."""

    @abstractmethod
    def forward(self, rows_BFK: Tensor) -> Tensor:
        """Embeddings (B, F, D) of the rows of all fields."""

    @abstractmethod
    def decode(self, rows_NK: Tensor, place: int) -> Tensor:
        """Embeddings (N, D) of rows of the field at `place`."""


class Decoder(Decoding):
    """e = Bᵀz + μ, with B (K, D) and μ (D,) of the field's own.

    `dims` has the numbers of each field's rows; None where they are the embedding itself.
    """

    def __init__(self, dims: Sequence[int | None], width: int) -> None:
        super().__init__()
        self.positions = [place for place, dim in enumerate(dims) if dim is not None]
        lengths = [dim for dim in dims if dim is not None]
        self.keeps_some = len(lengths) < len(dims)
        self.row_width = width if self.keeps_some else max(*lengths, 1)
        used_RK = torch.arange(self.row_width) < torch.tensor(lengths).unsqueeze(1)
        rows_RK = torch.zeros(used_RK.shape, dtype=torch.long)
        rows_RK[used_RK] = torch.arange(sum(lengths))
        self.register_buffer("used_RK1", used_RK.unsqueeze(2), persistent=False)
        self.register_buffer("rows_RK", rows_RK, persistent=False)
        self.register_buffer("places_R", torch.tensor(self.positions), persistent=False)
        eyes = [torch.eye(length, width) for length in lengths]
        self.bases_ND = nn.Parameter(torch.cat(eyes))  # one after the other: no row that is not used
        self.mean_RD = nn.Parameter(torch.zeros(len(lengths), width))

    def forward(self, rows_BFK: Tensor) -> Tensor:
        """Embeddings (B, F, D) of the rows of all fields."""
        assert isinstance(self.places_R, Tensor)
        short_RBK = (rows_BFK.index_select(1, self.places_R) if self.keeps_some else rows_BFK).transpose(0, 1)
        decoded_RBD = torch.baddbmm(self.mean_RD.unsqueeze(1), short_RBK, self.bases()).to(rows_BFK.dtype)
        if not self.keeps_some:
            return decoded_RBD.transpose(0, 1).contiguous()
        fields = list(rows_BFK.unbind(1))
        for place, rows_BD in zip(self.positions, decoded_RBD.unbind(0), strict=True):
            fields[place] = rows_BD
        return torch.stack(fields, dim=1)

    def bases(self) -> Tensor:
        """B of each field with short rows, zero beyond their numbers; shape (R, K, D)."""
        assert isinstance(self.used_RK1, Tensor)
        assert isinstance(self.rows_RK, Tensor)
        if not len(self.bases_ND):
            return self.bases_ND.new_zeros(*self.rows_RK.shape, self.bases_ND.shape[1])
        return self.bases_ND[self.rows_RK] * self.used_RK1

    def decode(self, rows_NK: Tensor, place: int) -> Tensor:
        """Embeddings (N, D) of rows of the field at `place`."""
        if place not in self.positions:
            return rows_NK
        own = self.positions.index(place)
        return torch.addmm(self.mean_RD[own], rows_NK, self.bases()[own]).to(rows_NK.dtype)


class DecodedModel(CTRModel):
    """A network whose embeddings are made of the table's rows first."""

    def __init__(self, inner: CTRModel, decoder: Decoding) -> None:
        super().__init__()
        self.inner, self.decoder = inner, decoder

    def forward(
        self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor, sequences: tuple[SequenceRows, ...] = ()
    ) -> Tensor:
        """Logits, shape (B,)."""
        logits_B: Tensor = self.inner(*self._decoded(rows_BFD, wide_B, numeric_BK, *([sequences] if sequences else [])))
        return logits_B

    def branches(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Those of the network."""
        return self.inner.branches(*self._decoded(*inputs))

    def auxiliary_loss(self, logits: Sequence[Tensor], labels_B: Tensor) -> Tensor | None:
        """That of the network."""
        return self.inner.auxiliary_loss(logits, labels_B)

    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """Those of the network."""
        return self.inner.output_biases()

    def l2_terms(self) -> Iterable[tuple[Tensor, float]]:
        """Those of the network."""
        return self.inner.l2_terms()

    def _decoded(self, rows_BFK: Tensor, *others: Any) -> tuple[Any, ...]:
        """The network's inputs: embeddings, also of the values of sequences."""
        if len(others) < 3:
            return (self.decoder(rows_BFK), *others)
        wide_B, numeric_BK, sequences = others
        decoded = tuple(replace(one, rows=self.decoder.decode(one.rows, one.target)) for one in sequences)
        return self.decoder(rows_BFK), wide_B, numeric_BK, decoded
