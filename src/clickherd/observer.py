"""Who watches a training run."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from clickherd.optim.scaling import Hyperparameters


class Observer(Protocol):
    """Who watches: the progress bar, or nobody."""

    def start(self, num_epochs: int, rows_per_epoch: int, hyper: Hyperparameters) -> None:
        """Training begins."""

    def batch(self, epoch: int, rows: int, loss_sum: torch.Tensor) -> None:
        """So many rows of this epoch are done; reading `loss_sum`, the sum over them, waits for the device."""

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        """An epoch is over and scored."""

    def finish(self) -> None:
        """Training ended."""


class Silent:
    """Watches nothing."""

    def start(self, num_epochs: int, rows_per_epoch: int, hyper: Hyperparameters) -> None:  # noqa: D102
        pass

    def batch(self, epoch: int, rows: int, loss_sum: torch.Tensor) -> None:  # noqa: D102
        pass

    def epoch(self, record: dict[str, Any], best: bool) -> None:  # noqa: D102
        pass

    def finish(self) -> None:  # noqa: D102
        pass
