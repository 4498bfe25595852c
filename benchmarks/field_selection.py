"""Columns chosen by one gate each, by an ensemble of eight, and by OutRank: as many of them, the same training.

    CLICKHERD_DATA=FOLDER python benchmarks/field_selection.py [--data-sets generated frappe_x1] [--threads 1]

Each method names its best columns, a model is trained from scratch with these alone, and its test rows are scored.
`generated` is 150,000 rows of the built-in click log, 39 columns and 13 of them once more with their values shuffled:
20 of 52 columns are kept; of Frappe_x1's ten 5, of MovieLens-1M's eight 4. Gates are searched with for as many epochs
as `clickherd select` does; the penalty is the one of three with the best validation AUC of the first seed. DeepFM
(128-128), the default settings, at most ten epochs with early stopping. Runs are kept in
benchmarks/results/field-selection.json, none that is there is repeated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import numpy as np
import polars as pl
from kept_runs import KeptRuns
from tables import grid, mean_std
from value_selection import settings_of

from clickherd.config import merge, resolve
from clickherd.evaluate import evaluate
from clickherd.runs import ready, train_prepared
from clickherd.selection.fields import EPOCHS, select_fields
from clickherd.selection.gating import FieldGatesConfig
from clickherd.selection.ranking import Ranking, rank_features

KEPT = {"generated": 20, "frappe_x1": 5, "movielens_1m": 4}
SHUFFLED = [f"C{k}" for k in range(1, 14)]
PENALTIES = (5.0, 20.0, 80.0)
LAYERS = {"one gate": 1, "eight gates": 8}
HEAD = ["data", "columns chosen by", "kept", "seeds", "of these shuffled", "validation AUC", "test AUC"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", nargs="+", default=list(KEPT), choices=list(KEPT))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()), help="where the log is written")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    args = parser.parse_args()
    kept = KeptRuns(args.out / "field-selection.json", ("torch", "numba", "numpy"))

    def run(data: str, method: str, penalty: float | None, seed: int) -> dict[str, Any]:
        key = {"data": data, "method": method, "penalty": penalty, "seed": seed}
        return kept.run(key, lambda: trained(settings(args, data, seed), data, method, penalty))

    for data in args.data_sets:
        for method in ("all", "OutRank", *LAYERS):
            penalty = None
            if method in LAYERS:
                tried = {one: run(data, method, one, args.seeds[0])["valid"]["auc"] for one in PENALTIES}
                penalty = max(tried, key=lambda one: tried[one])
            for seed in args.seeds:
                run(data, method, penalty, seed)
    kept.write(table(kept.runs))


def settings(args: argparse.Namespace, data: str, seed: int) -> dict[str, Any]:
    """Of the training; the generated log with its shuffled columns."""
    found = settings_of(data, seed, args.log, args.threads)
    if data == "generated":
        log = Path(found["source"]["data"][0])
        noisy = log.with_name(f"{log.stem}-shuffled.parquet")
        if not noisy.exists():
            frame, rng = pl.read_parquet(log), np.random.default_rng(20_261_128)
            more = [frame[name].gather(rng.permutation(len(frame))).alias(f"{name}_shuffled") for name in SHUFFLED]
            frame.with_columns(more).write_parquet(noisy)
        found["source"] = {"data": [str(noisy)]}
    return found


def trained(settings: dict[str, Any], data: str, method: str, penalty: float | None) -> dict[str, Any]:
    """Choose columns, then train from scratch with them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if method != "all":
            search = resolve(merge(settings, {"train": {"epochs": EPOCHS}}))
            if method == "OutRank":
                chosen = rank_features(search, Ranking(KEPT[data], 0), folder / "selected")["kept"]
            else:
                gates = FieldGatesConfig(penalty=penalty or 0.0, layers=LAYERS[method])
                chosen = select_fields(search, gates, folder / "selected", keep=KEPT[data])["kept"]
            settings = merge(settings, {"data": {"features": chosen}})
        config, prepared = ready(resolve(settings), lambda _: None)
        model, progress = train_prepared(config, prepared, folder / "run")
        assert prepared.test is not None
        test = evaluate(model, prepared.test).scores
    return {
        "kept": [field.name for field in prepared.encoder.layout.fields],
        "valid": progress.history[progress.best_epoch - 1]["valid"],
        "test": test,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = []
    for data, method, penalty in dict.fromkeys((r["data"], r["method"], r["penalty"]) for r in runs):
        of = [r for r in runs if (r["data"], r["method"], r["penalty"]) == (data, method, penalty)]
        noise = [sum(name.endswith("_shuffled") for name in run["kept"]) for run in of]
        lines.append(
            [data, method + (f", penalty {penalty:g}" if penalty is not None else ""), str(len(of[0]["kept"]))]
            + [str(len(of)), f"{sum(noise) / len(noise):.1f}" if data == "generated" else "–"]
            + [mean_std([run[part]["auc"] for run in of]) for part in ("valid", "test")]
        )
    return grid(HEAD, lines)


if __name__ == "__main__":
    main()
