"""The numba twins. Results do not depend on the number of threads: each id belongs to one field, each field to one
thread, and rows are added in order. The update of the table is in `cpu_update`.

`gather` stays in the thread that calls it: micro-batches are gathered side by side (see `workers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from clickherd.kernels.cpu_update import adam_span, catch_up, cowclip_adam, cowclip_adam_rows
from clickherd.kernels.reference import relu_backward
from clickherd.threads import share_out

if TYPE_CHECKING:
    from clickherd.kernels import AdamStep, Bags, PackedRows

__all__ = [
    "adam",
    "catch_up",
    "cowclip_adam",
    "cowclip_adam_rows",
    "gather",
    "gather_packed",
    "relu_backward",
    "scatter_add",
]

Array = npt.NDArray[Any]

# error_model="numpy": Python's check for a zero divisor would keep the loops from being vectorised.
_jit = njit(cache=True, nogil=True, error_model="numpy")

CHUNK = 8192  # weights of a network that are worth a thread of their own
HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)  # numba has no float16 on a CPU


def gather(weight_VW: Tensor, ids_BS: Tensor, bags: Bags, wide: bool) -> tuple[Tensor, Tensor]:
    """Rows (B, F, D) and summed linear weights (B,)."""
    num_rows, num_single = ids_BS.shape
    first = int(wide)
    rows_BFD = torch.empty(num_rows, num_single + len(bags), weight_VW.shape[1] - first)
    wide_B = torch.zeros(num_rows)
    weight, rows, linear = weight_VW.numpy(), rows_BFD.numpy(), wide_B.numpy()
    _gather(weight, ids_BS.numpy(), rows, linear, first)
    for j, (values, offsets) in enumerate(bags):
        _gather_bag(weight, values.numpy(), offsets.numpy(), rows, linear, num_single + j, first)
    return rows_BFD, wide_B


def gather_packed(packed: PackedRows, places: Sequence[int], ids_BS: Tensor, bags: Bags) -> tuple[Tensor, Tensor]:
    """Rows (B, F, D) and summed linear weights (B,), from packed rows."""
    num_rows, num_single = ids_BS.shape
    rows_BFD = torch.empty(num_rows, len(places), packed.width)
    wide_B = torch.zeros(num_rows)
    rows, linear, ids = rows_BFD.numpy(), wide_B.numpy(), ids_BS.numpy()
    codes, scales, weights = packed.codes.numpy(), packed.scales.numpy(), packed.linear.numpy()
    views = (codes, *(codes.view(kind) for kind in (np.int8, np.uint16, np.float32)))
    tables = (*views, scales.view(np.uint16), weights.view(np.uint16), HALVES)
    every = np.arange(num_rows + 1)
    for column, place in enumerate(places):
        field = packed.fields[place]
        values, offsets = ids[:, column : column + 1], every
        if column >= num_single:
            values, offsets = (part.numpy() for part in bags[column - num_single])
        values = values.reshape(-1)
        where = field.offset, field.start, field.dim, field.bits, field.scale
        decoder = field.decoded, packed.basis[place].numpy(), packed.mean[place].numpy()
        _gather_packed(rows, linear, column, values, offsets, *where, *tables, *decoder)
    return rows_BFD, wide_B


def scatter_add(
    grad_VW: Tensor,
    counts_V: Tensor,
    ids_BS: Tensor,
    bags: Bags,
    grad_rows_BFD: Tensor,
    grad_wide_B: Tensor | None,
    *,
    shared: bool = False,
) -> None:
    """Gradients and occurrences per id, added in place."""
    wide = grad_wide_B is not None
    grad, counts, grad_rows = grad_VW.numpy(), counts_V.numpy(), grad_rows_BFD.contiguous().numpy()
    grad_wide = grad_wide_B.contiguous().numpy() if grad_wide_B is not None else np.empty(0, np.float32)
    ids, num_single = ids_BS.numpy(), ids_BS.shape[1]

    def add(first: int, last: int) -> None:
        _scatter_add(grad, counts, ids, first, last, grad_rows, grad_wide, wide)

    if shared:
        add(0, num_single)
    else:
        share_out(add, num_single)  # no two threads write the same row
    for j, (values, offsets) in enumerate(bags):
        _scatter_add_bag(grad, counts, values.numpy(), offsets.numpy(), grad_rows, grad_wide, num_single + j, wide)


def adam(
    weights: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    grads: list[Tensor],
    step: AdamStep,
) -> None:
    """The update of the network's weights, in place."""
    constants = step.corrected_rate, 0.0, step.beta1, 1 - step.beta1, step.beta2, 1 - step.beta2, step.epsilon
    scalars = tuple(map(np.float32, constants))
    for tensors in zip(weights, exp_avgs, exp_avg_sqs, grads, strict=True):
        flat = [tensor.numpy().reshape(-1) for tensor in tensors]
        share_out(partial(_adam, flat, scalars), len(flat[0]), CHUNK)


def _adam(flat: list[Array], scalars: tuple[np.float32, ...], first: int, last: int) -> None:
    adam_span(*flat, first, last, True, *scalars)


@_jit
def _gather(weight: Array, ids: Array, rows: Array, linear: Array, first: int) -> None:
    num_rows, num_fields = ids.shape
    width = weight.shape[1]
    for b in range(num_rows):
        total = np.float32(0.0)
        for f in range(num_fields):
            i = ids[b, f]
            if first:
                total += weight[i, 0]
            for d in range(first, width):
                rows[b, f, d - first] = weight[i, d]
        linear[b] = total


@_jit
def _gather_bag(
    weight: Array, values: Array, offsets: Array, rows: Array, linear: Array, field: int, first: int
) -> None:
    width = weight.shape[1]
    for b in range(len(offsets) - 1):
        share = np.float32(1.0) / np.float32(offsets[b + 1] - offsets[b])
        for d in range(first, width):
            rows[b, field, d - first] = 0.0
        for k in range(offsets[b], offsets[b + 1]):
            i = values[k]
            if first:
                linear[b] += share * weight[i, 0]
            for d in range(first, width):
                rows[b, field, d - first] += share * weight[i, d]


@_jit
def _gather_packed(
    rows: Array,
    linear: Array,
    column: int,
    values: Array,
    offsets: Array,
    offset: int,
    start: int,
    dim: int,
    bits: int,
    scale: int,
    bytes_: Array,
    chars: Array,
    halves: Array,
    floats: Array,
    scales: Array,
    weights: Array,
    half: Array,
    decoded: bool,
    basis: Array,
    mean: Array,
) -> None:
    num_rows, _, width = rows.shape
    z = np.empty(max(dim, 1), np.float32)
    wide = len(weights) > 0
    row_bytes = (dim * bits + 7) // 8
    for b in range(num_rows):
        share = np.float32(1.0) / np.float32(offsets[b + 1] - offsets[b])
        for d in range(dim):
            z[d] = 0.0
        for k in range(offsets[b], offsets[b + 1]):
            i = values[k]
            local = i - offset
            begin = start + local * row_bytes
            if wide:
                linear[b] += share * half[weights[i]]
            if dim == 0:
                continue
            factor = share if bits >= 16 else share * half[scales[scale + local]]
            if bits == 8:
                for d in range(dim):
                    z[d] += factor * np.float32(chars[begin + d])
            elif bits == 4:
                for d in range(dim):
                    nibble = np.int32(bytes_[begin + d // 2] >> (4 * (d & 1))) & 15
                    z[d] += factor * np.float32(nibble - 8)
            elif bits == 16:
                for d in range(dim):
                    z[d] += factor * half[halves[begin // 2 + d]]
            else:
                for d in range(dim):
                    z[d] += factor * floats[begin // 4 + d]
        if decoded:
            for j in range(width):
                rows[b, column, j] = mean[j]
            for d in range(dim):
                for j in range(width):
                    rows[b, column, j] += z[d] * basis[d, j]
        else:
            for j in range(width):
                rows[b, column, j] = z[j]


@_jit
def _scatter_add(
    grad: Array,
    counts: Array,
    ids: Array,
    first_field: int,
    last_field: int,
    grad_rows: Array,
    grad_wide: Array,
    wide: bool,
) -> None:
    first = 1 if wide else 0
    width = grad.shape[1]
    for f in range(first_field, last_field):
        for b in range(len(ids)):
            i = ids[b, f]
            counts[i] += 1
            if wide:
                grad[i, 0] += grad_wide[b]
            for d in range(first, width):
                grad[i, d] += grad_rows[b, f, d - first]


@_jit
def _scatter_add_bag(
    grad: Array,
    counts: Array,
    values: Array,
    offsets: Array,
    grad_rows: Array,
    grad_wide: Array,
    field: int,
    wide: bool,
) -> None:
    first = 1 if wide else 0
    width = grad.shape[1]
    for b in range(len(offsets) - 1):
        share = np.float32(1.0) / np.float32(offsets[b + 1] - offsets[b])
        for k in range(offsets[b], offsets[b + 1]):
            i = values[k]
            counts[i] += 1
            if wide:
                grad[i, 0] += share * grad_wide[b]
            for d in range(first, width):
                grad[i, d] += share * grad_rows[b, field, d - first]
