"""What every peer's runner shares: the job, the encoded rows, the clock, and the one JSON line it prints.

A runner is started by benchmarks/speed.py with the Python of the peer's own environment, so this file needs
numpy, scikit-learn and torch only. Standard output carries the JSON line; all else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

EMBEDDING_DIM = 10
HIDDEN_UNITS = (400, 400, 400)
LEARNING_RATE = 1e-3
WARM_UP_ROWS = 8192  # or one batch, whichever is more


@dataclass(frozen=True)
class Job:
    """One measurement."""

    data: Path
    scratch: Path
    rows: int  # training rows of one fit; 0 takes all
    batch_size: int
    threads: int
    seed: int
    variant: str
    accuracy: bool


@dataclass(frozen=True)
class Fields:
    """The columns of the encoded rows: categorical fields with the number of their ids, and numeric columns."""

    categorical: dict[str, int]
    numeric: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """Encoded rows. Ids count from 0 within each field; numeric columns lie in [0, 1]."""

    ids: npt.NDArray[np.int32]  # (N, S)
    numeric: npt.NDArray[np.float32]  # (N, K)
    labels: npt.NDArray[np.float32]  # (N,)
    split: str
    start: int
    stop: int

    def columns(self, fields: Fields) -> dict[str, npt.NDArray[np.generic]]:
        """Column name → contiguous values."""
        ids = {name: np.ascontiguousarray(self.ids[:, j]) for j, name in enumerate(fields.categorical)}
        numeric = {name: np.ascontiguousarray(self.numeric[:, j]) for j, name in enumerate(fields.numeric)}
        return ids | numeric


class Peer(Protocol):
    """A trainer under measurement."""

    settings: dict[str, Any]  # what a reader must know about how the peer was run

    def prepare(self, rows: Rows) -> Any:
        """The rows in the form that the peer's fit takes. Not timed."""

    def fit(self, prepared: Any) -> None:
        """One epoch over the rows with the peer's own loop. Timed."""

    def predict(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Click probabilities, shape (N,)."""


def read_fields(data: Path) -> Fields:
    """The columns of the data folder."""
    meta = json.loads((data / "meta.json").read_text())
    return Fields({field["name"]: field["size"] for field in meta["fields"]}, tuple(meta["numeric"]))


def read_rows(data: Path, split: str, start: int = 0, stop: int | None = None) -> Rows:
    """Rows [start, stop) of a split, copied into memory."""
    arrays = {
        name: np.load(data / f"{split}_{name}.npy", mmap_mode="r")[start:stop] for name in ("ids", "numeric", "labels")
    }
    end = start + len(arrays["labels"])
    return Rows(**{name: np.array(array) for name, array in arrays.items()}, split=split, start=start, stop=end)


def peak_rss_mib() -> float:
    """The most memory this process has held. Not ru_maxrss, which starts at the parent's."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else float("nan")


def main(make: Callable[[Job, Fields], Peer]) -> None:
    """Measure the peer that `make` builds, as the command line asks, and print the figures as one JSON line."""
    with _stdout_for_json() as out:
        job = _read_job()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
        import torch

        torch.set_num_threads(job.threads)
        peer = make(job, read_fields(job.data))
        figures = _accuracy(job, peer) if job.accuracy else _speed(job, peer)
        figures |= {"peak_rss_mib": round(peak_rss_mib(), 1), "settings": peer.settings}
        out.write(json.dumps(figures) + "\n")


def _speed(job: Job, peer: Peer) -> dict[str, Any]:
    """A warm-up fit, which is thrown away, and then one timed fit over the first rows of the training split."""
    peer.fit(peer.prepare(read_rows(job.data, "train", 0, max(job.batch_size, WARM_UP_ROWS))))
    return _timed_fit(job, peer)


def _accuracy(job: Job, peer: Peer) -> dict[str, Any]:
    """One epoch from fresh weights, and the test scores after it."""
    from sklearn.metrics import log_loss, roc_auc_score

    figures = _timed_fit(job, peer)
    test = read_rows(job.data, "test")
    y_score = peer.predict(test)
    return figures | {
        "auc": float(roc_auc_score(test.labels, y_score)),
        "logloss": float(log_loss(test.labels, y_score)),
    }


def _timed_fit(job: Job, peer: Peer) -> dict[str, Any]:
    rows = read_rows(job.data, "train", 0, job.rows or None)
    prepared = peer.prepare(rows)
    cpu, start = time.process_time(), time.perf_counter()
    peer.fit(prepared)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    count = len(rows.labels)
    return {
        "rows": count,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),  # of this process; a loader's worker processes are not in it
        "rows_per_second": round(count / seconds, 1),
    }


def _read_job() -> Job:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", default="")
    parser.add_argument("--accuracy", action="store_true")
    return Job(**vars(parser.parse_args()))


@contextlib.contextmanager
def _stdout_for_json() -> Iterator[Any]:
    """Keep standard output for the JSON line: what the peer prints, from C as well, goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        yield out
