"""Where the time of a training step on a CPU goes, and what the floor under each part is.

    python benchmarks/data.py DATA --tail-exponent 1.235
    python benchmarks/step_profile.py DATA

Trains DeepFM (MLP 400-400-400) as benchmarks/speed.py does, with a clock around each part, and writes
docs/step-profile.md. Times are in core-microseconds a row: what a part costs all cores together, whether they work or
wait for it, so that the parts add up to the cores' whole time. Floors: for the matrix products, the same products alone
at the fastest rate of two libraries; for what moves memory, its bytes at the rate of a copy too large for the caches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

import host
import measure
import run_clickherd
from tables import grid

from clickherd.bench import products_seconds
from clickherd.device_store import HostEpoch
from clickherd.layers import relu_mlp
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.optim.adam import KerasAdam
from clickherd.optim.cowclip import CowClip

STEPS = 40
PAGE = host.REPOSITORY / "docs" / "step-profile.md"
# Part → the calls that it is made of; of nested calls, the inner one's time is its own.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "rows from the store": [(HostEpoch, "take")],
    "waiting table rows catch up": [(CowClip, "touch"), (CowClip, "settle")],
    "gather": [(EmbeddingTable, "gather")],
    "matrix products": [(relu_mlp, "linear"), (torch, "mm")],
    "the network's other operators": [(Learner, "gradients")],
    "gradients into the table": [(CowClip, "accumulate")],
    "dense gradients": [(KerasAdam, "zero_grad"), (KerasAdam, "accumulate")],
    "dense Adam": [(KerasAdam, "update")],
    "clip and update of touched rows": [(CowClip, "step")],
}
REST = "waiting for each other, Python"
# Parts that run while no micro-batch is under way: every core works on them or waits for them.
ALONE = ("rows from the store", "waiting table rows catch up", "dense Adam", "clip and update of touched rows")


class Clock:
    """Core-seconds by part, of all threads."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = threading.local()  # .seconds: of the calls within the one that runs
        self._lock = threading.Lock()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner.seconds = getattr(self._inner, "seconds", 0.0), 0.0
            # Side by side, only a thread's own work counts; alone, every core's time until it is done.
            now = time.perf_counter if part in ALONE else time.thread_time
            began = now()
            try:
                return function(*args, **kwargs)
            finally:
                took = now() - began
                own = took - self._inner.seconds
                self._inner.seconds = outer + took
                with self._lock:
                    self.seconds[part] += own * (self.cores if part in ALONE else 1)

        return timed


@contextmanager
def timed_parts(clock: Clock) -> Iterator[None]:
    """Every call of `PARTS` runs under the clock."""
    with ExitStack() as stack:
        for part, calls in PARTS.items():
            for owner, name in calls:
                stack.enter_context(mock.patch.object(owner, name, clock.around(part, getattr(owner, name))))
        yield


def profile(data: Path, batch_size: int, threads: int, scratch: Path) -> dict[str, Any]:
    """Core-microseconds a row by part, with floors."""
    job = measure.Job(data, scratch, STEPS * batch_size, batch_size, threads, 0, "default", "speed")
    (scratch / "clickherd").mkdir(exist_ok=True)
    peer = run_clickherd.ClickHerd(job, measure.read_fields(data))
    trainer = peer.prepare(measure.read_rows(data, "train", 0, min(STEPS * batch_size, 1 << 20)))
    learner, rows = trainer.learner, trainer.rows.epoch(0, 0)
    steps = len(trainer.train) // batch_size
    half = max(1, min(steps // 2, 4))

    def run(first: int, last: int) -> float:
        began = time.perf_counter()
        for step in range(first, last):
            learner.step(rows, step * batch_size, (step + 1) * batch_size, learner.hyper)
        return time.perf_counter() - began

    clock = Clock(threads)
    with learner.workers:
        run(0, half)
        plain = run(half, steps)  # the same rows again below: the clock itself costs little, and this shows it
        with timed_parts(clock):
            wall = run(half, steps)
    num_rows = (steps - half) * batch_size
    parts = {name: clock.seconds[name] / num_rows * 1e6 for name in PARTS}
    parts[REST] = wall * threads / num_rows * 1e6 - sum(parts.values())
    return {
        "batch_size": batch_size,
        "rows_per_second": num_rows / plain,
        "with_clock": num_rows / wall,
        "parts": parts,
        "floors": floors(peer, learner, rows, batch_size, threads),
    }


def floors(
    peer: run_clickherd.ClickHerd, learner: Learner, rows: Any, batch_size: int, threads: int
) -> dict[str, float]:
    """Core-microseconds a row that the hardware asks for."""
    table, layout = peer.model.table.weight, peer.layout
    num_fields, num_ids, width = len(layout.fields), *table.shape
    unique = len(torch.unique(rows.take(0, batch_size).ids)) / batch_size  # table rows that a row brings with it
    row = 4 * width
    lag = learner.embedding.lag
    weights = sum(weight.numel() for weight in peer.model.net.parameters())
    bytes_a_row = {
        "rows from the store": 2 * 4 * (num_fields + len(layout.numeric) + 1),
        "waiting table rows catch up": 6 * row * num_ids / lag / batch_size if lag > 1 else 0,
        "gather": num_fields * (2 * row + 4),
        "gradients into the table": num_fields * 3 * row,
        "dense gradients": 4 * weights * (1 / batch_size + 3 / learner.micro_batch_size),
        "dense Adam": 4 * weights * 7 / batch_size,
        "clip and update of touched rows": 8 * row * (unique if lag > 1 else num_ids / batch_size),
    }
    rate = copy_rate()
    return {
        "matrix products": products_seconds(learner, peer.config) * threads * 1e6,
        **{part: n / rate * 1e6 for part, n in bytes_a_row.items()},
    }


def copy_rate() -> float:
    """Bytes a second that one core reads or writes, in a copy of 256 MiB."""
    source = np.ones(1 << 25)
    target = np.empty_like(source)
    took = []
    for _ in range(8):
        began = time.perf_counter()
        np.copyto(target, source)
        took.append(time.perf_counter() - began)
    return 2 * source.nbytes / statistics.median(took)


def page(profiles: list[dict[str, Any]], threads: int) -> str:
    """The result in Markdown."""
    machine = host.describe(("torch", "numba"))
    lines = [
        "# Where a training step's time goes",
        "",
        f"DeepFM, 26 fields, 13 numeric columns, MLP 400-400-400, {threads} threads. {machine['cpu']}, "
        f"{machine['cores']} cores; torch {machine['packages']['torch']}; {machine['date'][:10]}. "
        f"Command: `{' '.join(host.command())}`",
        "",
        "Core-microseconds a row: all cores' time, at work or waiting. Floors: the products alone at the fastest rate "
        "of two libraries, memory traffic at the rate of a large copy.",
        "",
    ]
    for result in profiles:
        total = sum(result["parts"].values())
        body = [
            [
                name,
                f"{cost:.2f}",
                f"{cost / total:.0%}",
                f"{result['floors'][name]:.2f}" if name in result["floors"] else "–",
            ]
            for name, cost in result["parts"].items()
        ]
        floor = sum(result["floors"].values())
        body.append(["**all**", f"**{total:.2f}**", "100%", f"**{floor:.2f}**"])
        lines += [
            f"## Batch {result['batch_size']:,}",
            "",
            f"{result['rows_per_second']:,.0f} rows a second ({result['with_clock']:,.0f} with the clocks running); "
            f"the floors alone would allow {threads / floor * 1e6:,.0f}.",
            "",
            grid(["part", "cost", "share", "floor"], body),
        ]
    return "\n".join(lines)


def main() -> None:
    """Profile, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder written by benchmarks/data.py")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1024, 8192, 65_536])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    profiles = []
    for batch_size in args.batch_sizes:
        with tempfile.TemporaryDirectory() as scratch:
            profiles.append(profile(args.data, batch_size, args.threads, Path(scratch)))
    text = page(profiles, args.threads)
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
