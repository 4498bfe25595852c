"""The rows to train on, where the device reads them fastest, in an order that seed and epoch alone decide.

On a GPU the encoded rows lie in device memory if they fit, the order of an epoch is drawn there, and a batch is an
index. Otherwise a batch is gathered on the host and copied through pinned memory, while a GPU works on the one before.

Shapes as in `data.store`; N rows of the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clickherd.data.store import Store
from clickherd.kernels import Bags
from clickherd.network import TensorBatch

SHARE = 0.5  # of the device memory that is free, at most, goes to the rows
CHUNK = 1 << 26  # bytes copied at a time: the store may be larger than host memory


class Epoch(Protocol):
    """The rows of one epoch, in its order."""

    def take(self, start: int, stop: int) -> TensorBatch:
        """Rows [start, stop) of the epoch, in memory of their own."""


class TrainingRows:
    """A store's rows, to be trained on epoch by epoch."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.store, self.device = store, device
        self._resident = DeviceStore.of(store, device) if device.type == "cuda" and fits(store, device) else None

    def epoch(self, seed: int, epoch: int) -> Epoch:
        """The rows in an order that depends on the arguments and the kind of device, not on what fits into it."""
        if self.device.type == "cpu":
            order = np.random.default_rng((seed, epoch)).permutation(len(self.store))
            return HostEpoch(self.store, order, self.device)
        order_N = device_order(seed, epoch, len(self.store), self.device)
        if self._resident is not None:
            return DeviceEpoch(self._resident, order_N)
        return HostEpoch(self.store, order_N.cpu().numpy(), self.device)


class HostEpoch:
    """Batches gathered on the host."""

    def __init__(self, store: Store, order: npt.NDArray[np.int64], device: torch.device) -> None:
        self.store, self.order, self.device = store, order, device

    def take(self, start: int, stop: int) -> TensorBatch:
        """Rows [start, stop) of the order."""
        return TensorBatch.of(self.store.take(self.order[start:stop]), self.device)


@dataclass(frozen=True)
class DeviceStore:
    """Encoded rows in device memory."""

    ids: Tensor  # (N, S) int32
    bags: Bags
    numeric: Tensor  # (N, K)
    labels: Tensor  # (N,)

    @classmethod
    def of(cls, store: Store, device: torch.device) -> DeviceStore:
        """All rows of a store on disk."""
        bags = tuple((loaded(values, device), loaded(offsets, device)) for values, offsets in store.bags)
        return cls(loaded(store.ids, device), bags, loaded(store.numeric, device), loaded(store.labels, device))


class DeviceEpoch:
    """Batches indexed on the device; taking one never waits for it."""

    def __init__(self, store: DeviceStore, order_N: Tensor) -> None:
        self.store, self.order_N = store, order_N
        # How many values a batch's bags hold decides shapes, which the host must know: read here, once an epoch.
        self._ends = [
            torch.cat([offsets.new_zeros(1), (offsets[1:] - offsets[:-1])[order_N].cumsum(0)]).cpu().numpy()
            for _, offsets in store.bags
        ]

    def take(self, start: int, stop: int) -> TensorBatch:
        """Rows [start, stop) of the order."""
        rows_B = self.order_N[start:stop]
        bags = tuple(
            take_bag(values, offsets, rows_B, int(ends[stop] - ends[start]))
            for (values, offsets), ends in zip(self.store.bags, self._ends, strict=True)
        )
        columns = (self.store.ids, self.store.numeric, self.store.labels)
        ids, numeric, labels = (column.index_select(0, rows_B) for column in columns)
        return TensorBatch(ids, bags, numeric, labels)


def take_bag(values: Tensor, offsets: Tensor, rows_B: Tensor, num_values: int) -> tuple[Tensor, Tensor]:
    """The given rows of a ragged column, which hold so many values together, as (values, offsets)."""
    begins_B = offsets[rows_B]
    sizes_B = offsets[rows_B + 1] - begins_B
    ends_B = sizes_B.cumsum(0)
    first = torch.repeat_interleave(begins_B - ends_B + sizes_B, sizes_B, output_size=num_values)
    positions = first + torch.arange(num_values, device=values.device)
    return values[positions], torch.cat([offsets.new_zeros(1), ends_B])


def fits(store: Store, device: torch.device) -> bool:
    """Whether the encoded rows and an epoch's order take no more than their share of the free device memory."""
    columns = (store.ids, store.numeric, store.labels, *(array for bag in store.bags for array in bag))
    order = 8 * len(store) * (4 + len(store.bags))  # with what is needed to draw it
    return sum(column.nbytes for column in columns) + order <= SHARE * torch.cuda.mem_get_info(device)[0]


def device_order(seed: int, epoch: int, num_rows: int, device: torch.device) -> Tensor:
    """A permutation of N rows, drawn on the device."""
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1))
    return torch.randperm(num_rows, generator=generator, device=device)


def loaded(column: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A column in device memory. To a GPU it goes through pinned memory: one chunk is read while one is on its way."""
    dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
    out = torch.empty(column.shape, dtype=dtype, device=device)
    size = max(1, CHUNK * len(column) // max(column.nbytes, 1))
    if device.type == "cpu":
        for start in range(0, len(column), size):
            out[start : start + size] = torch.from_numpy(np.array(column[start : start + size]))
        return out
    staged = [torch.empty((min(size, len(column)), *column.shape[1:]), dtype=dtype, pin_memory=True) for _ in range(2)]
    sent = [torch.cuda.Event() for _ in staged]  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with torch.cuda.device(device):
        for k, start in enumerate(range(0, len(column), size)):
            chunk = column[start : start + size]
            sent[k % 2].synchronize()
            here = staged[k % 2][: len(chunk)]
            np.copyto(here.numpy(), chunk)
            out[start : start + size].copy_(here, non_blocking=True)
            sent[k % 2].record()
    return out
