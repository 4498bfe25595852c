"""Low rank by what a layer gives, not by its weights: atomic feature mimicking.

Yu & Wu, "Compressing Transformers: Features Are Low-Rank, but Weights Are Not!", AAAI 2023 (AFM). Of the
outputs y of a layer on data, with mean μ and covariance C, the best k numbers are the coordinates along the top k
eigenvectors U_k (N, k) of C:

    y ≈ U_k U_kᵀ (y − μ) + μ

A linear layer y = Wx + b becomes two: x ↦ U_kᵀWx + U_kᵀb, then z ↦ U_k z + (I − U_kU_kᵀ)μ. An embedding table is a
layer too: its rows e, each as often as it occurs, become (e − μ)ᵀU_k, and z ↦ U_k z + μ decodes them.

Shapes: B rows of data, V ids of a field, D embedding width, K numbers kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from clickherd.layers.low_rank import LowRankLinear


@dataclass(frozen=True)
class Directions:
    """Where outputs lie: `mean` (N,), and in `basis` (N, N) the eigenvectors, that of the largest eigenvalue first."""

    mean: Tensor
    basis: Tensor

    @classmethod
    def of(cls, outputs_BN: Tensor, weights_B: Tensor | None = None, *, centred: bool = True) -> Directions:
        """Of outputs, each as often as its weight says; not `centred` where no bias can bring the mean back."""
        outputs = outputs_BN.double()
        weights = outputs.new_ones(len(outputs)) if weights_B is None else weights_B.double()
        shares_B1 = (weights / weights.sum().clamp(min=1)).unsqueeze(1)
        mean = (shares_B1 * outputs).sum(dim=0) * centred
        off = outputs - mean
        covariance = off.T @ (shares_B1 * off)
        return cls(mean.float(), torch.linalg.eigh(covariance).eigenvectors.flip(1).float())

    def top(self, k: int) -> Tensor:
        """U_k, shape (N, k)."""
        return self.basis[:, :k]


@torch.no_grad()
def set_low_rank(low: LowRankLinear, weight_MN: Tensor, bias_M: Tensor | None, directions: Directions) -> None:
    """Let `low` stand for y = Wx + b."""
    top_MK = directions.top(low.reduce.out_features)
    low.reduce.weight.copy_(top_MK.T @ weight_MN)
    low.expand.weight.copy_(top_MK)
    if bias_M is not None:
        low.reduce.bias.copy_(top_MK.T @ bias_M)
        low.expand.bias.copy_(directions.mean - top_MK @ (top_MK.T @ directions.mean))


@torch.no_grad()
def project_linear(linear: nn.Linear, directions: Directions, k: int) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the one layer that does what the product of two with k numbers in between does."""
    top_MK, bias_M = directions.top(k), cast("Tensor | None", linear.bias)  # torch's types leave the None out
    weight_MN = top_MK @ (top_MK.T @ linear.weight)
    if bias_M is None:
        return weight_MN, None
    return weight_MN, top_MK @ (top_MK.T @ (bias_M - directions.mean)) + directions.mean
