"""Behaviour sequences as a model sees them: the rows of all values in one tensor, and which row of the batch has which.

Nothing is padded: what is computed value by value costs what there are values, and no mask is needed.

Shapes: B rows of the (micro-)batch, N values of all their sequences together, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class SequenceRows:
    """One sequence column in a batch. The values of row b are rows[offsets[b] : offsets[b + 1]], oldest first."""

    rows: Tensor  # (N, D) embedding rows; a row of the batch may have none
    offsets: Tensor  # (B + 1,) int64
    target: int  # position of the target's field among the model's fields

    def owners(self) -> Tensor:
        """The row of the batch that each value belongs to, shape (N,)."""
        rows_B = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return torch.repeat_interleave(rows_B, self.offsets.diff(), output_size=len(self.rows))


def expand(x_BD: Tensor, owners_N: Tensor, offsets: Tensor) -> Tensor:
    """Each value's row of `x_BD`, shape (N, D)."""
    out_ND: Tensor = _Expand.apply(x_BD, owners_N, offsets)  # type: ignore[no-untyped-call]
    return out_ND


def sum_values(x_ND: Tensor, owners_N: Tensor, offsets: Tensor) -> Tensor:
    """The sum over the values of each row of the batch, shape (B, D); zeros for a row without any."""
    out_BD: Tensor = _SumValues.apply(x_ND, owners_N, offsets)  # type: ignore[no-untyped-call]
    return out_BD


def softmax_values(x_N: Tensor, owners_N: Tensor, offsets: Tensor) -> Tensor:
    """Softmax over the values of each row of the batch, shape (N,)."""
    highest_B = x_N.new_zeros(len(offsets) - 1)
    highest_B = highest_B.scatter_reduce(0, owners_N, x_N.detach(), "amax", include_self=False)
    exp_N = (x_N - highest_B[owners_N]).exp()
    sum_B1 = sum_values(exp_N.unsqueeze(1), owners_N, offsets)
    return exp_N / expand(sum_B1, owners_N, offsets).squeeze(1)


def rounded_up(x_NM: Tensor) -> Tensor:
    """`x_NM` with up to a sixteenth more rows, of zeros: oneDNN prepares, and keeps, a bf16 product for every shape."""
    block = 1 << max(len(x_NM).bit_length() - 5, 0)
    return torch.nn.functional.pad(x_NM, (0, 0, 0, -len(x_NM) % block))


def _segment_sum(x_ND: Tensor, offsets: Tensor) -> Tensor:
    return torch.segment_reduce(x_ND.contiguous(), "sum", offsets=offsets, axis=0, initial=0)


class _Expand(torch.autograd.Function):
    """The way back is a sum over each row's values, which lie side by side: no adding by index."""

    @staticmethod
    def forward(ctx: Any, x_BD: Tensor, owners_N: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        return x_BD.index_select(0, owners_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (offsets,) = ctx.saved_tensors
        return _segment_sum(grad_outputs[0], offsets), None, None


class _SumValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, owners_N: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(owners_N)
        return _segment_sum(x_ND, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (owners_N,) = ctx.saved_tensors
        return grad_outputs[0].index_select(0, owners_N), None, None
