"""Does the dense rate that suits a narrow MLP suit a wide one? With μP and without.

    CLICKHERD_DATA=FOLDER python benchmarks/width_transfer.py [--seeds 0 1] [--threads 1]

DeepFM on Frappe_x1 (reconstructed training rows) with three hidden layers of 64, 256 and 1,024 units, default settings
but for the dense rate, four epochs, validation AUC of the best. The narrow model is the one of 64. Runs are kept in
benchmarks/results/width-transfer.json, none that is there is repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from kept_runs import KeptRuns
from tables import grid, mean_std
from value_selection import settings_of

from clickherd.config import merge, resolve
from clickherd.evaluate import evaluate
from clickherd.runs import ready, train_prepared

NARROW, WIDTHS = 64, (64, 256, 1024)
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
WAYS = ("as it is", "with μP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    args = parser.parse_args()
    kept = KeptRuns(args.out / "width-transfer.json", ("torch", "numba", "numpy"))
    for seed in args.seeds:
        for width in WIDTHS:
            for way in WAYS[: 1 if width == NARROW else 2]:  # the same in both
                for rate in RATES:
                    key = {"width": width, "way": way, "rate": rate, "seed": seed}
                    kept.run(key, partial(trained, key, args.threads))
    kept.write(table(kept.runs))


def trained(key: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """One model from scratch."""
    base = {"mlp": {"hidden_units": [NARROW] * 3}} if key["way"] == "with μP" else None
    of_run = {
        "model": {"mlp": {"hidden_units": [key["width"]] * 3}},
        "optim": {"learning_rate": key["rate"], "mup_base": base},
        "train": {"epochs": 4},
    }
    settings = settings_of("frappe_x1", key["seed"], Path(tempfile.gettempdir()), threads)
    config, prepared = ready(resolve(merge(settings, of_run)), lambda _: None)
    with tempfile.TemporaryDirectory() as name:
        model, progress = train_prepared(config, prepared, Path(name) / "run")
    assert prepared.test is not None
    return {
        "train_loss": [record["train_loss"] for record in progress.history],
        "valid": progress.history[progress.best_epoch - 1]["valid"],
        "test": evaluate(model, prepared.test).scores,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Validation AUC by width and rate; the best rate of each width, and what the narrow model's costs there."""

    def scores(width: int, way: str, rate: float) -> list[float]:
        own = (run for run in runs if (run["width"], run["way"], run["rate"]) == (width, way, rate))
        return [run["valid"]["auc"] for run in own]

    lines, seeds = [], len({run["seed"] for run in runs})
    best_narrow = max(RATES, key=lambda rate: statistics.mean(scores(NARROW, WAYS[0], rate)))
    for width in WIDTHS:
        for way in WAYS[: 1 if width == NARROW else 2]:
            cells = [scores(width, way, rate) for rate in RATES]
            best = max(range(len(RATES)), key=lambda place: statistics.mean(cells[place]))
            lost = statistics.mean(cells[best]) - statistics.mean(cells[RATES.index(best_narrow)])
            lines.append([f"{width}", way, *map(mean_std, cells), f"{RATES[best]:g}", f"{lost:.4f}"])
    head = ["units", "", *(f"rate {rate:g}" for rate in RATES), "best rate", f"lost at {best_narrow:g}"]
    return f"Validation AUC, {seeds} seed(s); DeepFM, Frappe_x1, four epochs.\n\n{grid(head, lines)}"


if __name__ == "__main__":
    main()
