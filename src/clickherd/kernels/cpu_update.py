"""The numba twins that update the table. Every row is updated by one thread alone, so results do not depend on the
number of threads; a row that catches up goes through the very operations that it missed, so it ends with the very bits.

One file, because numba's cache on disk notices a change only in the file of the kernel itself, not of what it calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from clickherd.threads import get_threads, share_out

if TYPE_CHECKING:
    from clickherd.kernels import AdamStep

Array = npt.NDArray[Any]

# error_model="numpy": Python's check for a zero divisor would keep the loops from being vectorised.
_jit = njit(cache=True, nogil=True, error_model="numpy")

BLOCK = 32  # rows of the table updated together; blocks that no id touched skip the gradient
CHUNK = 512  # rows that a thread brings up to date at a time
LANES = 16  # elements of a row replayed together: a constant, so that the loop over them is unrolled into registers
AHEAD = 8  # rows whose memory is asked for together
SHARE = 4  # 2^SHARE neighbouring rows belong to one thread, or two threads would write to the same cache line
# Below these a value is taken for zero: rows that decay to nothing would otherwise end as subnormal numbers, which
# many CPUs handle a hundred times slower. ε is 1e-7, so a gradient of 1e-17 moves a weight by less than rounding.
TINY, TINY_GRADIENT, TINY_SQUARE = np.float32(1e-30), np.float32(1e-17), np.float32(1e-36)


def cowclip_adam(
    weight_VW: Tensor,
    exp_avg_VW: Tensor,
    exp_avg_sq_VW: Tensor,
    grad_VW: Tensor,
    counts_V: Tensor,
    wide: bool,
    adam: AdamStep,
) -> Tensor:
    """CowClip and Adam in one pass over the table; see `reference.cowclip_adam` for the equations."""
    arguments = (
        *_flat(weight_VW, exp_avg_VW, exp_avg_sq_VW, grad_VW),
        counts_V.numpy(),
        weight_VW.shape[1],
        int(wide),
        *_rates(adam),
        *_clip(adam, weight_VW.shape[1] - int(wide)),
        *_constants(adam),
        adam.touched_only,
    )
    num_blocks = -(-len(counts_V) // BLOCK)
    return torch.tensor(share_out(lambda first, last: _cowclip_adam(first, last, *arguments), num_blocks)).sum(dim=0)


def cowclip_adam_rows(
    weight_VW: Tensor,
    exp_avg_VW: Tensor,
    exp_avg_sq_VW: Tensor,
    grad_VW: Tensor,
    counts_V: Tensor,
    current_V: Tensor,
    ids_N: Tensor,
    wide: bool,
    adam: AdamStep,
) -> Tensor:
    """`cowclip_adam` of the rows that `ids_N` names, each once however often it is named."""
    owners = _owners()
    arguments = (
        *_flat(weight_VW, exp_avg_VW, exp_avg_sq_VW, grad_VW),
        counts_V.numpy(),
        current_V.numpy(),
        ids_N.numpy(),
        owners,
        weight_VW.shape[1],
        int(wide),
        adam.step,
        *_rates(adam),
        *_clip(adam, weight_VW.shape[1] - int(wide)),
        *_constants(adam),
    )
    return torch.tensor(share_out(lambda first, last: _cowclip_adam_rows(first, last, *arguments), owners)).sum(dim=0)


def catch_up(
    weight_VW: Tensor,
    exp_avg_VW: Tensor,
    exp_avg_sq_VW: Tensor,
    current_V: Tensor,
    ids_N: Tensor | None,
    missed: Sequence[AdamStep],
) -> None:
    """Replay, in the rows that `ids_N` names or in all, the steps that they missed."""
    if not missed:
        return
    rates, l2s = (np.array(column, np.float32) for column in zip(*map(_rates, missed), strict=True))
    tables, current = _flat(weight_VW, exp_avg_VW, exp_avg_sq_VW), current_V.numpy()
    arguments = weight_VW.shape[1], missed[0].step, rates, l2s, *_constants(missed[0])
    if ids_N is None:
        num_chunks = -(-len(current) // CHUNK)
        share_out(lambda first, last: _catch_up_all(first, last, *tables, current, *arguments), num_chunks)
    else:
        ids, owners = ids_N.numpy(), _owners()
        share_out(lambda first, last: _catch_up_rows(first, last, *tables, current, ids, owners, *arguments), owners)


def _flat(*tables: Tensor) -> list[Array]:
    """The tables' elements in a row: rows of the table are spans of them."""
    return [table.numpy().reshape(-1) for table in tables]


def _rates(adam: AdamStep) -> tuple[np.float32, np.float32]:
    return np.float32(adam.corrected_rate), np.float32(2 * adam.l2)


def _clip(adam: AdamStep, dim: int) -> tuple[np.float32, np.float32]:
    """r, and the floor under the norm of the weights."""
    floor = adam.clip * math.sqrt(dim) * adam.zeta if math.isfinite(adam.clip) else 0.0
    return np.float32(adam.clip if dim else math.inf), np.float32(floor)


def _constants(adam: AdamStep) -> tuple[np.float32, ...]:
    """β₁, 1 − β₁, β₂, 1 − β₂ and ε; 1 − β is rounded once, not subtracted from a rounded β."""
    return tuple(map(np.float32, (adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2, adam.epsilon)))


def _owners() -> int:
    """Into how many shares rows are dealt, by their id: a power of two, at least one share a thread."""
    return 1 << (get_threads() - 1).bit_length()


@_jit
def _clip_row(
    weight: Array, grad: Array, begin: int, end: int, count: int, l2: float, clip: float, floor: float
) -> bool:
    """Scale one row's gradient, L2 included, down to its threshold. The caller adds the L2 part again."""
    ws, gs = weight[begin:end], grad[begin:end]
    weight_square = np.float32(0.0)
    grad_square = np.float32(0.0)
    for j in range(len(ws)):
        weight_square += ws[j] * ws[j]
        g = gs[j] + l2 * ws[j]
        grad_square += g * g
    threshold = np.float32(count) * clip * max(np.sqrt(weight_square), floor)
    norm = np.sqrt(grad_square)
    if norm <= threshold:
        return False
    scale = threshold / norm
    for j in range(len(ws)):
        gs[j] = scale * (gs[j] + l2 * ws[j]) - l2 * ws[j]
    return True


@_jit
def adam_span(
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
    rest1: float,
    beta2: float,
    rest2: float,
    epsilon: float,
) -> None:
    """Adam over a contiguous span of elements."""
    zero = np.float32(0.0)
    # Views, so that indices count from 0: as long as one might be negative, the loop is not vectorised.
    ws, ms, vs, gs = weight[begin:end], exp_avg[begin:end], exp_avg_sq[begin:end], grad[begin:end]
    for j in range(len(ws)):
        w = ws[j]
        g = l2 * w
        if has_grad:
            g += gs[j]
        g = g if abs(g) > TINY_GRADIENT else zero
        m = beta1 * ms[j] + rest1 * g
        v = beta2 * vs[j] + rest2 * g * g
        w -= rate * m / (np.sqrt(v) + epsilon)
        ms[j] = m if abs(m) > TINY else zero
        vs[j] = v if v > TINY_SQUARE else zero
        ws[j] = w if abs(w) > TINY else zero


@_jit
def _cowclip_adam(
    first_block: int,
    last_block: int,
    weight: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    grad: Array,
    counts: Array,
    width: int,
    first: int,
    rate: float,
    l2: float,
    clip: float,
    floor: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    epsilon: float,
    touched_only: bool,
) -> tuple[int, int]:
    num_ids = len(counts)
    all_touched, all_clipped = 0, 0
    # An absent row's gradient is 2λw with count 1: it can pass its threshold only if 2λ > r.
    clip_absent = l2 > clip
    for block in range(first_block, last_block):
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
            adam_span(
                weight, exp_avg, exp_avg_sq, grad, start * width, stop * width, has_grad,
                rate, l2, beta1, rest1, beta2, rest2, epsilon,
            )  # fmt: skip
        elif num_touched:
            for i in range(start, stop):
                if counts[i] > 0:
                    adam_span(
                        weight, exp_avg, exp_avg_sq, grad, i * width, (i + 1) * width, True,
                        rate, l2, beta1, rest1, beta2, rest2, epsilon,
                    )  # fmt: skip
        if has_grad:
            grad[start * width : stop * width] = 0.0
        if num_touched:
            counts[start:stop] = 0
            all_touched += num_touched
            all_clipped += num_clipped
    return all_touched, all_clipped


@_jit
def _owned(ids: Array, owner: int, owners: int) -> Array:
    """The ids of one share, in order and with repetitions."""
    rows = np.empty(len(ids), np.int64)
    count = 0
    for n in range(len(ids)):
        rows[count] = ids[n]
        count += (np.int64(ids[n]) >> SHARE) & (owners - 1) == owner  # without a branch: it could not be predicted
    return rows[:count]


@_jit
def _fetch(a: Array, b: Array, c: Array, d: Array, rows: Array, start: int, stop: int, width: int) -> np.float32:
    """Read the ends of some rows, so that the memory's answers for all of them are awaited together."""
    total = np.float32(0.0)
    for n in range(start, stop):
        begin, last = rows[n] * width, (rows[n] + 1) * width - 1
        total += a[begin] + b[begin] + c[begin] + d[begin] + a[last] + b[last] + c[last] + d[last]
    return total


@_jit
def _copy(source: Array, target: Array) -> None:
    """A loop, because numba's assignment to a slice takes longer than so short a copy."""
    for j in range(len(source)):
        target[j] = source[j]


@_jit
def _cowclip_adam_rows(
    first_owner: int,
    last_owner: int,
    weight: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    grad: Array,
    counts: Array,
    current: Array,
    ids: Array,
    owners: int,
    width: int,
    first: int,
    step: int,
    rate: float,
    l2: float,
    clip: float,
    floor: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    epsilon: float,
) -> tuple[int, int]:
    read = np.empty(1, np.float32)
    num_touched, num_clipped = 0, 0
    for owner in range(first_owner, last_owner):
        rows = _owned(ids, owner, owners)
        kept = 0
        for n in range(len(rows)):  # each row once
            if counts[rows[n]] > 0 and current[rows[n]] != step:
                current[rows[n]] = step
                rows[kept] = rows[n]
                kept += 1
        for group in range(0, kept, AHEAD):
            stop = min(group + AHEAD, kept)
            read[0] = _fetch(weight, exp_avg, exp_avg_sq, grad, rows, group, stop, width)
            for n in range(group, stop):
                begin, end = rows[n] * width, (rows[n] + 1) * width
                if clip < np.inf:
                    num_clipped += _clip_row(weight, grad, begin + first, end, counts[rows[n]], l2, clip, floor)
                adam_span(
                    weight, exp_avg, exp_avg_sq, grad, begin, end, True, rate, l2, beta1, rest1, beta2, rest2, epsilon
                )
                grad[begin:end] = 0.0
                counts[rows[n]] = 0
        num_touched += kept
    return num_touched, num_clipped


@_jit
def _catch_up_rows(
    first_owner: int,
    last_owner: int,
    weight: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    current: Array,
    ids: Array,
    owners: int,
    width: int,
    first_step: int,
    rates: Array,
    l2s: Array,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    epsilon: float,
) -> None:
    last_step = first_step + len(rates) - 1
    read = np.empty(1, np.float32)
    for owner in range(first_owner, last_owner):
        w, m, v = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
        rows = _owned(ids, owner, owners)
        sinces = np.empty(len(rows), np.int32)
        kept = 0
        for n in range(len(rows)):  # each row that is behind, once
            if current[rows[n]] != last_step:
                sinces[kept] = current[rows[n]] + 1 - first_step
                current[rows[n]] = last_step
                rows[kept] = rows[n]
                kept += 1
        for group in range(0, kept, AHEAD):
            stop = min(group + AHEAD, kept)
            read[0] = _fetch(weight, exp_avg, exp_avg_sq, weight, rows, group, stop, width)
            for n in range(group, stop):
                for begin in range(rows[n] * width, (rows[n] + 1) * width, LANES):
                    end = min(begin + LANES, (rows[n] + 1) * width)
                    ws, ms, vs = weight[begin:end], exp_avg[begin:end], exp_avg_sq[begin:end]
                    _copy(ws, w)
                    _copy(ms, m)
                    _copy(vs, v)
                    for s in range(sinces[n], len(rates)):
                        adam_span(w, m, v, w, 0, LANES, False, rates[s], l2s[s], beta1, rest1, beta2, rest2, epsilon)
                    _copy(w[: end - begin], ws)
                    _copy(m[: end - begin], ms)
                    _copy(v[: end - begin], vs)


@_jit
def _catch_up_all(
    first_chunk: int,
    last_chunk: int,
    weight: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    current: Array,
    width: int,
    first_step: int,
    rates: Array,
    l2s: Array,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    epsilon: float,
) -> None:
    num_ids = len(current)
    for chunk in range(first_chunk, last_chunk):
        start, end = chunk * CHUNK, min(chunk * CHUNK + CHUNK, num_ids)
        while start < end:  # rows that missed the same steps go together, as many as the first cache level holds
            stop = start + 1
            while stop < end and stop < start + BLOCK and current[stop] == current[start]:
                stop += 1
            since = np.int64(current[start]) + 1 - first_step
            for s in range(since, len(rates)):
                adam_span(
                    weight, exp_avg, exp_avg_sq, weight, start * width, stop * width, False,
                    rates[s], l2s[s], beta1, rest1, beta2, rest2, epsilon,
                )  # fmt: skip
            start = stop
        current[chunk * CHUNK : end] = first_step + len(rates) - 1
