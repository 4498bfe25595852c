"""The training loop: one loop for every model, rule and batch size. `learner` says what happens to one batch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clickherd import checkpoint, mup
from clickherd.config import Config
from clickherd.data.store import Store
from clickherd.device_store import TrainingRows
from clickherd.errors import Interrupted, UserError
from clickherd.evaluate import evaluate, monitored
from clickherd.learner import Learner, take_part
from clickherd.network import ClickModel
from clickherd.observer import Observer, Silent
from clickherd.optim.scaling import warmed_up
from clickherd.start import Start
from clickherd.training_state import Progress, Sums

MIN_STEPS_PER_EPOCH, MAX_AUTO_BATCH, MIN_AUTO_BATCH = 50, 65_536, 256
LOSS_POINTS = 200  # of the running training loss, in a run of all its epochs
CHECKPOINT_SHARE = 0.03  # of the time, at most, goes into writing checkpoints
AVERAGED_PER_EPOCH = 16  # times at most that the weights are taken into their average: each passes over the table


LearnerOf = Callable[[ClickModel, Config, int], Learner]


class DivergedError(UserError):
    """The loss is no longer finite."""


class Trainer:
    """Trains `model` on a store, epoch by epoch, in `folder`, where the best weights and checkpoints are kept."""

    def __init__(
        self,
        config: Config,
        model: ClickModel,
        train: Store,
        valid: Store | None,
        folder: Path,
        *,
        observer: Observer | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        learner_of: LearnerOf = Learner,
        start: Start | None = None,
    ) -> None:
        self.config, self.model, self.train, self.valid, self.folder = config, model, train, valid, folder
        self.observer, self.should_stop = observer or Silent(), should_stop
        self.batch_size = batch_size_for(config, len(train))
        self.steps_per_epoch = -(-len(train) // self.batch_size)
        self.progress = Progress()
        if start is not None:
            model.load_tensors(start.tensors, str(folder))
            self.progress.num_epochs, self.progress.decay = start.epochs, start.rate
        else:
            begin(model, config, train)
        self.learner = learner_of(model, config, self.batch_size)
        eta = config.optim.averaging
        self.average = self.learner.average(eta) if eta is not None else None
        self._average_every = -(-self.steps_per_epoch // AVERAGED_PER_EPOCH)
        self.rows = TrainingRows(train, model.device)  # after the learner: the rows get what memory it leaves
        self._clips = math.isfinite(self.learner.hyper.clip)
        self._last_checkpoint = time.perf_counter()
        self._checkpoint_cost = 0.0

    def run(self) -> Progress:
        """Train to the end, or until early stopping; the model then holds the best weights.

        Raises:
            Interrupted: `should_stop` said so; the checkpoint is written.
            DivergedError: the loss became NaN or infinite.
        """
        self.observer.start(self.num_epochs, len(self.train), self.learner.hyper)
        try:
            if self.progress.num_epochs is not None and not self.progress.total_steps:
                self._keep_start()
            while not self.is_done:
                self._epoch()
        finally:
            self.observer.finish()
        self.save_checkpoint()
        if self.progress.best_epoch < self.progress.epoch or self.average is not None:
            tensors, _ = checkpoint.load(self.folder / "model.safetensors")
            self.model.load_tensors(tensors, str(self.folder / "model.safetensors"))
        return self.progress

    @property
    def num_epochs(self) -> int:
        """At most."""
        own = self.progress.num_epochs
        return self.config.train.epochs if own is None else own

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        return is_done(self.progress, self.config)

    def _keep_start(self) -> None:
        """Let the weights that training starts from be the best so far."""
        valid = evaluate(self.model, self.valid).scores if self.valid is not None else {}
        score = monitored(valid, self.config.train.monitor)
        self.progress.best_score = -math.inf if score is None else score
        checkpoint.save(self.folder / "model.safetensors", self.model.tensors(), {"epoch": 0})
        checkpoint.write_text(self.folder / "metrics.jsonl", "")
        self.save_checkpoint()

    def _epoch(self) -> None:
        with self.learner.workers:
            self._batches()
        self._close_epoch()
        if self.should_stop() or self._checkpoint_due():
            self.save_checkpoint()
            if self.should_stop() and not self.is_done:
                raise Interrupted(self.folder)

    def _batches(self) -> None:
        progress, size = self.progress, self.batch_size
        warmup_steps = self.config.optim.warmup_epochs * self.steps_per_epoch
        note_every = max(1, self.num_epochs * self.steps_per_epoch // LOSS_POINTS)
        began, before = time.perf_counter(), progress.epoch_seconds
        rows = self.rows.epoch(self.config.train.seed, progress.epoch)
        sums = Sums(progress, self.model.device)
        while progress.step < self.steps_per_epoch:
            start, stop = progress.step * size, min((progress.step + 1) * size, len(self.train))
            hyper = warmed_up(self.learner.hyper, progress.total_steps, warmup_steps).decayed(progress.decay)
            sums.add(*self.learner.step(rows, start, stop, hyper), stop - start)
            progress.step += 1
            progress.total_steps += 1
            progress.rows += stop - start
            self._take_into_average()
            self.observer.batch(progress.epoch, stop, sums.loss)
            ends = progress.step == self.steps_per_epoch
            if progress.total_steps % note_every == 0 or ends:
                sums.note(progress.total_steps, stop)
            if ends or self.should_stop() or self._checkpoint_due():
                sums.read_into(progress)
                self.learner.settle()
                progress.epoch_seconds = before + time.perf_counter() - began
                self._check_finite()
                if not ends:
                    self.save_checkpoint()
                    if self.should_stop():
                        raise Interrupted(self.folder)

    def _take_into_average(self) -> None:
        times, rest = divmod(self.progress.total_steps, self._average_every)
        if self.average is not None and not rest:
            self.learner.embedding.settle()
            self.average.update(times)

    def _close_epoch(self) -> None:
        """With the averaged weights in place, if they are averaged: validate, and keep them if they are the best."""
        with self.average.in_place() if self.average is not None else nullcontext():
            valid = evaluate(self.model, self.valid).scores if self.valid is not None else {}
            self._judge(valid)

    def _judge(self, valid: dict[str, float | None]) -> None:
        """Keep the best weights, decide on early stopping, write the epoch's record."""
        progress, train = self.progress, self.config.train
        progress.epoch += 1
        progress.seconds += progress.epoch_seconds
        record = {
            "epoch": progress.epoch,
            "train_loss": progress.loss_sum / len(self.train),
            "valid": valid,
            "samples_per_second": len(self.train) / progress.epoch_seconds,
            "seconds": progress.epoch_seconds,
            "rate_decay": progress.decay,
            "clipped_fraction": progress.clipped / max(progress.touched, 1) if self._clips else None,
            "running_loss": progress.running_loss,
        }
        progress.history.append(record)
        score = monitored(valid, train.monitor)
        best = score is None or score > progress.best_score  # without validation rows the last weights count
        if best:
            progress.best_score = -math.inf if score is None else score
        if best or self.learner.keeps_last:
            progress.best_epoch = progress.epoch
            checkpoint.save(self.folder / "model.safetensors", self.model.tensors(), {"epoch": progress.epoch})
        if not best:
            progress.stopped = train.patience is not None and progress.epoch - progress.best_epoch >= train.patience
            progress.decay *= self.config.optim.plateau_factor
        progress.step, progress.loss_sum, progress.epoch_seconds = 0, 0.0, 0.0
        progress.running_loss, progress.noted_loss, progress.noted_rows = [], 0.0, 0
        progress.touched = progress.clipped = 0
        lines = "".join(json.dumps(line) + "\n" for line in progress.history)
        checkpoint.write_text(self.folder / "metrics.jsonl", lines)
        self.observer.epoch(record, best)

    def _check_finite(self) -> None:
        if not math.isfinite(self.progress.loss_sum):
            raise DivergedError(
                f"the training loss is no longer finite in epoch {self.progress.epoch + 1}",
                mend="Lower optim.learning_rate or optim.embedding_learning_rate, or train at a smaller --batch-size.",
            )

    def _checkpoint_due(self) -> bool:
        wait = max(self.config.train.checkpoint_seconds, self._checkpoint_cost / CHECKPOINT_SHARE)
        return time.perf_counter() - self._last_checkpoint >= wait

    def save_checkpoint(self) -> None:
        """Write all that is needed to go on as if nothing had happened."""
        began = time.perf_counter()
        tensors = self.learner.tensors()
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.tensors().items()}
        checkpoint.save(self.folder / "checkpoint" / "state.safetensors", tensors, asdict(self.progress))
        self._last_checkpoint = time.perf_counter()
        self._checkpoint_cost = self._last_checkpoint - began

    def restore(self) -> bool:
        """Take up the checkpoint in `folder`, if there is one."""
        path = self.folder / "checkpoint" / "state.safetensors"
        if not path.exists():
            return False
        tensors, facts = checkpoint.load(path)
        self.progress = Progress(**facts)
        averages = take_part(tensors, "average.")
        if self.average is not None:
            self.average.load_tensors(averages)
        self.learner.load_tensors(tensors, self.progress.total_steps, str(path))
        return True


def is_done(progress: Progress, config: Config) -> bool:
    """Whether a training that stands there has nothing left to do."""
    own = progress.num_epochs
    return progress.stopped or progress.epoch >= (config.train.epochs if own is None else own)


def begin(model: ClickModel, config: Config, train: Store) -> None:
    """Bring new weights to where training starts."""
    mup.initialise(model, config.optim.mup_base)
    if config.optim.initial_bias == "base-rate":
        model.start_at(log_odds(train.labels))


def log_odds(labels_N: npt.NDArray[np.float32]) -> float:
    """Of a click, as the rows have it; half a click and half a non-click more keep it finite."""
    clicks = float(np.sum(labels_N, dtype=np.float64))
    return math.log((clicks + 0.5) / (len(labels_N) - clicks + 0.5))


def batch_size_for(config: Config, num_rows: int) -> int:
    """The batch size asked for; otherwise the largest power of two that leaves at least 50 steps in an epoch."""
    if config.train.batch_size is not None:
        return config.train.batch_size
    steps = max(num_rows // MIN_STEPS_PER_EPOCH, 1)
    return min(MAX_AUTO_BATCH, max(MIN_AUTO_BATCH, 1 << (steps.bit_length() - 1)))
