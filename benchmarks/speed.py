"""Training speed of clickherd beside other trainers, on the same encoded rows, with the same network.

    python benchmarks/data.py DATA --tail-exponent 1.235
    python benchmarks/speed.py DATA --accuracy
    python benchmarks/speed.py DATA --model dcnv2

Every measurement is a process of its own in the peer's own environment (made under benchmarks/.envs when missing),
held to the same number of cores and threads. It builds the network, fits one warm-up batch that does not count, and
times one call of the peer's own `fit` over the first rows of the training split: loader, loss, metrics and all, but
not the seconds in which clickherd writes its checkpoint at the end. Peak memory is that of this call, from when the
rows stand ready in the peer's own form; what a file maps into memory counts.
Within a round the peers take turns at each batch size (A B C, A B C, …), so that a change in the machine's pace
meets all of them; ratios are taken within a round. A peer that fails is recorded as such and the rest goes on.

With --accuracy, every peer also trains one whole epoch at 8,192, scored on the test rows. Peers that know no batches,
boosted trees and Vowpal Wabbit, are trained once on all rows, within their own budget, and make a table of their own
beside DeepFM's; beside other networks they are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from driver import able, add_arguments, begin, compare
from peers.environments import KNOWN
from tables import at_batch, by_batch, failures, figures, grid, heading, left_out, networks, ratio, spread

# rows of a timed fit: about half a minute for the slowest peer on two cores
ROWS = {1024: 262_144, 8192: 786_432, 65_536: 786_432, 131_072: 1_048_576}
ACCURACY_BATCH_SIZE = 8192


def main() -> None:
    """Measure, and write the result after every measurement."""
    args = read_arguments()
    compare(args, "speed", begin(args), measurements(args), progress_line, table)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--rows", type=int, help="rows of every timed fit, instead of a number by batch size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accuracy", action="store_true", help="also one whole epoch at 8,192, scored on test rows")
    return parser.parse_args()


def measurements(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """All measurements in order; peers take turns within batch size and round."""
    peers = able(args)
    batched = [peer for peer in peers if KNOWN[peer].batched]
    for round_ in range(args.rounds):
        for batch_size in args.batch_sizes:
            for peer in batched:
                rows = args.rows or ROWS.get(batch_size, max(ROWS.values()))
                yield {
                    "kind": "speed",
                    "measure": "speed",
                    "peer": peer,
                    "batch_size": batch_size,
                    "round": round_,
                    "rows": rows,
                }
    whole = {"measure": "accuracy", "round": 0, "rows": 0}  # all rows
    if args.accuracy:
        for peer in batched:
            yield {"kind": "accuracy", "peer": peer, "batch_size": ACCURACY_BATCH_SIZE, **whole}
    for peer in peers:
        if peer not in batched:
            yield {"kind": "unbatched", "peer": peer, "batch_size": 1, **whole}


def progress_line(run: Mapping[str, Any]) -> str:
    """One measurement in words, for standard error."""
    what = run.get("error") or f"{run['rows_per_second']:,.0f} rows/s, {run['peak_rss_mib']:,.0f} MiB"
    scores = f", test AUC {run['auc']:.4f}, logloss {run['logloss']:.4f}" if "auc" in run else ""
    return f"round {run['round']}  {run['peer'] + at_batch(run):<40} {what}{scores}"


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown: a summary at one batch size; rows per second, ratios and memory by batch size."""
    runs = result["runs"]
    speed = [run for run in runs if run["kind"] == "speed"]
    names = list(dict.fromkeys(run["peer"] for run in speed))
    sizes = list(dict.fromkeys(run["batch_size"] for run in speed))
    parts = [heading(result)]
    if names:
        parts.append(summary(runs, names, sizes))
    parts += by_batch(runs, "speed", peak="Peak memory of the training process, MiB")
    unbatched = [run for run in runs if run["kind"] == "unbatched"]
    if unbatched:
        parts.append(f"Trainers without batches, on all training rows, one seed:\n\n{whole_runs(unbatched)}")
    parts += [networks(result), left_out(result), failures(runs)]
    return "\n".join(part for part in parts if part)


def summary(runs: list[Mapping[str, Any]], names: list[str], sizes: list[int]) -> str:
    """One line a trainer: speed beside the first trainer's and memory at one batch size, scores after one epoch."""
    size = ACCURACY_BATCH_SIZE if ACCURACY_BATCH_SIZE in sizes else sizes[0]
    ours = names[0]
    scored = {run["peer"]: run for run in runs if run["kind"] == "accuracy" and "auc" in run}
    rows = []
    for name in names:
        scores = [f"{scored[name][key]:.4f}" for key in ("auc", "logloss")] if name in scored else ["–", "–"]
        rows.append(
            [
                KNOWN[name].title,
                spread(figures(runs, name, size, "rows_per_second"), "{:,.0f}"),
                "–" if name == ours else spread(ratio(runs, ours, name, size), "{:.2f}"),
                spread(figures(runs, name, size, "peak_rss_mib"), "{:,.0f}"),
                *scores,
            ]
        )
    head = ["trainer", "rows per second", f"{KNOWN[ours].title} is faster by", "peak MiB", "test AUC", "test logloss"]
    title = (
        f"At batch {size:,}; scores after one epoch over all training rows at batch {ACCURACY_BATCH_SIZE:,}, one seed:"
    )
    return f"{title}\n\n{grid(head, rows)}"


def whole_runs(runs: Iterable[Mapping[str, Any]]) -> str:
    """One line a trainer that knows no batches."""
    head = ["trainer", "training budget", "wall seconds", "CPU seconds", "peak MiB", "test AUC", "test logloss"]
    rows = []
    for run in runs:
        if "auc" not in run:
            rows.append([KNOWN[run["peer"]].title, "–", "failed", "–", "–", "–", "–"])
            continue
        seconds = [f"{run[key]:,.0f}" if run[key] >= 100 else f"{run[key]:.1f}" for key in ("seconds", "cpu_seconds")]
        settings = run["settings"]
        rounds = f"; {settings['rounds']} rounds done" if "rounds" in settings else ""
        scores = [f"{run['auc']:.4f}", f"{run['logloss']:.4f}"]
        budget = settings["budget"] + rounds
        rows.append([KNOWN[run["peer"]].title, budget, *seconds, f"{run['peak_rss_mib']:,.0f}", *scores])
    return grid(head, rows)


if __name__ == "__main__":
    main()
