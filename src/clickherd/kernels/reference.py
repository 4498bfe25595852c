"""The specification of every kernel in plain torch, on any device. See `kernels.Kernels` for the contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from clickherd.kernels import AdamStep, Bags, PackedRows


def gather(weight_VW: Tensor, ids_BS: Tensor, bags: Bags, wide: bool) -> tuple[Tensor, Tensor]:
    """Rows (B, F, D) and summed linear weights (B,)."""
    fields = [weight_VW[ids_BS.long()]]
    for values, offsets in bags:
        owner, sizes = _owners(offsets)
        sums_BW = weight_VW.new_zeros(len(ids_BS), weight_VW.shape[1])
        sums_BW.index_add_(0, owner, weight_VW[values.long()])
        fields.append((sums_BW / sizes[:, None]).unsqueeze(1))
    both_BFW = torch.cat(fields, dim=1)
    if not wide:
        return both_BFW, weight_VW.new_zeros(len(ids_BS))
    return both_BFW[..., 1:].contiguous(), both_BFW[..., 0].sum(dim=1)


def gather_packed(packed: PackedRows, places: Sequence[int], ids_BS: Tensor, bags: Bags) -> tuple[Tensor, Tensor]:
    """Rows (B, F, D) and summed linear weights (B,), from packed rows."""
    num_rows, num_single = ids_BS.shape
    rows, wide_B = [], torch.zeros(num_rows, device=ids_BS.device)
    for column, place in enumerate(places):
        field, bag = packed.fields[place], bags[column - num_single] if column >= num_single else None
        ids_N = (ids_BS[:, column] if bag is None else bag[0]).long()
        e_ND = packed.numbers(field, ids_N - field.offset)
        if field.decoded:
            e_ND = torch.addmm(packed.mean[place], e_ND, packed.basis[place, : field.dim])
        linear_N = packed.linear[ids_N].float() if len(packed.linear) else torch.zeros_like(ids_N, dtype=torch.float32)
        if bag is not None:
            owner, sizes = _owners(bag[1])
            e_ND = e_ND.new_zeros(num_rows, packed.width).index_add_(0, owner, e_ND) / sizes[:, None]
            linear_N = linear_N.new_zeros(num_rows).index_add_(0, owner, linear_N) / sizes
        rows.append(e_ND)
        wide_B += linear_N
    return torch.stack(rows, dim=1), wide_B


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
    num_rows, num_fields, _ = grad_rows_BFD.shape
    grad_BFW = grad_rows_BFD
    if grad_wide_B is not None:
        grad_BFW = torch.cat([grad_wide_B[:, None, None].expand(num_rows, num_fields, 1), grad_rows_BFD], dim=2)
    num_single = ids_BS.shape[1]
    ids = ids_BS.long().flatten()
    grad_VW.index_add_(0, ids, grad_BFW[:, :num_single].flatten(0, 1))
    counts_V.index_add_(0, ids, torch.ones_like(ids, dtype=counts_V.dtype))
    for j, (values, offsets) in enumerate(bags):
        owner, sizes = _owners(offsets)
        share_BW = grad_BFW[:, num_single + j] / sizes[:, None]
        grad_VW.index_add_(0, values.long(), share_BW[owner])
        counts_V.index_add_(0, values.long(), torch.ones_like(values, dtype=counts_V.dtype))


def cowclip_adam(
    weight_VW: Tensor,
    exp_avg_VW: Tensor,
    exp_avg_sq_VW: Tensor,
    grad_VW: Tensor,
    counts_V: Tensor,
    wide: bool,
    adam: AdamStep,
) -> Tensor:
    """CowClip (Zheng et al., AAAI 2023, Algorithm 1 with the code's floor), then Adam, over the whole table.

    g_i ← ∂(mean loss)/∂w_i + 2λ w_i
    t_i = max(count_i, 1) · r · max(‖w_i‖, r·√D·ζ)
    g_i ← g_i · t_i / max(‖g_i‖, t_i)                       the linear weight is left out of norms and clip
    """
    touched_V = counts_V > 0
    gradient_VW = grad_VW + 2 * adam.l2 * weight_VW
    first = int(wide)
    dim = weight_VW.shape[1] - first
    clipped_V = torch.zeros_like(touched_V)
    if dim and adam.clip != float("inf"):
        floor = adam.clip * dim**0.5 * adam.zeta
        weight_norm_V = weight_VW[:, first:].norm(dim=1)
        threshold_V = counts_V.clamp(min=1) * (adam.clip * weight_norm_V.clamp(min=floor))
        norm_V = gradient_VW[:, first:].norm(dim=1)
        clipped_V = (norm_V > threshold_V) & touched_V
        scale_V = torch.where(norm_V > threshold_V, threshold_V / norm_V, torch.ones_like(norm_V))
        gradient_VW[:, first:] *= scale_V[:, None]
    rows = touched_V if adam.touched_only else slice(None)
    gradient, exp_avg, exp_avg_sq = gradient_VW[rows], exp_avg_VW[rows], exp_avg_sq_VW[rows]
    exp_avg = adam.beta1 * exp_avg + (1 - adam.beta1) * gradient
    exp_avg_sq = adam.beta2 * exp_avg_sq + (1 - adam.beta2) * gradient.square()
    weight_VW[rows] -= adam.corrected_rate * exp_avg / (exp_avg_sq.sqrt() + adam.epsilon)
    exp_avg_VW[rows], exp_avg_sq_VW[rows] = exp_avg, exp_avg_sq
    grad_VW.zero_()
    counts_V.zero_()
    return torch.stack([touched_V.sum(), clipped_V.sum()])


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
    rows = torch.unique(ids_N.long())
    weight, exp_avg, exp_avg_sq = weight_VW[rows], exp_avg_VW[rows], exp_avg_sq_VW[rows]
    tally = cowclip_adam(weight, exp_avg, exp_avg_sq, grad_VW[rows], counts_V[rows], wide, adam)
    weight_VW[rows], exp_avg_VW[rows], exp_avg_sq_VW[rows] = weight, exp_avg, exp_avg_sq
    grad_VW[rows], counts_V[rows], current_V[rows] = 0.0, 0, adam.step
    return tally


def catch_up(
    weight_VW: Tensor,
    exp_avg_VW: Tensor,
    exp_avg_sq_VW: Tensor,
    current_V: Tensor,
    ids_N: Tensor | None,
    missed: Sequence[AdamStep],
) -> None:
    """Replay, in the rows that `ids_N` names or in all, the steps that they missed."""
    named = torch.arange(len(current_V), device=current_V.device) if ids_N is None else torch.unique(ids_N.long())
    for adam in missed:
        rows = named[current_V[named] < adam.step]
        weight, exp_avg, exp_avg_sq = weight_VW[rows], exp_avg_VW[rows], exp_avg_sq_VW[rows]
        no_grad, no_counts = torch.zeros_like(weight), torch.zeros_like(current_V[rows])
        idle = replace(adam, clip=math.inf, touched_only=False)
        cowclip_adam(weight, exp_avg, exp_avg_sq, no_grad, no_counts, False, idle)
        weight_VW[rows], exp_avg_VW[rows], exp_avg_sq_VW[rows] = weight, exp_avg, exp_avg_sq
        current_V[rows] = adam.step


def adam(
    weights: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    grads: list[Tensor],
    step: AdamStep,
) -> None:
    """The update of the network's weights, in place."""
    for weight, exp_avg, exp_avg_sq, grad in zip(weights, exp_avgs, exp_avg_sqs, grads, strict=True):
        exp_avg.copy_(step.beta1 * exp_avg + (1 - step.beta1) * grad)
        exp_avg_sq.copy_(step.beta2 * exp_avg_sq + (1 - step.beta2) * grad.square())
        weight.sub_(step.corrected_rate * exp_avg / (exp_avg_sq.sqrt() + step.epsilon))


def _owners(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """For every value the row that owns it, and for every row how many values it has."""
    sizes = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(sizes), device=offsets.device), sizes), sizes


def relu_backward(grad_BN: Tensor, out_BN: Tensor) -> Tensor:
    """The gradient of a ReLU's input in place of that of its output, and its sum over the rows."""
    torch.ops.aten.threshold_backward.grad_input(grad_BN, out_BN, 0, grad_input=grad_BN)
    return grad_BN.sum(0, dtype=torch.float32)
