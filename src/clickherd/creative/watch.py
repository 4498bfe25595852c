"""What a person sees while stages are trained: a progress bar on stderr, and a line per stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

REFRESH_SECONDS = 0.5


class Watch:
    """An observer of stages (`loop.Observer`)."""

    def __init__(self, console: Console, training: Callable[[bool], None] = lambda _: None) -> None:
        """`training` is told when batches begin and end."""
        self.console, self._training = console, training
        self._shown = 0.0
        self._bar = self._new_bar()

    def _new_bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} steps  loss {task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,  # in a file each bar would leave an empty line
        )

    def start(self, stage: str, steps: int, done: int) -> None:
        """Show the bar of a stage."""
        self._training(True)
        self._bar = self._new_bar()
        self._task = self._bar.add_task(stage, total=steps, completed=done, loss="–")
        self._bar.start()

    def step(self, done: int, loss: Tensor) -> None:
        """Move it, at most twice a second: reading the loss waits for the device."""
        now = time.perf_counter()
        if now - self._shown >= REFRESH_SECONDS:
            self._shown = now
            self._bar.update(self._task, completed=done, loss=f"{float(loss):.4f}")

    def finish(self, record: dict[str, Any] | None) -> None:
        """Take the bar away; a line stays of a stage that is at its end."""
        self._training(False)
        self._bar.stop()
        if record is not None:
            valid = "" if record["valid_loss"] is None else f"  valid loss {record['valid_loss']:.4f}"
            self.console.print(
                f"{record['stage']}: {record['steps']:,} steps in {record['seconds']:,.0f} s  "
                f"train loss {record['train_loss']:.4f}{valid}",
                highlight=False,
                soft_wrap=True,
            )
