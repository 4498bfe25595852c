"""The numba twins. Results do not depend on the number of threads: each id belongs to one field, each field to one
thread, and rows are added in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

if TYPE_CHECKING:
    from clickherd.kernels import AdamStep, Bags

Array = npt.NDArray[Any]

# error_model="numpy": Python's check for a zero divisor would keep the loops from being vectorised.
_jit = njit(cache=True, parallel=True, error_model="numpy")
_jit_serial = njit(cache=True, error_model="numpy")

BLOCK = 32  # rows of the table updated together; blocks that no id touched skip the gradient
# Below these a value is taken for zero: rows that decay to nothing would otherwise end as subnormal numbers, which
# many CPUs handle a hundred times slower. ε is 1e-7, so a gradient of 1e-17 moves a weight by less than rounding.
TINY, TINY_GRADIENT, TINY_SQUARE = np.float32(1e-30), np.float32(1e-17), np.float32(1e-36)


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


def scatter_add(
    grad_VW: Tensor,
    counts_V: Tensor,
    ids_BS: Tensor,
    bags: Bags,
    grad_rows_BFD: Tensor,
    grad_wide_B: Tensor | None,
) -> None:
    """Gradients and occurrences per id, added in place."""
    wide = grad_wide_B is not None
    grad, counts, grad_rows = grad_VW.numpy(), counts_V.numpy(), grad_rows_BFD.contiguous().numpy()
    grad_wide = grad_wide_B.contiguous().numpy() if grad_wide_B is not None else np.empty(0, np.float32)
    num_single = ids_BS.shape[1]
    _scatter_add(grad, counts, ids_BS.numpy(), grad_rows, grad_wide, wide)
    for j, (values, offsets) in enumerate(bags):
        _scatter_add_bag(grad, counts, values.numpy(), offsets.numpy(), grad_rows, grad_wide, num_single + j, wide)


def cowclip_adam(
    weight_VW: Tensor,
    exp_avg_VW: Tensor,
    exp_avg_sq_VW: Tensor,
    grad_VW: Tensor,
    counts_V: Tensor,
    wide: bool,
    adam: AdamStep,
) -> tuple[int, int]:
    """CowClip and Adam in one pass over the table; see `reference.cowclip_adam` for the equations."""
    f32 = np.float32
    num_ids, width = weight_VW.shape
    dim = width - int(wide)
    threads = numba.get_num_threads()
    touched, clipped = (
        np.zeros(threads * 8, np.int64),
        np.zeros(threads * 8, np.int64),
    )  # 8: a cache line apart
    _cowclip_adam(
        weight_VW.numpy().reshape(-1),
        exp_avg_VW.numpy().reshape(-1),
        exp_avg_sq_VW.numpy().reshape(-1),
        grad_VW.numpy().reshape(-1),
        counts_V.numpy(),
        num_ids,
        width,
        int(wide),
        f32(adam.corrected_rate),
        f32(2 * adam.l2),
        f32(adam.clip if dim else math.inf),
        f32(adam.clip * math.sqrt(dim) * adam.zeta if math.isfinite(adam.clip) else 0.0),
        f32(adam.beta1),
        f32(adam.beta2),
        f32(adam.epsilon),
        adam.touched_only,
        touched,
        clipped,
    )
    return int(touched.sum()), int(clipped.sum())


@_jit
def _gather(weight: Array, ids: Array, rows: Array, linear: Array, first: int) -> None:
    num_rows, num_fields = ids.shape
    width = weight.shape[1]
    for b in prange(num_rows):
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
    for b in prange(len(offsets) - 1):
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
def _scatter_add(grad: Array, counts: Array, ids: Array, grad_rows: Array, grad_wide: Array, wide: bool) -> None:
    num_rows, num_fields = ids.shape
    first = 1 if wide else 0
    width = grad.shape[1]
    for f in prange(num_fields):  # fields own disjoint ids: no two threads write the same row
        for b in range(num_rows):
            i = ids[b, f]
            counts[i] += 1
            if wide:
                grad[i, 0] += grad_wide[b]
            for d in range(first, width):
                grad[i, d] += grad_rows[b, f, d - first]


@_jit_serial
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


@_jit_serial
def _clip_row(
    weight: Array, grad: Array, begin: int, end: int, count: int, l2: float, clip: float, floor: float
) -> bool:
    """Scale one row's gradient, L2 included, down to its threshold. The caller adds the L2 part again."""
    weight_square = np.float32(0.0)
    grad_square = np.float32(0.0)
    for j in range(begin, end):
        weight_square += weight[j] * weight[j]
        g = grad[j] + l2 * weight[j]
        grad_square += g * g
    threshold = np.float32(count) * clip * max(np.sqrt(weight_square), floor)
    norm = np.sqrt(grad_square)
    if norm <= threshold:
        return False
    scale = threshold / norm
    for j in range(begin, end):
        grad[j] = scale * (grad[j] + l2 * weight[j]) - l2 * weight[j]
    return True


@_jit_serial
def _adam_span(
    weight: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    grad: Array,
    begin: int,
    end: int,
    has_grad: bool,
    rate: float,
    l2: float,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """Adam over a contiguous span of elements."""
    one, zero = np.float32(1.0), np.float32(0.0)
    for j in range(begin, end):
        w = weight[j]
        g = l2 * w
        if has_grad:
            g += grad[j]
        g = g if abs(g) > TINY_GRADIENT else zero
        m = beta1 * exp_avg[j] + (one - beta1) * g
        v = beta2 * exp_avg_sq[j] + (one - beta2) * g * g
        w -= rate * m / (np.sqrt(v) + epsilon)
        exp_avg[j] = m if abs(m) > TINY else zero
        exp_avg_sq[j] = v if v > TINY_SQUARE else zero
        weight[j] = w if abs(w) > TINY else zero


@_jit
def _cowclip_adam(
    weight: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    grad: Array,
    counts: Array,
    num_ids: int,
    width: int,
    first: int,
    rate: float,
    l2: float,
    clip: float,
    floor: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    touched_only: bool,
    touched: Array,
    clipped: Array,
) -> None:
    num_blocks = (num_ids + BLOCK - 1) // BLOCK
    # An absent row's gradient is 2λw with count 1: it can pass its threshold only if 2λ > r.
    clip_absent = l2 > clip
    for block in prange(num_blocks):
        start, stop = block * BLOCK, min(block * BLOCK + BLOCK, num_ids)
        num_touched, num_clipped = 0, 0
        for i in range(start, stop):
            if counts[i] > 0 or clip_absent:
                was_clipped = clip < np.inf and _clip_row(
                    weight, grad, i * width + first, (i + 1) * width, max(counts[i], 1), l2, clip, floor
                )
                if counts[i] > 0:
                    num_touched += 1
                    num_clipped += was_clipped
        has_grad = num_touched > 0 or clip_absent
        if not touched_only:
            _adam_span(
                weight, exp_avg, exp_avg_sq, grad, start * width, stop * width, has_grad,
                rate, l2, beta1, beta2, epsilon,
            )  # fmt: skip
        elif num_touched:
            for i in range(start, stop):
                if counts[i] > 0:
                    _adam_span(
                        weight, exp_avg, exp_avg_sq, grad, i * width, (i + 1) * width, True,
                        rate, l2, beta1, beta2, epsilon,
                    )  # fmt: skip
        if has_grad:
            grad[start * width : stop * width] = 0.0
        if num_touched:
            counts[start:stop] = 0
            thread = numba.get_thread_id() * 8
            touched[thread] += num_touched
            clipped[thread] += num_clipped
