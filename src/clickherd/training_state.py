"""Where a training run stands: what it has done so far, and the sums of the epoch under way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Progress:
    """Where training stands: all that a checkpoint holds beside tensors."""

    epoch: int = 0  # epochs completed
    step: int = 0  # batches completed in the running epoch
    total_steps: int = 0
    loss_sum: float = 0.0  # over the rows of the running epoch
    running_loss: list[tuple[int, float]] = field(default_factory=list)  # of the running epoch: step, mean since last
    noted_loss: float = 0.0  # `loss_sum` and its rows when the last of these points was taken
    noted_rows: int = 0
    touched: int = 0
    clipped: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0  # all training so far, validation left out
    rows: int = 0  # all rows trained on so far
    best_epoch: int = 0
    best_score: float = -math.inf
    stopped: bool = False  # early
    decay: float = 1.0  # of both rates, by optim.plateau_factor, and by the share that a start begins with
    num_epochs: int | None = None  # at most; None: those of the settings
    history: list[dict[str, Any]] = field(default_factory=list)


class Sums:
    """Sums over the running epoch, on the device until they are read: reading waits for it."""

    def __init__(self, progress: Progress, device: torch.device) -> None:
        self.loss = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        self._tallies = torch.tensor([progress.touched, progress.clipped], device=device)
        self._noted: list[tuple[int, int, torch.Tensor]] = []  # step, rows done, `loss` then

    def add(self, loss: torch.Tensor, tallies: torch.Tensor, num_rows: int) -> None:
        """Add a batch: its mean loss, and the numbers of table rows touched and clipped."""
        self.loss += loss.double() * num_rows
        self._tallies += tallies

    def note(self, step: int, rows: int) -> None:
        """Take a point of the running training loss."""
        self._noted.append((step, rows, self.loss.clone()))

    def read_into(self, progress: Progress) -> None:
        """Bring `progress` up to date."""
        progress.loss_sum = float(self.loss)
        progress.touched, progress.clipped = self._tallies.tolist()
        for step, rows, loss in self._noted:
            mean = (float(loss) - progress.noted_loss) / (rows - progress.noted_rows)
            progress.running_loss.append((step, mean))
            progress.noted_loss, progress.noted_rows = float(loss), rows
        self._noted.clear()
