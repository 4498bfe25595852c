"""What a person sees while training: a progress bar on stderr, and a line per epoch."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from clickherd.optim.scaling import Hyperparameters

REFRESH_SECONDS = 0.5


class RichObserver:
    """Progress with samples per second and the running loss. Without `lines`, only the bar is shown."""

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        self.console, self.lines = console, lines
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%  {task.fields[speed]:>7} rows/s  loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # in a file each bar would leave an empty line
        )
        self._task: TaskID | None = None
        self._rows_per_epoch = 1
        self._num_epochs = 1
        self._shown = self._began = 0.0
        self._rows_at_begin = 0
        self._clips = False

    def start(self, num_epochs: int, rows_per_epoch: int, hyper: Hyperparameters) -> None:
        """Show the bar and the hyper-parameters in force."""
        self._num_epochs, self._rows_per_epoch = num_epochs, rows_per_epoch
        self._clips = math.isfinite(hyper.clip)
        if self.lines:
            self.console.print(f"[dim]{hyper.describe()}[/dim]", highlight=False)
        self._task = self._bar.add_task("", total=rows_per_epoch, epoch=f"1/{num_epochs}", speed="–", loss="–")
        self._bar.start()
        self._began = time.perf_counter()

    def batch(self, epoch: int, rows: int, loss_sum: torch.Tensor) -> None:
        """Move the bar, at most twice a second: reading the loss waits for the device."""
        now = time.perf_counter()
        if now - self._shown < REFRESH_SECONDS or self._task is None:
            return
        self._shown = now
        speed = (rows - self._rows_at_begin) / max(now - self._began, 1e-9)
        self._bar.update(
            self._task,
            completed=rows,
            epoch=f"{epoch + 1}/{self._num_epochs}",
            speed=f"{speed:,.0f}",
            loss=f"{float(loss_sum) / rows:.4f}",
        )

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        """A line that stays, and the bar back at its beginning."""
        if self.lines:
            self._print(record, best)
        if self._task is not None:
            following = f"{min(record['epoch'] + 1, self._num_epochs)}/{self._num_epochs}"
            self._bar.reset(self._task, total=self._rows_per_epoch, epoch=following, speed="–", loss="–")
        self._began, self._rows_at_begin = time.perf_counter(), 0

    def finish(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _print(self, record: dict[str, Any], best: bool) -> None:
        valid = record["valid"]
        scores = "  ".join(f"{name} {valid[name]:.4f}" for name in ("auc", "logloss") if valid.get(name) is not None)
        self.console.print(
            f"epoch {record['epoch']:>2}  train loss {record['train_loss']:.4f}"
            + (f"  valid {scores}" if scores else "")
            + f"  {record['samples_per_second']:,.0f} rows/s"
            + (f"  clipped {record['clipped_fraction']:.2%}" if self._clips else "")
            + ("  [green]best[/green]" if best and scores else ""),
            highlight=False,
            soft_wrap=True,
        )
