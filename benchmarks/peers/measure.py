"""What every peer's runner shares: the job, the encoded rows, the clock, and the one JSON line it prints.

A runner is started by benchmarks/speed.py or time_to_auc.py with the Python of the peer's own environment, so this
file needs numpy and scikit-learn only. Standard output carries the JSON line; all else goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

EMBEDDING_DIM = 10
HIDDEN_UNITS = (400, 400, 400)
CROSS_LAYERS = 3  # of DCN-v2, with a full matrix each, beside the MLP
LEARNING_RATE = 1e-3
WARM_UP_ROWS = 8192  # or one batch, whichever is more
SCORED_AT_A_TIME = 8192  # test rows, where speed is not the question
SCORINGS = 3  # that are timed


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
    measure: str  # a key of MEASURES
    model: str = "deepfm"  # or dcnv2, wide_deep
    scoring_batch_size: int = SCORED_AT_A_TIME
    points: int = 10  # of a curve, in every epoch
    epochs: int = 1  # of a curve
    budget: float = math.inf  # seconds of training after which trees get no more rounds, and a curve no more points


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

    def part(self, start: int, stop: int) -> Rows:
        """Rows [start, stop) of these."""
        taken = slice(start, stop)
        columns = (self.ids[taken], self.numeric[taken], self.labels[taken])
        return Rows(*columns, self.split, self.start + start, self.start + stop)

    def columns(self, fields: Fields) -> dict[str, npt.NDArray[np.generic]]:
        """Column name → contiguous values."""
        columns: dict[str, npt.NDArray[np.generic]] = {}
        for names, values in ((fields.categorical, self.ids), (fields.numeric, self.numeric)):
            columns |= {name: np.ascontiguousarray(values[:, j]) for j, name in enumerate(names)}
        return columns


class Peer(Protocol):
    """A trainer under measurement."""

    # What a reader must know about how the peer was run. A trainer of networks gives `parameter_counts`, and under
    # `network` what is not as in clickherd's network.
    settings: dict[str, Any]

    def prepare(self, rows: Rows) -> Any:
        """The rows in the form that the peer's fit takes. Not timed."""

    def fit(self, prepared: Any) -> float | None:
        """One epoch over the rows with the peer's own loop. Timed, but for the seconds that it returns."""

    def predict(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Click probabilities, shape (N,)."""


@runtime_checkable
class WithScorer(Protocol):
    """A peer that predicts batch by batch."""

    def scorer(self, rows: Rows, batch_size: int) -> Callable[[], npt.NDArray[np.float64]]:
        """The peer's own call that predicts, on rows in the form that it takes: only the call is timed."""


@runtime_checkable
class WithCurve(Protocol):
    """A peer whose training cannot be cut into one fit after the other, or need not be."""

    def curve(self, rows: Rows, curve: Curve) -> None:
        """Train from fresh weights to the end, with points on the way."""


class Curve:
    """Test scores on the way through a training run. The clock stands still while the test rows are scored."""

    def __init__(self, test: Rows, epochs: int, points_per_epoch: int, budget: float = math.inf) -> None:
        self.test, self.epochs, self.points_per_epoch, self.budget = test, epochs, points_per_epoch, budget
        self.seconds = 0.0
        self.points: list[dict[str, float]] = []
        self._since = 0.0

    def start(self) -> None:
        """The clock runs."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """The clock stands still."""
        self.seconds += time.perf_counter() - self._since

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self.seconds >= self.budget

    def add(self, progress: float, y_score: npt.NDArray[np.float64], seconds: float | None = None) -> None:
        """A point: epochs or rounds so far, and the predictions for the test rows; `seconds` in place of the clock."""
        at = self.seconds if seconds is None else seconds
        self.points.append({"progress": round(progress, 4), "seconds": round(at, 3), **scores(self.test, y_score)})


def stops(rows: int, batch_size: int, points: int) -> list[int]:
    """Where an epoch is halted for a point: about evenly apart, after whole batches, and at its end."""
    batches = -(-rows // batch_size)
    return sorted({min(-(-batches * point // points) * batch_size, rows) for point in range(1, points + 1)})


def scores(rows: Rows, y_score: npt.NDArray[np.float64]) -> dict[str, float]:
    """AUC and log loss."""
    from sklearn.metrics import log_loss, roc_auc_score

    return {"auc": float(roc_auc_score(rows.labels, y_score)), "logloss": float(log_loss(rows.labels, y_score))}


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


def parameter_counts(dense: int, table: int) -> dict[str, int]:
    """For a peer's settings: the weights of its network, and those that belong to an id, linear weights included."""
    return {"dense_parameters": dense, "table_parameters": table}


def peak_rss_mib() -> float:
    """The most memory this process has held. Not ru_maxrss, which starts at the parent's."""
    return status_mib("VmHWM")


def forget_peak() -> None:
    """The peak is counted anew from what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def status_mib(name: str) -> float:
    """What Linux says of this process's memory: RssAnon of its own, RssFile of files mapped (data, libraries), …"""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else float("nan")


def main(make: Callable[[Job, Fields], Peer]) -> None:
    """Measure the peer that `make` builds, as the command line asks, and print the figures as one JSON line."""
    with _stdout_for_json() as out:
        job = _read_job()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(job.threads)
        peer = make(job, read_fields(job.data))
        figures = MEASURES[job.measure](job, peer)
        figures = {"peak_rss_mib": round(peak_rss_mib(), 1), "settings": peer.settings} | figures
        out.write(json.dumps(figures) + "\n")


def _speed(job: Job, peer: Peer) -> dict[str, Any]:
    """A warm-up fit, which is thrown away, and then one timed fit over the first rows of the training split."""
    peer.fit(peer.prepare(read_rows(job.data, "train", 0, max(job.batch_size, WARM_UP_ROWS))))
    return _timed_fit(job, peer)


def _accuracy(job: Job, peer: Peer) -> dict[str, Any]:
    """One epoch from fresh weights, and the test scores after it."""
    figures = _timed_fit(job, peer)
    test = read_rows(job.data, "test")
    return figures | scores(test, peer.predict(test))


def _curve(job: Job, peer: Peer) -> dict[str, Any]:
    """Test scores on the way through all epochs, from fresh weights. What a trainer compiles at first is on its clock.

    A peer that says nothing else is called with one part of the epoch after the other, and goes on where it was. Once
    the budget is used up, no part begins any more.
    """
    curve = Curve(read_rows(job.data, "test"), job.epochs, job.points, job.budget)
    rows = read_rows(job.data, "train", 0, job.rows or None)
    if isinstance(peer, WithCurve):
        peer.curve(rows, curve)
        return {"rows": len(rows.labels), "points": curve.points}
    ends = stops(len(rows.labels), job.batch_size, job.points)
    for epoch in range(job.epochs):
        for start, stop in itertools.pairwise([0, *ends]):
            if curve.is_over:
                break
            prepared = peer.prepare(rows.part(start, stop))
            curve.start()
            peer.fit(prepared)
            curve.stop()
            curve.add(epoch + stop / len(rows.labels), peer.predict(curve.test))
    return {"rows": len(rows.labels), "points": curve.points}


def _prediction(job: Job, peer: Peer) -> dict[str, Any]:
    """Rows per second of predicting the test rows, by a network that was trained first; the median of some calls."""
    if not isinstance(peer, WithScorer):
        raise SystemExit("this peer does not predict batch by batch")
    peer.fit(peer.prepare(read_rows(job.data, "train", 0, job.rows or None)))
    test = read_rows(job.data, "test")
    score = peer.scorer(test, job.scoring_batch_size)
    forget_peak()
    found = scores(test, score())  # this first call does not count
    seconds = []
    for _ in range(SCORINGS):
        start = time.perf_counter()
        score()
        seconds.append(round(time.perf_counter() - start, 4))
    speed = round(len(test.labels) / statistics.median(seconds), 1)
    return {"rows": len(test.labels), "seconds": seconds, "rows_per_second": speed} | found


MEASURES = {"speed": _speed, "accuracy": _accuracy, "curve": _curve, "prediction": _prediction}


def _timed_fit(job: Job, peer: Peer) -> dict[str, Any]:
    rows = read_rows(job.data, "train", 0, job.rows or None)
    count, prepared = len(rows.labels), peer.prepare(rows)
    del rows  # the peer has its own form of them
    forget_peak()
    cpu, start = time.process_time(), time.perf_counter()
    apart = peer.fit(prepared) or 0.0
    seconds, cpu_seconds = time.perf_counter() - start - apart, time.process_time() - cpu
    return {
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "rows": count,
        "seconds": round(seconds, 3),
        "seconds_apart": round(apart, 3),
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
    parser.add_argument("--measure", choices=MEASURES, required=True)
    parser.add_argument("--model", default=Job.model)
    parser.add_argument("--scoring-batch-size", type=int, default=Job.scoring_batch_size)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--budget", type=float, default=math.inf)
    return Job(**vars(parser.parse_args()))


@contextlib.contextmanager
def _stdout_for_json() -> Iterator[Any]:
    """Keep standard output for the JSON line: what the peer prints, from C as well, goes to standard error."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        yield out
