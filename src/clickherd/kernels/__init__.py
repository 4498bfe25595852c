"""Kernels of the embedding table: signatures and dispatch. Every implementation is a twin of `reference`.

    gather       ids → embedding rows and the sum of their linear weights
    gather_packed  the same from rows in few bits
    scatter_add  gradients of those rows → one gradient per id, and how often each id occurred
    cowclip_adam the whole update of the table in one pass
    adam         the update of the network's weights
    relu_backward  the way back through a ReLU, and the gradient of the bias before it

    cowclip_adam_rows and catch_up do the same row by row: an absent row changes only by decay and momentum, so it can
    fall behind and replay the steps that it missed when it is next needed.

Shapes: V ids, W = wide + D columns of the table (column 0 is the linear weight when `wide`), B rows of a
micro-batch, S single-valued and M multi-valued fields, F = S + M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clickherd.errors import ConfigError
from clickherd.kernels import cpu, reference

__all__ = ["AdamStep", "Bags", "Kernels", "PackedField", "PackedRows", "code_bytes", "cpu", "kernels_for", "reference"]

Bags = tuple[tuple[Tensor, Tensor], ...]  # per multi-valued field: values (n,) int32, offsets (B + 1,) int64


@dataclass(frozen=True)
class AdamStep:
    """Scalars of one CowClip–Adam update (CowClip, Algorithm 1; Adam with the ε of Keras).

    `clip` is r, infinite to clip nothing; `zeta` is ζ; `l2` is λ of λΣw². `touched_only` leaves the rows that the
    batch did not touch as they are (their moments too): another algorithm, not the published one.
    """

    step: int  # counts from 1
    learning_rate: float
    l2: float
    clip: float
    zeta: float
    beta1: float
    beta2: float
    epsilon: float
    touched_only: bool = False

    @property
    def corrected_rate(self) -> float:
        """The rate with both bias corrections folded in, so that ε is added to the uncorrected √v."""
        return self.learning_rate * math.sqrt(1 - self.beta2**self.step) / (1 - self.beta1**self.step)


def code_bytes(dim: int, bits: int) -> int:
    """Bytes that the numbers of a packed row take."""
    return -(-dim * bits // 8)


@dataclass(frozen=True)
class PackedField:
    """How the rows of one field are packed: `size` ids from `offset` on, their codes from byte `start` on.

    A row is `dim` numbers of `bits` bits; below 16 they are whole numbers times the row's scale, the scales from place
    `scale` on. `decoded` says that a matrix makes the embedding of them.
    """

    offset: int
    size: int
    start: int
    dim: int
    bits: int
    scale: int
    decoded: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of the codes of one row."""
        return code_bytes(self.dim, self.bits)


@dataclass(frozen=True)
class PackedRows:
    """The embedding rows of all fields in few bits; a sequence has the place of its target.

    `codes` (bytes,) uint8, `scales` (n,) and `linear` (V,) or (0,) float16; e = basisᵀz + mean by field, `basis`
    (F, D, D) with the first `dim` rows in use, `mean` (F, D).
    """

    codes: Tensor
    scales: Tensor
    linear: Tensor
    fields: tuple[PackedField, ...]
    width: int
    basis: Tensor
    mean: Tensor

    def numbers(self, field: PackedField, local: Tensor) -> Tensor:
        """z of the field's ids `local`, counted from its first; shape (N, dim) float32."""
        if not field.dim:
            return torch.zeros(len(local), 0, device=local.device)
        place = field.start + local.unsqueeze(1) * field.row_bytes + torch.arange(field.row_bytes, device=local.device)
        codes = self.codes[place]
        if field.bits >= 16:
            return codes.view(torch.float16 if field.bits == 16 else torch.float32).float()
        scales = self.scales[field.scale + local].float().unsqueeze(1)
        if field.bits == 8:
            return codes.view(torch.int8) * scales
        halves = torch.stack([codes & 15, codes >> 4], dim=2).flatten(1)[:, : field.dim]
        return (halves.to(torch.int8) - 8) * scales


class Kernels(Protocol):
    """What an implementation provides."""

    def gather(self, weight_VW: Tensor, ids_BS: Tensor, bags: Bags, wide: bool) -> tuple[Tensor, Tensor]:
        """Embedding rows (B, F, D) and the sum over fields of the linear weights (B,), zeros if not `wide`.

        A multi-valued field gives the mean over its values, for both.
        """

    def gather_packed(
        self, packed: PackedRows, places: Sequence[int], ids_BS: Tensor, bags: Bags
    ) -> tuple[Tensor, Tensor]:
        """As `gather`, from packed rows; `places` are the positions of the fields of all columns in `packed`."""

    def scatter_add(
        self,
        grad_VW: Tensor,
        counts_V: Tensor,
        ids_BS: Tensor,
        bags: Bags,
        grad_rows_BFD: Tensor,
        grad_wide_B: Tensor | None,
        *,
        shared: bool = False,
    ) -> None:
        """Add the gradients of `gather`'s outputs onto `grad_VW`, and the occurrences of each id onto `counts_V`.

        Values of a multi-valued field take their share of the mean and count one occurrence each. `shared` says that
        columns of `ids_BS` may have ids in common.
        """

    def cowclip_adam(
        self,
        weight_VW: Tensor,
        exp_avg_VW: Tensor,
        exp_avg_sq_VW: Tensor,
        grad_VW: Tensor,
        counts_V: Tensor,
        wide: bool,
        adam: AdamStep,
    ) -> Tensor:
        """Update the table in place, then set `grad_VW` and `counts_V` to zero.

        `grad_VW` is zero already in rows without a count. Returns the numbers of rows touched and of rows clipped, as
        an int64 tensor of shape (2,) on the table's device: to read it is to wait for a GPU.
        """

    def cowclip_adam_rows(
        self,
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
        """`cowclip_adam` of the rows that `ids_N` names only; `current_V`, the step a row has reached, becomes theirs.

        `ids_N` names every row with a count, as often as it likes.
        """

    def catch_up(
        self,
        weight_VW: Tensor,
        exp_avg_VW: Tensor,
        exp_avg_sq_VW: Tensor,
        current_V: Tensor,
        ids_N: Tensor | None,
        missed: Sequence[AdamStep],
    ) -> None:
        """Replay, in the rows that `ids_N` names or in all, the steps without a gradient that each of them missed.

        `missed` are consecutive steps and reach back to the first that any row missed. Rows without a gradient are
        not clipped, which is exact as long as 2λ ≤ r.
        """

    def adam(
        self,
        weights: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        grads: list[Tensor],
        step: AdamStep,
    ) -> None:
        """Update the weights of a network in place, each of any shape, by Adam alone: no L2, no clip."""

    def relu_backward(self, grad_BN: Tensor, out_BN: Tensor) -> Tensor:
        """On the way back through a ReLU: set the gradient of its output to zero where that is zero, in place.

        Returns its sum over the rows, shape (N,) float32: the gradient of a bias before the ReLU. Tensors are float32
        or bfloat16 and contiguous.
        """


def kernels_for(device: torch.device) -> Kernels:
    """The fastest implementation for tensors on `device`.

    Raises:
        ConfigError: the device is a CUDA GPU and triton is not installed.
    """
    if device.type == "cpu":
        return cpu
    try:
        from clickherd.kernels import gpu
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ConfigError(
            "training on a GPU needs triton, which is not installed",
            mend="Install the CUDA build of torch, which brings it, or use --device cpu.",
        ) from None
    return gpu
