"""Some training steps on an encoded store, timed in this process: `scaling.py` starts one such process a measurement.

What is timed is a batch from the store to the updated table, without checkpoints. Rows that wait for their updates have
made them all by the end. Standard output carries one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from peers.measure import peak_rss_mib, status_mib

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runtime import seeded, use_threads

WARM_UP = 2  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--rows", type=int, required=True, help="the first so many rows of the store are trained on")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(timed_steps(parser.parse_args())))


def timed_steps(args: argparse.Namespace) -> dict[str, Any]:
    """Rows per second, with each row's share of drawing the epoch's order; memory; the ids that a batch touches."""
    use_threads(args.threads)
    train = {"batch_size": args.batch_size, "threads": args.threads, "seed": args.seed}
    config = resolve({"model": {"name": "deepfm"}, "train": train})
    store = Store(args.store)
    with seeded(args.seed):
        model = ClickModel(config.model, store.layout, init_std=config.optim.init_std)
        learner = Learner(model, config, args.batch_size)
    began = time.perf_counter()
    order = np.random.default_rng(args.seed).permutation(args.rows)
    order_seconds = time.perf_counter() - began
    epoch = HostEpoch(store, order, torch.device("cpu"))
    batches = args.rows // args.batch_size

    def step(number: int) -> float:
        """Train on one full batch; an epoch that is over begins again. Returns the table rows touched."""
        start = number % batches * args.batch_size
        _, tally = learner.step(epoch, start, start + args.batch_size, learner.hyper)
        return float(tally[0])

    with learner.workers:
        for number in range(WARM_UP):
            step(number)
        learner.settle()
        began = time.perf_counter()
        touched = [step(WARM_UP + number) for number in range(args.steps)]
        learner.settle()
        seconds = time.perf_counter() - began
    seconds_per_row = seconds / (args.steps * args.batch_size) + order_seconds / args.rows
    return {
        "seconds": round(seconds, 3),
        "order_seconds": round(order_seconds, 3),
        "rows_per_second": round(1 / seconds_per_row, 1),
        "lag": learner.embedding.lag,
        "num_ids": store.layout.num_ids,
        "touched": round(float(np.mean(touched))),
        "share_touched": round(float(np.mean(touched)) / store.layout.num_ids, 6),
        "peak_rss_mib": round(peak_rss_mib(), 1),
        "mapped_mib": round(status_mib("RssFile"), 1),
        "own_mib": round(status_mib("RssAnon"), 1),
    }


if __name__ == "__main__":
    main()
