"""How long each trainer takes to a test AUC that all should reach, on the same encoded rows.

    python benchmarks/data.py DATA --tail-exponent 1.235
    python benchmarks/time_to_auc.py DATA --budget 900

Every trainer starts from fresh weights in a process of its own and is halted at ten points of the epoch, where the
test rows are scored; the clock stands still meanwhile, and what a trainer compiles in its first step is on it. Boosted
trees are scored after tenths of their rounds. A trainer whose clock is past the budget of seconds gets no further
points. The target is a share of the best AUC that any deep trainer reaches at any of its points within one epoch; a
trainer's time is that of its first point at or above the target, with nothing interpolated. A trainer that has no such
point is said not to have reached it, or not within the budget if that is why it ended.

Rows are fed part by part to trainers that go on where the last `fit` ended; those whose `fit` saves its weights do so
after every part. clickherd, whose run has a schedule, is halted within its one run and saves at its end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from driver import able, add_arguments, begin, compare
from peers.environments import KNOWN
from tables import at_batch, failures, grid, heading, left_out, networks, spread


def main() -> None:
    """Measure, and write the result after every measurement."""
    args = read_arguments()
    result = begin(args) | {"share": args.share}
    compare(args, "time-to-auc", result, measurements(args), progress_line, table)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[8192])
    parser.add_argument("--rounds", type=int, default=1, help="how often, with a seed of its own each time")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--points", type=int, default=10, help="in every epoch")
    parser.add_argument("--share", type=float, default=0.99, help="of the best deep trainer's AUC, the target")
    return parser.parse_args()


def measurements(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """All measurements in order; peers take turns within batch size and round, those without batches once a round."""
    whole = {"measure": "curve", "rows": 0, "options": ["--points", args.points, "--epochs", args.epochs]}
    for round_ in range(args.rounds):
        for number, batch_size in enumerate(args.batch_sizes):
            for peer in able(args):
                if KNOWN[peer].batched:
                    yield {"kind": "batched", "peer": peer, "batch_size": batch_size, "round": round_, **whole}
                elif number == 0:
                    yield {"kind": "unbatched", "peer": peer, "batch_size": 1, "round": round_, **whole}


def progress_line(run: Mapping[str, Any]) -> str:
    """One measurement in words, for standard error."""
    points = run.get("points", [])
    what = run.get("error") or "  ".join(f"{point['seconds']:.0f} s {point['auc']:.4f}" for point in points)
    return f"round {run['round']}  {run['peer'] + at_batch(run):<40} {what}"


def target(runs: Iterable[Mapping[str, Any]], share: float) -> tuple[float, str]:
    """The AUC to be reached, and whose best in one epoch it is a share of."""
    first_epoch = [
        (point["auc"], f"{KNOWN[run['peer']].title}{at_batch(run)}")
        for run in runs
        if run["kind"] == "batched"
        for point in run.get("points", [])
        if point["progress"] <= 1
    ]
    if not first_epoch:
        raise SystemExit("no deep trainer has a point to take the target from")
    best, whose = max(first_epoch)
    return share * best, whose


def best_auc(run: Mapping[str, Any]) -> float:
    """The highest AUC at any point."""
    return max(float(point["auc"]) for point in run["points"])


def reached(run: Mapping[str, Any], auc: float, budget: float) -> Mapping[str, float] | None:
    """The first point at or above the AUC, within the budget of seconds."""
    return next((point for point in run["points"] if point["auc"] >= auc and point["seconds"] <= budget), None)


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown: seconds to the target, where that was, and the best AUC on the way."""
    runs = result["runs"]
    auc, whose = target(runs, result["share"])
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        if run.get("points"):
            groups.setdefault((run["peer"], at_batch(run)), []).append(run)
    budget = result["budget_seconds"]
    rows = [line(f"{KNOWN[peer].title}{batch}", group, auc, budget) for (peer, batch), group in groups.items()]
    head = ["trainer", f"seconds to AUC {auc:.4f}", "reached after", "best AUC", "after", "seconds in all"]
    title = (
        f"The target is {result['share']:g} of the best AUC in one epoch, that of {whose}. No trainer began another "
        f"part after {budget:g} s of training. Median (lowest–highest) where repeated:"
    )
    parts = (heading(result), f"{title}\n\n{grid(head, rows)}", networks(result), left_out(result), failures(runs))
    return "\n".join(part for part in parts if part)


def line(title: str, group: list[Mapping[str, Any]], auc: float, budget: float) -> list[str]:
    """One line of the table, from the rounds of one trainer at one batch size."""
    found = {run["round"]: point for run in group if (point := reached(run, auc, budget))}
    cut_off = any(run["points"][-1]["seconds"] >= budget for run in group if run["round"] not in found)
    never = f"not within {budget:g} s" if cut_off else "not reached"
    missed = f" in {len(found)} of {len(group)}" if 0 < len(found) < len(group) else ""
    first = spread({round_: point["seconds"] for round_, point in found.items()}, "{:.1f}") if found else never
    best = statistics.median(best_auc(run) for run in group)
    peak = max(group[0]["points"], key=lambda point: point["auc"])
    unit = unit_of(group[0])
    return [
        title,
        first + missed,
        f"{min(point['progress'] for point in found.values()):g} {unit}" if found else "–",
        f"{best:.4f}",
        f"{peak['progress']:g} {unit}",
        spread({run["round"]: run["points"][-1]["seconds"] for run in group}, "{:.1f}"),
    ]


def unit_of(run: Mapping[str, Any]) -> str:
    """What `progress` counts."""
    return "rounds" if "rounds" in run["settings"] else "epochs"


if __name__ == "__main__":
    main()
