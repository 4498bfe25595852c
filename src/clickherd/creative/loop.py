"""The training loop of every stage: batches, AdamW, an average of the weights, checkpoints.

Whatever is random in step i is drawn from (seed, stage, i, part) alone, so that a stage that was cut off and goes on
ends where it would have ended. On a CPU a batch goes through the network in micro-batches, each the work of one thread:
these networks consist of many small operations, which two threads together hardly do faster (`workers`, docs/log.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from clickherd import checkpoint
from clickherd.creative.config import StageConfig
from clickherd.errors import RunError
from clickherd.workers import Workers

CHECKPOINT_SECONDS = 60.0
POINTS = 40  # of the loss that are kept of a stage
PARTS, FEWEST_OF_PART = 4, 32  # of a batch on a CPU, whatever the number of threads: it decides what is random
VALID_ROWS = 512


class Observer(Protocol):
    """Whoever watches a stage."""

    def start(self, stage: str, steps: int, done: int) -> None:
        """A stage begins, or goes on after `done` steps."""

    def step(self, done: int, loss: Tensor) -> None:
        """One more step is done; reading its loss waits for the device."""

    def finish(self, record: dict[str, Any] | None) -> None:
        """The stage is at its end, or was stopped (None)."""


class Unwatched:
    """Nobody watches."""

    def start(self, stage: str, steps: int, done: int) -> None:
        """Nothing."""

    def step(self, done: int, loss: Tensor) -> None:
        """Nothing."""

    def finish(self, record: dict[str, Any] | None) -> None:
        """Nothing."""


Loss = Callable[[np.ndarray, torch.Generator], Tensor]  # of row numbers of the image set


@dataclass(frozen=True)
class Stage:
    """What one stage trains, and on what: `loss(rows, rng)` for row numbers of the image set."""

    name: str
    module: nn.Module
    config: StageConfig
    loss: Loss
    train_rows: np.ndarray
    valid_rows: np.ndarray
    parts: int = PARTS
    """Of a batch at most; 1 where the loss is not a mean over rows, as the contrastive one is not."""


@dataclass
class _Done:
    """How far a stage is: what a checkpoint holds beside tensors."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    recent: list[Tensor] = field(default_factory=list)  # losses since the last one of the history


class Stopped(Exception):  # noqa: N818  (not a fault: it was asked for)
    """Training was asked to stop; a checkpoint is written."""


def fit(
    stage: Stage,
    folder: Path,
    seed: int,
    *,
    precision: str = "fp32",
    observer: Observer,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train the stage's module, which afterwards holds the averaged weights. Goes on from a checkpoint in `folder`.

    Returns:
        {"stage", "steps", "seconds", "train_loss", "valid_loss", "history": [{"step", "loss"}, …]}

    Raises:
        Stopped: `should_stop` said so; a checkpoint is written.
        RunError: the loss is no number any more, or the checkpoint is of another stage's shape.
    """
    config, module = stage.config, stage.module
    parameters = [p for p in module.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True
    )
    average = EMAModel(parameters, decay=config.ema_decay, foreach=True)
    file, done = folder / f"{stage.name}.safetensors", _Done()
    if file.exists():
        done = _load(file, parameters, optimizer, average)
    batches = Batches(stage.train_rows, config.batch_size, seed_of(seed, stage.name))
    every = max(config.steps // POINTS, 1)
    parts = max(min(stage.parts, config.batch_size // FEWEST_OF_PART), 1) if device.type == "cpu" else 1
    observer.start(stage.name, config.steps, done.step)
    module.train()
    began = saved = time.monotonic()
    with Workers(min(torch.get_num_threads(), parts)) as workers:
        while done.step < config.steps:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate(done.step, config.steps, config.warmup)
            rows = np.array_split(batches.rows(done.step), parts)
            seeds = [seed_of(seed, stage.name, done.step, part) for part in range(parts)]
            loss = backward(stage, rows, seeds, precision, workers)
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.step(parameters)
            done.step += 1
            done.recent.append(loss)
            observer.step(done.step, done.recent[-1])
            stopping = should_stop() and done.step < config.steps
            saving = stopping or time.monotonic() - saved > CHECKPOINT_SECONDS
            if saving and not math.isfinite(float(torch.stack(done.recent).sum())):
                raise _lost(stage.name, done.step, folder)
            if done.step % every == 0 or done.step == config.steps:
                mean = float(torch.stack(done.recent).mean())
                done.recent.clear()
                if not math.isfinite(mean):
                    raise _lost(stage.name, done.step, folder)
                done.history.append({"step": done.step, "loss": mean})
            if saving:
                done.seconds += time.monotonic() - began
                began = saved = time.monotonic()
                _save(file, parameters, optimizer, average, done)
            if stopping:
                observer.finish(None)
                raise Stopped
    done.seconds += time.monotonic() - began
    average.copy_to(parameters)
    module.eval()
    record = {
        "stage": stage.name,
        "steps": done.step,
        "seconds": done.seconds,
        "train_loss": done.history[-1]["loss"],
        "valid_loss": valid_loss(stage, seed, precision),
        "history": done.history,
    }
    observer.finish(record)
    return record


def backward(
    stage: Stage, rows: Sequence[np.ndarray], seeds: Sequence[int], precision: str, workers: Workers
) -> Tensor:
    """Leave the gradient of a batch's mean loss in the parameters; returns the loss, a float32 scalar.

    Each micro-batch, with a seed of its own, is the work of one thread; gradients are added in this order, so that the
    same sum comes out whoever was first.
    """
    parameters = [p for p in stage.module.parameters() if p.requires_grad]
    device, number = parameters[0].device, sum(map(len, rows))

    def of_part(task: tuple[np.ndarray, int]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        part, seed = task
        rng = torch.Generator(device).manual_seed(seed)
        with autocast(device, precision):
            loss = stage.loss(part, rng) * (len(part) / number)
        return loss.detach().float(), torch.autograd.grad(loss, parameters, allow_unused=True)

    losses, by_part = zip(*workers.map(of_part, zip(rows, seeds, strict=True)), strict=True)
    for parameter, found in zip(parameters, zip(*by_part, strict=True), strict=True):
        parameter.grad = _summed([gradient for gradient in found if gradient is not None])
    return torch.stack(losses).sum()


def _summed(gradients: list[Tensor]) -> Tensor | None:
    """Their sum in this order, laid out as weights are; None of none: the weight took no part."""
    return reduce(torch.add, gradients).contiguous() if gradients else None


@torch.no_grad()
def valid_loss(stage: Stage, seed: int, precision: str) -> float | None:
    """The loss on rows that are not trained on, at most 512 of them, with the same random numbers each time."""
    rows = spread(stage.valid_rows, VALID_ROWS)
    if not len(rows):
        return None
    parts = np.array_split(rows, math.ceil(len(rows) / stage.config.batch_size))
    device, total = next(stage.module.parameters()).device, 0.0
    for i, part in enumerate(parts):
        rng = torch.Generator(device).manual_seed(seed_of(seed, stage.name, "valid", i))
        with autocast(device, precision):
            total += float(stage.loss(part, rng)) * len(part)
    return total / len(rows)


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly spread: files often lie class by class."""
    if len(rows) <= most:
        return rows
    return rows[np.arange(most) * len(rows) // most]


def rate(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor at a step: a linear rise over the share `warmup`, then half a cosine down to 0."""
    rise = max(round(steps * warmup), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def seed_of(*parts: int | str) -> int:
    """One seed of several things."""
    numbers = [crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Products in bf16 where that is the precision."""
    if precision != "bf16":
        return nullcontext()
    # torch has one cache of weights in bf16 for all threads, and the graphs of micro-batches must not share its nodes
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


class Batches:
    """The rows in a new order each epoch, cut into batches that go on across epochs."""

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int) -> None:
        self._rows, self._size = rows, batch_size
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(rows))

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of the batch of a step, `batch_size` of them."""
        places = np.arange(step * self._size, (step + 1) * self._size)
        epochs = places // len(self._rows)
        return np.concatenate([self._order(e)[places[epochs == e] % len(self._rows)] for e in np.unique(epochs)])


def _lost(stage: str, step: int, folder: Path) -> RunError:
    clip = "" if stage == "clip" else f", with --clip {folder.parent / 'clip'} to keep that"
    return RunError(
        f"the loss of stage {stage} is no number any more after {step} steps",
        file=folder,
        mend=f"Train anew with a lower {stage}.learning_rate{clip}.",
    )


def _save(
    file: Path, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, average: EMAModel, done: _Done
) -> None:
    tensors: dict[str, Tensor] = {}
    for i, parameter in enumerate(parameters):
        tensors[f"weight.{i}"] = parameter.detach()
        tensors[f"average.{i}"] = average.shadow_params[i]
        for name, value in optimizer.state[parameter].items():
            tensors[f"{name}.{i}"] = value
    facts = {
        "step": done.step,
        "seconds": done.seconds,
        "history": done.history,
        "recent": torch.stack(done.recent).tolist() if done.recent else [],
    }
    checkpoint.save(file, tensors, facts)


@torch.no_grad()
def _load(file: Path, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, average: EMAModel) -> _Done:
    tensors, facts = checkpoint.load(file)
    shapes = [tuple(tensors[f"weight.{i}"].shape) for i in range(len(parameters)) if f"weight.{i}" in tensors]
    if shapes != [tuple(p.shape) for p in parameters] or f"weight.{len(parameters)}" in tensors:
        raise RunError("the checkpoint is of a network of another size", file=file, mend="Remove it to begin anew.")
    for i, parameter in enumerate(parameters):
        parameter.copy_(tensors[f"weight.{i}"])
        average.shadow_params[i] = tensors[f"average.{i}"].to(parameter.device)
        optimizer.state[parameter] = {
            name: tensors[f"{name}.{i}"].to(parameter.device)
            for name in ("step", "exp_avg", "exp_avg_sq")
            if f"{name}.{i}" in tensors  # not of a weight that never took part
        }
    average.optimization_step = facts["step"]
    recent = list(torch.tensor(facts["recent"], device=parameters[0].device))
    return _Done(facts["step"], facts["seconds"], facts["history"], recent)
