"""CowClip: the update of the embedding table (Zheng et al., AAAI 2023, https://arxiv.org/abs/2204.06240, Algorithm 1).

The floor of the threshold is that of the authors' code (bytedance/LargeBatchCTR@12101b4), with which the published
recipes were run: count·r·max(‖w‖, r·√D·ζ), where Algorithm 1 prints count·max(r‖w‖, ζ).

For a batch with mean loss L, for every id i of the table, in the batch or not:

    g_i ← ∂L/∂w_i + 2λ w_i
    g_i ← g_i · min(1, cnt_i · r · max(‖w_i‖, r·√D·ζ) / ‖g_i‖)          cnt_i = max(occurrences in the batch, 1)
    Adam(w_i, g_i)

The linear weights take the same λ and rate and are not clipped. The gradient of a large batch is collected from its
micro-batches by `accumulate`; `step` runs once per batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clickherd.kernels import AdamStep, Bags
from clickherd.layers.embedding import EmbeddingTable
from clickherd.optim.scaling import Hyperparameters


@dataclass(frozen=True)
class CowClipConfig:
    """What stays the same at every batch size."""

    zeta: float
    betas: tuple[float, float]
    epsilon: float
    touched_only: bool


class CowClip:
    """The optimiser of one embedding table: gradients and counts of the batch so far, and Adam's moments."""

    def __init__(self, table: EmbeddingTable, config: CowClipConfig) -> None:
        self.table = table
        self.config = config
        self.num_steps = 0
        self.exp_avg_VW = torch.zeros_like(table.weight)
        self.exp_avg_sq_VW = torch.zeros_like(table.weight)
        self.grad_VW = torch.zeros_like(table.weight)
        self.counts_V = torch.zeros(len(table.weight), dtype=torch.int32, device=table.weight.device)

    def accumulate(self, ids_BS: Tensor, bags: Bags, grad_rows_BFD: Tensor, grad_wide_B: Tensor | None) -> None:
        """Add a micro-batch's gradients of the gathered rows and linear weights."""
        self.table.kernels.scatter_add(self.grad_VW, self.counts_V, ids_BS, bags, grad_rows_BFD, grad_wide_B)

    def step(self, hyper: Hyperparameters) -> tuple[int, int]:
        """Clip, decay and update the whole table; returns (rows touched, rows clipped)."""
        self.num_steps += 1
        beta1, beta2 = self.config.betas
        adam = AdamStep(
            self.num_steps,
            hyper.embedding_learning_rate,
            hyper.l2,
            hyper.clip,
            self.config.zeta,
            beta1,
            beta2,
            self.config.epsilon,
            self.config.touched_only,
        )
        return self.table.kernels.cowclip_adam(
            self.table.weight,
            self.exp_avg_VW,
            self.exp_avg_sq_VW,
            self.grad_VW,
            self.counts_V,
            self.table.wide,
            adam,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state between two batches, for a checkpoint."""
        return {"exp_avg": self.exp_avg_VW, "exp_avg_sq": self.exp_avg_sq_VW}

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        self.num_steps = num_steps
        self.exp_avg_VW.copy_(tensors["exp_avg"])
        self.exp_avg_sq_VW.copy_(tensors["exp_avg_sq"])
