"""The average of weights of which the table is held in 8 bits; see `optim.averaging` and `optim.int8`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from clickherd.compact.packing import quantise
from clickherd.network import ClickModel
from clickherd.optim.averaging import WeightAverage
from clickherd.optim.int8 import Int8CowClip, Int8Rows


class Int8Average:
    """The averages of the rows, in 16 bits, and of the network's weights. They are scored as they are kept: in 8 bits.

    Shapes: V ids, D numbers of a row.
    """

    def __init__(self, embedding: Int8CowClip, model: ClickModel, eta: float) -> None:
        self.embedding, self.model, self.eta = embedding, model, eta
        net = {name: tensor for name, tensor in model.tensors().items() if name.startswith("net.")}
        self.net = WeightAverage(net, eta)
        self.rows_VD = torch.zeros_like(embedding.rows.codes, dtype=torch.float16)
        self.linear_V = torch.zeros_like(embedding.linear[0])

    def update(self, k: int) -> None:
        """Take in the weights as they are, for the `k`-th time, counted from 1."""
        share = (self.eta + 1) / (k + self.eta)
        for part in self.embedding.chunks():
            self.rows_VD[part] = self.rows_VD[part].float().lerp_(self.embedding.rows.read(part), share).half()
        self.linear_V.lerp_(self.embedding.linear[0], share)
        self.net.update(k)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand where the weights stood, until the end of the block."""
        num_rows, dim = self.rows_VD.shape
        rows = Int8Rows.zeros(num_rows, dim, self.rows_VD.device)
        for part in self.embedding.chunks():
            rows.codes[part], rows.scales[part] = quantise(self.rows_VD[part].float(), 8)
        self.model.hold(rows.codes, rows.scales, self.linear_V)
        try:
            with self.net.in_place():
                yield
        finally:
            self.model.hold(self.embedding.rows.codes, self.embedding.rows.scales, self.embedding.linear[0])

    def tensors(self) -> dict[str, Tensor]:
        """The averages, for a checkpoint."""
        return {"rows": self.rows_VD, "linear": self.linear_V} | self.net.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.rows_VD.copy_(tensors["rows"])
        self.linear_V.copy_(tensors["linear"])
        self.net.load_tensors(tensors)
