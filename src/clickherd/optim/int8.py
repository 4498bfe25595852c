"""A table that is held in few bits while it is trained: low-precision training, with a scale for each row.

Xu et al., "Agile and Accurate CTR Prediction Model Training for Massive-Scale Online Advertising Systems", SIGMOD 2021
(low-precision training with stochastic rounding); Li et al., AAAI 2023, https://arxiv.org/abs/2212.05735 (ALPT), which
also learns the scales; here a row's scale is that of its largest number:

    Δ_i = max_d |w_id| / 127,    q_id = ⌊w_id / Δ_i + u⌋,    u ~ U(0, 1):  E[q_id Δ_i] = w_id

The rows that a batch touches are unpacked into a small table of their own, updated there by CowClip and Adam as any,
and packed again; once training has begun, nothing of the size of the whole table is held in 32 bits but the linear
weights and the step that each row has made. Adam's first
moment is held as the weights are, the second in bfloat16 with stochastic rounding, the average of the weights in
float16: six bytes a number, and one in a copy for scoring, in the place of twenty, gradients included.

Shapes: V ids, D numbers of a row, n rows that a batch touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clickherd.kernels import Bags
from clickherd.layers.embedding import EmbeddingTable
from clickherd.optim.cowclip import CowClip, CowClipConfig
from clickherd.optim.scaling import Hyperparameters

MOST = 127
CHUNK = 1 << 18  # rows that are unpacked at a time, where all are
HALF_BITS = 16  # that bfloat16 leaves off


@dataclass
class Int8Rows:
    """Rows (V, D) as whole numbers `codes` int8 with scales (V,) float16."""

    codes: Tensor
    scales: Tensor

    @classmethod
    def zeros(cls, num_rows: int, dim: int, device: torch.device) -> Int8Rows:
        """All zero."""
        codes = torch.zeros(num_rows, dim, dtype=torch.int8, device=device)
        return cls(codes, torch.zeros(num_rows, dtype=torch.float16, device=device))

    def read(self, rows: Tensor | slice) -> Tensor:
        """Numbers in 32 bits, shape (n, D)."""
        return self.codes[rows] * self.scales[rows].float().unsqueeze(1)

    def write(self, rows: Tensor | slice, numbers_nD: Tensor) -> None:
        """Take numbers over, rounded up or down at random, so that they are themselves on average."""
        if not numbers_nD.shape[1]:
            return
        largest_n = numbers_nD.abs().amax(dim=1)
        scale_n = (largest_n / MOST).half()
        scale_n = torch.where(scale_n.float() * MOST < largest_n, torch.nextafter(scale_n, scale_n + 1), scale_n)
        divisor_n1 = torch.where(scale_n > 0, scale_n, torch.ones_like(scale_n)).float().unsqueeze(1)
        steps_nD = numbers_nD / divisor_n1
        whole_nD = (steps_nD + torch.rand_like(steps_nD)).floor_().clamp_(-MOST, MOST)
        self.codes[rows] = torch.where(scale_n.unsqueeze(1) > 0, whole_nD, torch.zeros_like(whole_nD)).to(torch.int8)
        self.scales[rows] = scale_n


def to_bf16(numbers: Tensor) -> Tensor:
    """Numbers in bfloat16, rounded up or down at random; finite ones only."""
    bits = numbers.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 1 << HALF_BITS)
    return ((bits + noise) >> HALF_BITS).to(torch.int16).view(torch.bfloat16)


class Int8CowClip(CowClip):
    """The optimiser of a table in few bits. Between two batches `table.weight` is empty."""

    def __init__(self, table: EmbeddingTable, config: CowClipConfig, lag: int) -> None:
        self.table, self.config, self.lag, self.num_steps = table, config, lag, 0
        self.wide = int(table.wide)
        weight_VW = table.weight
        (num_rows, width), device = weight_VW.shape, weight_VW.device
        self.rows = Int8Rows.zeros(num_rows, width - self.wide, device)
        self.mean = Int8Rows.zeros(num_rows, width - self.wide, device)
        self.square = torch.zeros(num_rows, width - self.wide, dtype=torch.bfloat16, device=device)
        self.linear = torch.zeros(3, num_rows if self.wide else 0, device=device)  # weight and both moments
        self.steps_V = torch.zeros(num_rows, dtype=torch.int32, device=device)  # that each row has made
        for part in self.chunks():
            self.rows.write(part, weight_VW[part, self.wide :])
        if self.wide:
            self.linear[0] = weight_VW[:, 0]
        self._missed = []
        self._open: Tensor | None = None  # the ids whose rows are unpacked
        self._close()

    def chunks(self) -> Iterator[slice]:
        """All rows, some at a time."""
        for start in range(0, len(self.steps_V), CHUNK):
            yield slice(start, min(start + CHUNK, len(self.steps_V)))

    def touch(self, ids_BS: Tensor, bags: Bags) -> tuple[Tensor, Bags]:
        """Unpack the rows of a batch, and bring them up to date; returns the batch with its ids in that small table."""
        flat = [ids_BS.flatten(), *(values for values, _ in bags)]
        ids_n, places = torch.unique(torch.cat(flat), return_inverse=True)
        parts = places.int().split([len(part) for part in flat])
        self._unpack(ids_n.long())
        self._open = ids_n.long()
        return parts[0].view(ids_BS.shape), tuple((p, o) for p, (_, o) in zip(parts[1:], bags, strict=True))

    def _unpack(self, rows: Tensor | slice) -> None:
        """Hold these rows in 32 bits, up to date."""
        first = [self.linear[0][rows].unsqueeze(1)] if self.wide else []
        moments = [[moment[rows].unsqueeze(1)] if self.wide else [] for moment in self.linear[1:]]
        self.table.weight = torch.cat([*first, self.rows.read(rows)], dim=1)
        self.exp_avg_VW = torch.cat([*moments[0], self.mean.read(rows)], dim=1)
        self.exp_avg_sq_VW = torch.cat([*moments[1], self.square[rows].float()], dim=1)
        self._current_V = self.steps_V[rows]
        if self._missed:
            self.table.kernels.catch_up(*self._table(), self._current_V, None, self._missed)
        self.grad_VW = torch.zeros_like(self.table.weight)
        self.counts_V = torch.zeros_like(self._current_V)

    def _pack(self, rows: Tensor | slice) -> None:
        """Take the unpacked rows back."""
        for k, tensor in enumerate(self._table() if self.wide else ()):
            self.linear[k][rows] = tensor[:, 0]
        self.rows.write(rows, self.table.weight[:, self.wide :])
        self.mean.write(rows, self.exp_avg_VW[:, self.wide :])
        self.square[rows] = to_bf16(self.exp_avg_sq_VW[:, self.wide :])
        self.steps_V[rows] = self.num_steps
        self._close()

    def _close(self) -> None:
        width = self.rows.codes.shape[1] + self.wide
        nothing = torch.empty(0, width, device=self.steps_V.device)
        self.table.weight = self.exp_avg_VW = self.exp_avg_sq_VW = self.grad_VW = nothing
        self._open = None

    def step(self, hyper: Hyperparameters) -> Tensor:
        """Clip, decay and update the rows of the batch; returns the numbers of rows touched and clipped, shape (2,)."""
        assert self._open is not None
        rows, adam = self._open, self._adam(hyper)
        gradients = (self.grad_VW, self.counts_V)
        tally = self.table.kernels.cowclip_adam(*self._table(), *gradients, self.table.wide, adam)
        self._pack(rows)
        if not self.config.touched_only:
            self._missed.append(adam)
            if len(self._missed) >= self.lag:
                self.settle()
        return tally

    def settle(self) -> None:
        """Bring every row up to date."""
        if self._missed:
            for part in self.chunks():
                self._unpack(part)
                self._pack(part)
        self._missed.clear()

    def tensors(self) -> dict[str, Tensor]:
        """The state between two batches, for a checkpoint."""
        self.settle()
        return {
            "codes": self.rows.codes,
            "scales": self.rows.scales,
            "mean.codes": self.mean.codes,
            "mean.scales": self.mean.scales,
            "square": self.square.view(torch.int16),
            "linear": self.linear,
        }

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
        self.num_steps = num_steps
        self.steps_V.fill_(num_steps)
