"""clickherd: its training loop on its encoded store, without validation rows.

The clock of speed.py stands still while weights and optimiser are written at the end of the run (`seconds_apart` in the
result): most other trainers write nothing.

The variant is the optimiser: `default`, what a run without settings uses where the CPU has no bf16 units; `bf16`, what
it uses where there are some; `touched`, as the first without the L2 and momentum of rows that a batch does not touch;
`cowclip`, the published recipe for Criteo, carried to the batch size by its rule; `adam`, the peers': Adam at 1e-3 over
the whole table, no clip, no L2, no warm-up, the same rates at every batch size.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import torch

from clickherd.config import Config, dump_yaml, load_yaml, resolve
from clickherd.data.store import Batch, FieldLayout, Layout, Store, StoreWriter
from clickherd.errors import Interrupted
from clickherd.network import ClickModel
from clickherd.observer import Silent
from clickherd.runtime import seeded, use_threads
from clickherd.train import Trainer

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "criteo" / "deepfm_1k.yaml"
PLAIN_ADAM = {
    "rule": "none",
    "learning_rate": measure.LEARNING_RATE,
    "embedding_learning_rate": measure.LEARNING_RATE,
    "l2": 0.0,
    "clip": float("inf"),
    "warmup_epochs": 0.0,
    "epsilon": 1e-8,
    "init_std": 1e-4,
    "averaging": None,
    "initial_bias": "zero",
}


class ClickHerd:
    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.scratch = job.scratch / "clickherd"
        self.layout = layout(fields)
        self.config = settings(job)
        use_threads(job.threads)
        with seeded(job.seed):
            self.model = ClickModel(self.config.model, self.layout, init_std=self.config.optim.init_std)
        self.settings: dict[str, Any] = {
            "optimizer": job.variant,
            "resolved": dump_yaml(self.config),
            "validation": "none",
            **measure.parameter_counts(
                sum(weight.numel() for weight in self.model.net.parameters()), self.model.table.weight.numel()
            ),
        }

    def prepare(self, rows: measure.Rows) -> Trainer:
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self._scratch()))
        return Trainer(self.config, self.model, self._store(rows), None, folder)

    def fit(self, prepared: Trainer) -> float:
        began = time.perf_counter()
        progress = prepared.run()
        return time.perf_counter() - began - progress.seconds

    def curve(self, rows: measure.Rows, curve: measure.Curve) -> None:
        """Points within the one run, from an observer: parts would each begin with new moments and a new warm-up."""
        trainer = self.prepare(rows)
        trainer.observer = Pauses(
            self, trainer, curve, measure.stops(len(rows.labels), trainer.batch_size, curve.points_per_epoch)
        )
        trainer.should_stop = lambda: curve.is_over
        curve.start()
        with suppress(Interrupted):
            trainer.run()
        curve.stop()

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.model.predict(self._batch(rows))

    def scorer(self, rows: measure.Rows, batch_size: int) -> Callable[[], npt.NDArray[np.float64]]:
        """From the encoded store, as its `evaluate` reads it."""
        store = self._store(rows)
        return lambda: np.concatenate([self.model.predict(batch) for batch in store.batches(batch_size)])

    def _store(self, rows: measure.Rows) -> Store:
        """The rows on disk, written once and then reused."""
        path = self._scratch() / f"{rows.split}-{rows.start}-{rows.stop}"
        if not (path / "store.json").exists():
            shutil.rmtree(path, ignore_errors=True)
            with StoreWriter(path, self.layout) as writer:
                writer.append(self._batch(rows))
        return Store(path)

    def _scratch(self) -> Path:
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch

    def _batch(self, rows: measure.Rows) -> Batch:
        offsets = np.array([field.offset for field in self.layout.fields], dtype=np.int32)
        return Batch(rows.ids + offsets, (), rows.numeric, rows.labels, np.empty(0, np.uint64))


class Pauses(Silent):
    """Adds a point to the curve where an epoch has come to one of `ends`."""

    def __init__(self, peer: ClickHerd, trainer: Trainer, curve: measure.Curve, ends: list[int]) -> None:
        self.peer, self.trainer, self.points, self.ends = peer, trainer, curve, ends

    def batch(self, epoch: int, rows: int, loss_sum: torch.Tensor) -> None:
        if rows in self.ends:
            self.trainer.learner.settle()
            self.points.stop()
            average = self.trainer.average
            with average.in_place() if average is not None else nullcontext():  # as a run that ended here would be
                self.points.add(epoch + rows / self.ends[-1], self.peer.predict(self.points.test))
            self.points.start()


def layout(fields: measure.Fields) -> Layout:
    """One id space for all fields, in the order of the columns."""
    sizes = list(fields.categorical.values())
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    described = zip(fields.categorical, offsets.tolist(), sizes, strict=True)
    return Layout(tuple(FieldLayout(name, offset, size) for name, offset, size in described), fields.numeric)


def settings(job: measure.Job) -> Config:
    """The network of the comparison, and the variant's optimiser."""
    optim: dict[str, dict[str, Any]] = {
        "default": {},
        "bf16": {},
        "touched": {"regularize": "batch"},
        "cowclip": load_yaml(RECIPE)["optim"],
        "adam": PLAIN_ADAM,
    }
    mlp = {"hidden_units": list(measure.HIDDEN_UNITS)}
    return resolve(
        {
            "model": {"name": job.model, "embedding_dim": measure.EMBEDDING_DIM, "mlp": mlp},
            "optim": optim[job.variant],
            "train": {
                "batch_size": job.batch_size,
                "epochs": job.epochs,
                "seed": job.seed,
                "threads": job.threads,
                "precision": "bf16" if job.variant == "bf16" else "fp32",
            },
        }
    )


if __name__ == "__main__":
    measure.main(ClickHerd)
