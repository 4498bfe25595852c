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

MAX_LAG = 16  # by then a step of the whole-table pass costs its arithmetic, hardly any memory traffic (docs/log.md)


@dataclass(frozen=True)
class CowClipConfig:
    """What stays the same at every batch size."""

    zeta: float
    betas: tuple[float, float]
    epsilon: float
    touched_only: bool


class CowClip:
    """The optimiser of one embedding table: gradients and counts of the batch so far, and Adam's moments.

    A row that no batch touches changes only by its own L2 and momentum. With a `lag` above 1 such rows wait: a row
    catches up when it is next touched (`touch`), and all do after `lag` steps, or when the table is to be read
    (`settle`). The result is that of updating the whole table at every step, to the last bit on a CPU, without moving
    the whole table through memory at every step. See `lag_for`.
    """

    def __init__(self, table: EmbeddingTable, config: CowClipConfig, lag: int = 1) -> None:
        self.table = table
        self.config = config
        self.lag = lag
        self.num_steps = 0
        self.exp_avg_VW = torch.zeros_like(table.weight)
        self.exp_avg_sq_VW = torch.zeros_like(table.weight)
        self.grad_VW = torch.zeros_like(table.weight)
        self.counts_V = torch.zeros(len(table.weight), dtype=torch.int32, device=table.weight.device)
        self._current_V = torch.zeros_like(self.counts_V) if lag > 1 else None  # the step that each row has reached
        self._missed: list[AdamStep] = []  # steps that some row has still to make
        self._touched: list[Tensor] = []  # ids of the batch so far

    def touch(self, ids_BS: Tensor, bags: Bags) -> tuple[Tensor, Bags]:
        """Bring the rows of a micro-batch up to date, before they are gathered; returns where they are: as given."""
        if self._current_V is None:
            return ids_BS, bags
        ids_N = torch.cat([ids_BS.flatten(), *(values for values, _ in bags)]) if bags else ids_BS.flatten()
        self._touched.append(ids_N)
        self.table.kernels.catch_up(*self._table(), self._current_V, ids_N, self._missed)
        return ids_BS, bags

    def accumulate(self, ids_BS: Tensor, bags: Bags, grad_rows_BFD: Tensor, grad_wide_B: Tensor | None) -> None:
        """Add a micro-batch's gradients of the gathered rows and linear weights."""
        self.table.kernels.scatter_add(
            self.grad_VW, self.counts_V, ids_BS, bags, grad_rows_BFD, grad_wide_B, shared=self.table.shared
        )

    def accumulate_values(self, ids_N: Tensor, grad_rows_ND: Tensor) -> None:
        """Add the gradients of single rows, as those of sequences: they have no linear weight in the model."""
        grad_wide_N = torch.zeros_like(grad_rows_ND[:, 0]) if self.table.wide else None
        self.accumulate(ids_N.unsqueeze(1), (), grad_rows_ND.unsqueeze(1), grad_wide_N)

    def step(self, hyper: Hyperparameters) -> Tensor:
        """Clip, decay and update the table; returns the numbers of rows touched and clipped, shape (2,)."""
        adam = self._adam(hyper)
        gradients = (self.grad_VW, self.counts_V)
        if self._current_V is None:
            return self.table.kernels.cowclip_adam(*self._table(), *gradients, self.table.wide, adam)
        if 2 * hyper.l2 > hyper.clip and not self.config.touched_only:  # then absent rows are clipped as well
            self.settle()
            self._touched.clear()
            self._current_V.fill_(self.num_steps)
            return self.table.kernels.cowclip_adam(*self._table(), *gradients, self.table.wide, adam)
        ids_N = self._touched[0] if len(self._touched) == 1 else torch.cat(self._touched)
        tally = self.table.kernels.cowclip_adam_rows(
            *self._table(), *gradients, self._current_V, ids_N, self.table.wide, adam
        )
        self._touched.clear()
        if not self.config.touched_only:
            self._missed.append(adam)
            self.table.is_settled = False
            if len(self._missed) >= self.lag:
                self.settle()
        return tally

    def _adam(self, hyper: Hyperparameters) -> AdamStep:
        """The next step."""
        self.num_steps += 1
        beta1, beta2 = self.config.betas
        return AdamStep(
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

    def settle(self) -> None:
        """Bring every row up to date: the table may be read."""
        if self._current_V is not None:
            self.table.kernels.catch_up(*self._table(), self._current_V, None, self._missed)
        self._missed.clear()
        self.table.is_settled = True

    def tensors(self) -> dict[str, Tensor]:
        """The state between two batches, for a checkpoint."""
        self.settle()
        return {"exp_avg": self.exp_avg_VW, "exp_avg_sq": self.exp_avg_sq_VW}

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        self.num_steps = num_steps
        self.exp_avg_VW.copy_(tensors["exp_avg"])
        self.exp_avg_sq_VW.copy_(tensors["exp_avg_sq"])
        if self._current_V is not None:
            self._current_V.fill_(num_steps)

    def _table(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.table.weight, self.exp_avg_VW, self.exp_avg_sq_VW


def lag_for(num_ids: int, lookups: int, device: str) -> int:
    """How many steps untouched rows may wait, for a table of V rows of which a batch looks up so many.

    1, updating the whole table at every step, when a batch touches much of it anyway. Otherwise waiting saves the
    memory traffic of the passes left out, and costs the rows touched in between a replay of their own. On a GPU it pays
    as soon as the table has more rows than the batch has lookups (docs/log.md, 2026-11-26).
    """
    if device == "cpu":
        return max(1, min(MAX_LAG, num_ids // max(lookups, 1)))
    return MAX_LAG if num_ids > lookups else 1
