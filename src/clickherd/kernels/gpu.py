"""The Triton twins. Nothing here waits for the device.

`catch_up` and `cowclip_adam_rows` have twins because a pass over the table moves six times its size through memory:
8.9 GB for 33.8M rows of 11 columns, by arithmetic half of such a step on an H100, where a batch of 131,072 rows touches
few of them.

With TRITON_INTERPRET=1 the same kernels run on tensors in host memory, slowly; so the tests hold them to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from clickherd.kernels.reference import gather_packed as _gather_packed

if TYPE_CHECKING:
    from clickherd.kernels import AdamStep, Bags

# Measured on an H200 (docs/log.md, 2026-11-26), on batches of 131,072 rows of Criteo's shape.
ROWS = 8  # of the micro-batch that one program gathers
TABLE_ROWS = 32  # of the table that one program updates at a time
LOOKUPS = 16  # that one program of `scatter_add` sums before it writes: in one warp; 32 in four take a third longer
TALLIES = 128  # counters that programs share: one for all of them would be queued for
CLAIMS = 256  # lookups that one program compares with the rows' steps, a thread each
ELEMENTS = 1024  # of the table that one program catches up at a time
COLUMNS = 64  # and rows of a layer's gradient that one program takes at a time
PROGRAMS = 4096  # at most, where they share what there is: about two for each place on 132 multiprocessors

Rows = tuple[Tensor, Tensor, Tensor]  # ids, the steps that they had reached, and how many there are


def gather(weight_VW: Tensor, ids_BS: Tensor, bags: Bags, wide: bool) -> tuple[Tensor, Tensor]:
    """Rows (B, F, D) and summed linear weights (B,)."""
    num_rows, num_single = ids_BS.shape
    num_fields, width = num_single + len(bags), weight_VW.shape[1]
    rows_BFD = weight_VW.new_empty(num_rows, num_fields, width - int(wide))
    wide_B = weight_VW.new_zeros(num_rows)
    tables = (weight_VW, rows_BFD, wide_B)
    sizes = (num_rows, num_fields, width)
    shape = {"FIRST": int(wide), "BLOCK_B": ROWS, "BLOCK_W": _lanes(width)}
    _launch(_gather, triton.cdiv(num_rows, ROWS), *tables, ids_BS.contiguous(), num_single, *sizes, **shape)
    for field, (values, offsets) in enumerate(bags, num_single):
        _launch(_gather_bag, triton.cdiv(num_rows, ROWS), *tables, values, offsets, field, *sizes, **shape)
    return rows_BFD, wide_B


gather_packed = _gather_packed  # no kernel of its own: torch's indexing waits for nothing but multi-valued fields


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
    """Gradients and occurrences per id, added in place; sums of floats in no fixed order."""
    num_rows, num_single = ids_BS.shape
    num_fields, width = num_single + len(bags), grad_VW.shape[1]
    grad_rows = grad_rows_BFD.contiguous()
    grad_wide = grad_rows if grad_wide_B is None else grad_wide_B.contiguous()
    tables = (grad_VW, counts_V, grad_rows, grad_wide)
    shape = {"FIRST": int(grad_wide_B is not None), "BLOCK_N": LOOKUPS, "BLOCK_W": _lanes(width), "num_warps": 1}
    ids = ids_BS.contiguous()
    sizes = (num_rows, 0, num_single, num_fields, width)
    _launch(
        _scatter_add, triton.cdiv(num_rows, LOOKUPS) * num_single, *tables, ids, ids, ids, *sizes, BAG=False, **shape
    )
    for field, (values, offsets) in enumerate(bags, num_single):
        owners = torch.searchsorted(offsets, torch.arange(len(values), device=offsets.device), right=True) - 1
        sizes = (len(values), field, 1, num_fields, width)
        _launch(
            _scatter_add, triton.cdiv(len(values), LOOKUPS), *tables, values, owners, offsets, *sizes, BAG=True, **shape
        )


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
    return _launch_update((weight_VW, exp_avg_VW, exp_avg_sq_VW, grad_VW, counts_V), None, wide, adam)


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
    rows = _claimed(current_V, ids_N, adam.step)
    return _launch_update((weight_VW, exp_avg_VW, exp_avg_sq_VW, grad_VW, counts_V), rows, wide, adam)


def adam(
    weights: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    grads: list[Tensor],
    step: AdamStep,
) -> None:
    """The update of the network's weights, in place, by torch's kernels for many tensors at once."""
    torch._foreach_lerp_(exp_avgs, grads, 1 - step.beta1)
    torch._foreach_mul_(exp_avg_sqs, step.beta2)
    torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - step.beta2)
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_add_(denominators, step.epsilon)
    torch._foreach_addcdiv_(weights, exp_avgs, denominators, -step.corrected_rate)


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
    steps = torch.tensor([(adam.corrected_rate, 2 * adam.l2) for adam in missed], dtype=torch.float32)
    if weight_VW.is_cuda:
        steps = steps.pin_memory().to(weight_VW.device, non_blocking=True)
    num_rows, width = weight_VW.shape
    tables, scalars = (weight_VW, exp_avg_VW, exp_avg_sq_VW), (missed[0].step, len(missed), *_constants(missed[0]))
    if ids_N is not None:
        rows_N, reached_N, count = _claimed(current_V, ids_N, missed[-1].step)
        blocks = triton.cdiv(len(ids_N) * width, ELEMENTS)
        _launch(
            _catch_up, min(PROGRAMS, blocks), *tables, rows_N, reached_N, count, steps, len(ids_N), 0, blocks, *scalars,
            WIDTH=width, NAMED=True, MASKED=True, BLOCK=ELEMENTS,
        )  # fmt: skip
        return
    whole = num_rows * width // ELEMENTS  # blocks; what is left of a block needs masks, which would slow the others
    for first, last in ((0, whole), (whole, triton.cdiv(num_rows * width, ELEMENTS))):
        _launch(
            _catch_up, min(PROGRAMS, last - first), *tables, current_V, current_V, current_V, steps, num_rows,
            first, last, *scalars, WIDTH=width, NAMED=False, MASKED=first == whole, BLOCK=ELEMENTS,
        )  # fmt: skip
    current_V.fill_(missed[-1].step)


def relu_backward(grad_BN: Tensor, out_BN: Tensor) -> Tensor:
    """The gradient of a ReLU's input in place of that of its output, and its sum over the rows."""
    num_rows, width = grad_BN.shape
    sum_N = torch.zeros(width, device=grad_BN.device)
    num_columns = triton.cdiv(width, COLUMNS)
    _launch(
        _relu_backward, num_columns * min(PROGRAMS // 4, triton.cdiv(num_rows, COLUMNS)),
        grad_BN, out_BN, sum_N, num_rows, width, num_columns, BLOCK=COLUMNS,
    )  # fmt: skip
    return sum_N


def _claimed(current_V: Tensor, ids_N: Tensor, step: int) -> Rows:
    """Take the rows named that have not reached `step` there: each of them once, and the step that it had reached.

    Kernels of their own update the rows taken. Within one, the threads that share a row would ask for its step at
    different times, some of them after another one has set it.
    """
    rows_N, reached_N = torch.empty_like(ids_N), torch.empty_like(ids_N)
    count = torch.zeros(1, dtype=torch.int32, device=ids_N.device)
    _launch(
        _claim, triton.cdiv(len(ids_N), CLAIMS),
        current_V, ids_N, rows_N, reached_N, count, len(ids_N), step, BLOCK_N=CLAIMS, num_warps=CLAIMS // 32,
    )  # fmt: skip
    return rows_N, reached_N, count


def _launch_update(tables: tuple[Tensor, ...], rows: Rows | None, wide: bool, adam: AdamStep) -> Tensor:
    """Update the rows taken, or all."""
    num_rows, width = tables[0].shape
    named, count = tables[-1], tables[-1]
    if rows is not None:
        named, _, count = rows
        num_rows = len(named)
    dim = width - int(wide)
    clips = dim > 0 and math.isfinite(adam.clip)
    floor = adam.clip * math.sqrt(dim) * adam.zeta if clips else 0.0
    tallies = torch.zeros(2, TALLIES, dtype=torch.int32, device=tables[0].device)
    _launch(
        _update, min(PROGRAMS, triton.cdiv(num_rows, TABLE_ROWS)), *tables, named, count, tallies, num_rows, width,
        adam.corrected_rate, 2 * adam.l2, adam.clip if clips else 0.0, floor, *_constants(adam),
        FIRST=int(wide), CLIPS=clips, TOUCHED_ONLY=adam.touched_only, NAMED=rows is not None,
        NUM_TALLIES=TALLIES, BLOCK_V=TABLE_ROWS, BLOCK_W=_lanes(width),
    )  # fmt: skip
    return tallies.sum(dim=1)


def _launch(kernel: Any, num_programs: int, *arguments: Any, **constants: int) -> None:
    """Run a kernel where its first argument lies: Triton by itself takes the current device."""
    if num_programs:
        with torch.cuda.device_of(arguments[0]):
            kernel[(num_programs,)](*arguments, **constants)


def _constants(adam: AdamStep) -> tuple[float, ...]:
    """β₁, 1 − β₁, β₂, 1 − β₂ and ε; 1 − β is rounded once, not subtracted from a rounded β."""
    return adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2, adam.epsilon


def _lanes(width: int) -> int:
    """Columns of a block: a power of two, and at least what a product of matrices takes."""
    return max(16, int(triton.next_power_of_2(width)))


@triton.jit(do_not_specialize=["num_rows"])
def _gather(
    weight, rows, linear, ids, num_single, num_rows, num_fields, width,
    FIRST: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    column = tl.arange(0, BLOCK_W)
    there = row < num_rows
    mask = there[:, None] & (column < width)[None, :]
    total = tl.zeros((BLOCK_B, BLOCK_W), tl.float32)
    for field in range(num_single):
        i = tl.load(ids + row * num_single + field, mask=there, other=0).to(tl.int64)
        w = tl.load(weight + i[:, None] * width + column[None, :], mask=mask, other=0.0)
        total += w
        out = (row * num_fields + field)[:, None] * (width - FIRST) + (column - FIRST)[None, :]
        tl.store(rows + out, w, mask=mask & (column >= FIRST)[None, :])
    if FIRST:
        tl.store(linear + row, tl.sum(tl.where(column[None, :] == 0, total, 0.0), axis=1), mask=there)


@triton.jit(do_not_specialize=["num_rows", "field"])
def _gather_bag(
    weight, rows, linear, values, offsets, field, num_rows, num_fields, width,
    FIRST: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    column = tl.arange(0, BLOCK_W)
    there = row < num_rows
    mask = there[:, None] & (column < width)[None, :]
    begin = tl.load(offsets + row, mask=there, other=0)
    size = (tl.load(offsets + row + 1, mask=there, other=1) - begin).to(tl.int32)
    total = tl.zeros((BLOCK_B, BLOCK_W), tl.float32)
    for k in range(tl.max(size, axis=0)):
        more = there & (k < size)
        i = tl.load(values + begin + k, mask=more, other=0).to(tl.int64)
        total += tl.load(weight + i[:, None] * width + column[None, :], mask=mask & more[:, None], other=0.0)
    mean = total / size.to(tl.float32)[:, None]
    out = (row * num_fields + field)[:, None] * (width - FIRST) + (column - FIRST)[None, :]
    tl.store(rows + out, mean, mask=mask & (column >= FIRST)[None, :])
    if FIRST:
        before = tl.load(linear + row, mask=there, other=0.0)
        tl.store(linear + row, before + tl.sum(tl.where(column[None, :] == 0, mean, 0.0), axis=1), mask=there)


# A hot id would make all of its rows queue for the same few words of memory. So a program sums its lookups by id before
# it writes: the matrix of who equals whom, times their gradients, is the sum for every id, and the first lookup of each
# id writes it. An id that is in every row is then added once per LOOKUPS rows. It needs neither sorting nor a list of
# hot ids, and rounds no gradient: the matrix holds zeros and ones. (An infinite gradient spreads to its neighbours.)
@triton.jit(do_not_specialize=["num_lookups", "first_field"])
def _scatter_add(
    grad, counts, grad_rows, grad_wide, ids, owners, offsets, num_lookups, first_field, num_single, num_fields, width,
    FIRST: tl.constexpr, BAG: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    within = program % num_single  # neighbours in time read the same rows of gradients
    lane = tl.arange(0, BLOCK_N)
    n = (program // num_single).to(tl.int64) * BLOCK_N + lane
    column = tl.arange(0, BLOCK_W)
    there = n < num_lookups
    mask = there[:, None] & (column < width)[None, :]
    i = tl.load(ids + n * num_single + within, mask=there, other=-1).to(tl.int64)
    row = n
    if BAG:
        row = tl.load(owners + n, mask=there, other=0)
    source = (row * num_fields + first_field + within)[:, None] * (width - FIRST) + (column - FIRST)[None, :]
    g = tl.load(grad_rows + source, mask=mask & (column >= FIRST)[None, :], other=0.0)
    if FIRST:
        linear = tl.load(grad_wide + row, mask=there, other=0.0)
        g = tl.where(column[None, :] == 0, linear[:, None], g)
    if BAG:
        size = tl.load(offsets + row + 1, mask=there, other=1) - tl.load(offsets + row, mask=there, other=0)
        g = g / size.to(tl.float32)[:, None]
    same = i[:, None] == i[None, :]
    is_first = tl.min(tl.where(same, lane[None, :], BLOCK_N), axis=1) == lane
    writes = there & is_first
    sums = tl.dot(same.to(tl.float32), g, input_precision="ieee")
    tl.atomic_add(grad + i[:, None] * width + column[None, :], sums, mask=mask & writes[:, None], sem="relaxed")
    tl.atomic_add(counts + i, tl.sum(same.to(tl.int32), axis=1), mask=writes, sem="relaxed")


@triton.jit
def _adam(w, m, v, g, rate, beta1, rest1, beta2, rest2, epsilon):
    m = beta1 * m + rest1 * g
    v = beta2 * v + rest2 * g * g
    return w - rate * m / (tl.sqrt(v) + epsilon), m, v


# A thread for every lookup: a row's step is asked for, and set, by one thread alone.
@triton.jit(do_not_specialize=["num_lookups", "step"])
def _claim(current, ids, rows, reached, count, num_lookups, step, BLOCK_N: tl.constexpr):
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    there = n < num_lookups
    i = tl.load(ids + n, mask=there, other=0)
    before = tl.load(current + i, mask=there, other=step)
    behind = there & (before != step)  # spares most repeated ids the exchange
    before = tl.atomic_xchg(current + i, tl.zeros_like(before) + step, mask=behind, sem="relaxed")
    taken = behind & (before != step)
    position = tl.cumsum(taken.to(tl.int32), axis=0) - 1
    position += tl.atomic_add(count, tl.sum(taken.to(tl.int32), axis=0), sem="relaxed")
    tl.store(rows + position, i, mask=taken)
    tl.store(reached + position, before, mask=taken)


@triton.jit(do_not_specialize=["num_rows"])
def _update(
    weight, exp_avg, exp_avg_sq, grad, counts, rows, num_taken, tallies, num_rows, width,
    rate, l2, clip, floor, beta1, rest1, beta2, rest2, epsilon,
    FIRST: tl.constexpr, CLIPS: tl.constexpr, TOUCHED_ONLY: tl.constexpr, NAMED: tl.constexpr,
    NUM_TALLIES: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK_W)
    num_touched = tl.zeros((BLOCK_V,), tl.int32)
    num_clipped = tl.zeros((BLOCK_V,), tl.int32)
    total = num_rows
    if NAMED:
        total = tl.load(num_taken)
    for block in range(program, tl.cdiv(total, BLOCK_V), tl.num_programs(0)):
        row = tl.cast(block, tl.int64) * BLOCK_V + tl.arange(0, BLOCK_V)
        there = row < total
        if NAMED:
            row = tl.load(rows + row, mask=there, other=0).to(tl.int64)
        count = tl.load(counts + row, mask=there, other=0)
        touched = there & (count > 0)
        if TOUCHED_ONLY:
            there = touched
        mask = there[:, None] & (column < width)[None, :]
        at = row[:, None] * width + column[None, :]
        w = tl.load(weight + at, mask=mask, other=0.0)
        m = tl.load(exp_avg + at, mask=mask, other=0.0)
        v = tl.load(exp_avg_sq + at, mask=mask, other=0.0)
        has_grad = mask & touched[:, None]
        g = tl.load(grad + at, mask=has_grad, other=0.0) + l2 * w
        if CLIPS:
            inner = (column >= FIRST)[None, :]
            weight_norm = tl.sqrt(tl.sum(tl.where(inner, w * w, 0.0), axis=1))
            norm = tl.sqrt(tl.sum(tl.where(inner, g * g, 0.0), axis=1))
            threshold = tl.maximum(count, 1).to(tl.float32) * (clip * tl.maximum(weight_norm, floor))
            over = norm > threshold
            scale = tl.where(over, threshold / tl.where(over, norm, 1.0), 1.0)
            g = tl.where(inner, g * scale[:, None], g)
            num_clipped += (touched & over).to(tl.int32)
        w, m, v = _adam(w, m, v, g, rate, beta1, rest1, beta2, rest2, epsilon)
        num_touched += touched.to(tl.int32)
        tl.store(weight + at, w, mask=mask)
        tl.store(exp_avg + at, m, mask=mask)
        tl.store(exp_avg_sq + at, v, mask=mask)
        tl.store(grad + at, tl.zeros_like(w), mask=has_grad)
        tl.debug_barrier()  # threads that share a row have all read its count
        tl.store(counts + row, tl.zeros_like(count), mask=touched)
    slot = tallies + program % NUM_TALLIES
    tl.atomic_add(slot, tl.sum(num_touched, axis=0), sem="relaxed")
    if CLIPS:
        tl.atomic_add(slot + NUM_TALLIES, tl.sum(num_clipped, axis=0), sem="relaxed")


# Rows need not be told apart to decay: a program takes so many elements, without lanes for columns that are not there.
@triton.jit(do_not_specialize=["num_rows", "first_block", "last_block", "first_step", "num_missed"])
def _catch_up(
    weight, exp_avg, exp_avg_sq, rows, reached, num_taken, steps, num_rows, first_block, last_block,
    first_step, num_missed, beta1, rest1, beta2, rest2, epsilon,
    WIDTH: tl.constexpr, NAMED: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    total = num_rows
    if NAMED:
        total = tl.load(num_taken)
        last_block = tl.cdiv(total.to(tl.int64) * WIDTH, BLOCK).to(tl.int32)
    for block in range(first_block + tl.program_id(0), last_block, tl.num_programs(0)):
        start = tl.cast(block, tl.int64) * BLOCK
        first = start // WIDTH
        lane = tl.arange(0, BLOCK) + (start - first * WIDTH).to(tl.int32)
        k = first + lane // WIDTH
        at = start + tl.arange(0, BLOCK)
        if MASKED:
            there = k < total
            since = tl.load(reached + k, mask=there, other=0) + 1 - first_step
            if NAMED:
                at = tl.load(rows + k, mask=there, other=0).to(tl.int64) * WIDTH + lane % WIDTH
            since = tl.where(there, since, num_missed)
            w = tl.load(weight + at, mask=there, other=0.0)
            m = tl.load(exp_avg + at, mask=there, other=0.0)
            v = tl.load(exp_avg_sq + at, mask=there, other=0.0)
        else:
            since = tl.load(reached + k) + 1 - first_step
            w, m, v = tl.load(weight + at), tl.load(exp_avg + at), tl.load(exp_avg_sq + at)
        for s in range(tl.min(since, axis=0), num_missed):
            rate, l2 = tl.load(steps + 2 * s), tl.load(steps + 2 * s + 1)
            next_w, next_m, next_v = _adam(w, m, v, l2 * w, rate, beta1, rest1, beta2, rest2, epsilon)
            missed = s >= since
            w, m, v = tl.where(missed, next_w, w), tl.where(missed, next_m, m), tl.where(missed, next_v, v)
        if MASKED:
            tl.store(weight + at, w, mask=k < total)
            tl.store(exp_avg + at, m, mask=k < total)
            tl.store(exp_avg_sq + at, v, mask=k < total)
        else:
            tl.store(weight + at, w)
            tl.store(exp_avg + at, m)
            tl.store(exp_avg_sq + at, v)


@triton.jit(do_not_specialize=["num_rows"])
def _relu_backward(grad, out, sums, num_rows, width, num_columns, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    column = program % num_columns * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for block in range(program // num_columns, tl.cdiv(num_rows, BLOCK), tl.num_programs(0) // num_columns):
        row = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = (row < num_rows)[:, None] & (column < width)[None, :]
        at = row[:, None] * width + column[None, :]
        g = tl.load(grad + at, mask=mask, other=0.0)
        g = tl.where(tl.load(out + at, mask=mask, other=0.0) > 0, g, 0.0).to(g.dtype)
        tl.store(grad + at, g, mask=mask)
        total += g.to(tl.float32)
    tl.atomic_add(sums + column, tl.sum(total, axis=0), mask=column < width, sem="relaxed")
