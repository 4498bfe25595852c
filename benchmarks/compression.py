"""What `clickherd compress` costs and gains: bytes, AUC and the time of a prediction, before and after.

    CLICKHERD_DATA=FOLDER python benchmarks/compression.py [--data-sets movielens_1m …] [--threads 1]
    CLICKHERD_DATA=FOLDER python benchmarks/compression.py --time

DeepFM with the default settings (three layers of 400): MovieLens-1M (random split, eight epochs at batch 8,192),
Frappe_x1 (reconstructed training rows, up to twenty epochs), and 1,000,000 rows of the built-in click log. Each model
is compressed to 1/3, 1/4 and 1/5 of its bytes with the defaults of `clickherd compress`; test rows are scored at the
end. `--time` predicts the test rows (100,000 at most) with the runs that are there, the whole model and its smaller
ones by turns, and needs a machine that does nothing else. Runs are kept in benchmarks/results/compression.json, none
that is there is repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from common_gradient import written
from datasets import root
from tables import grid, mean_std

from clickherd.compression.compress import CompressConfig, compress_run
from clickherd.config import merge, resolve
from clickherd.data.store import Batch
from clickherd.loaded import load
from clickherd.network import ClickModel
from clickherd.runs import same_rows, train_run
from clickherd.runtime import use_threads

RATIOS = (3.0, 4.0, 5.0)
ROWS = 1_000_000  # of the built-in click log
ROUNDS = 7
FILES = {
    "movielens_1m": ("flat_train", "flat_valid", "flat_test"),
    "frappe_x1": ("train_reconstructed", "valid", "test"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "movielens_1m": {"train": {"epochs": 8, "patience": None, "batch_size": 8192}},
    "frappe_x1": {},
    "generated": {},
}
HEAD = ["data", "times smaller", "bytes", "validation AUC", "test AUC", "test log loss", "against the whole model"]
TIMES = ["data", "times smaller", "µs a row", "times faster"]


def main() -> None:
    args = arguments()
    path = args.out / "compression.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": [], "times": []}
    command = "time_command" if args.time else "command"
    result |= {"machine": host.describe(("torch", "numba", "numpy")), command: host.command()}

    def keep(kind: str, found: dict[str, Any]) -> None:
        result[kind].append(found)
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(found), flush=True)

    for name in args.data_sets:
        if args.time:
            result["times"] = [one for one in result["times"] if one["data"] != name]
            for one in times(args.runs, name, args.threads):
                keep("times", one)
            continue
        for seed in args.seeds:
            whole = trained(args, name, seed)
            for ratio in (1.0, *RATIOS):
                if not any((run["data"], run["seed"], run["ratio"]) == (name, seed, ratio) for run in result["runs"]):
                    keep("runs", {"data": name, "seed": seed, "ratio": ratio} | scored(whole, ratio))
    path.with_suffix(".md").write_text(table(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--time", action="store_true", help="the time of predictions with the runs that are there")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "compression", help="their folder")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def trained(args: argparse.Namespace, name: str, seed: int) -> Path:
    """The run folder of the whole model."""
    folder: Path = args.runs / f"{name}-{seed}"
    if not (folder / "metrics.json").exists():
        args.runs.mkdir(parents=True, exist_ok=True)
        if name == "generated":
            source = {"data": [str(written(args.runs, ROWS))]}
        else:
            parts = zip(("data", "valid", "test"), FILES[name], strict=True)
            source = {part: [str(root() / name / f"{file}.parquet")] for part, file in parts}
        own = {"source": source, "train": {"seed": seed, "threads": args.threads}}
        train_run(resolve(merge(SETTINGS[name], own)), folder, report=False)
    return folder


def smaller(whole: Path, ratio: float) -> Path:
    """The run folder of the smaller model."""
    return whole.with_name(f"{whole.name}-{ratio:g}")


def scored(whole: Path, ratio: float) -> dict[str, Any]:
    """Scores and bytes of the whole model (ratio 1) or of a smaller one."""
    folder = whole
    if ratio != 1:
        folder = smaller(whole, ratio)
        if not (folder / "metrics.json").exists():
            compress_run(whole, CompressConfig(ratio=ratio), folder, report=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {"bytes": load(folder).model.num_bytes, "valid": metrics["valid"], "test": metrics["test"]}


def times(runs: Path, name: str, threads: int | None) -> list[dict[str, Any]]:
    """Microseconds a row of the models of the first seed, by turns."""
    whole = runs / f"{name}-0"
    first = load(whole)
    prepared = same_rows(first.config, whole, lambda _: None)
    use_threads(threads)
    assert prepared.test is not None
    batch = prepared.test.read(0, min(len(prepared.test), 100_000))
    models = {1.0: first.model} | {ratio: load(smaller(whole, ratio)).model for ratio in RATIOS}
    taken: dict[float, list[float]] = {ratio: [] for ratio in models}
    for model in models.values():
        model.predict(batch)
    for _ in range(ROUNDS):
        for ratio, model in models.items():
            taken[ratio].append(timed(model, batch))
    return [{"data": name, "ratio": ratio, "microseconds": found, "threads": threads} for ratio, found in taken.items()]


def timed(model: ClickModel, batch: Batch) -> float:
    """Microseconds a row."""
    began = time.perf_counter()
    model.predict(batch)
    return (time.perf_counter() - began) / len(batch) * 1e6


def table(result: dict[str, Any]) -> str:
    machine, lines, pace = result["machine"], [], []
    keys = dict.fromkeys((run["data"], run["ratio"]) for run in result["runs"])
    for data, ratio in sorted(keys, key=lambda key: (list(SETTINGS).index(key[0]), key[1])):
        of = {run["seed"]: run for run in result["runs"] if (run["data"], run["ratio"]) == (data, ratio)}
        whole = {run["seed"]: run for run in result["runs"] if (run["data"], run["ratio"]) == (data, 1.0)}
        lines.append(
            [
                data,
                f"{statistics.mean(whole[seed]['bytes'] / run['bytes'] for seed, run in of.items()):.2f}",
                f"{statistics.mean(run['bytes'] for run in of.values()):,.0f}",
                mean_std([run["valid"]["auc"] for run in of.values()]),
                *(mean_std([run["test"][name] for run in of.values()]) for name in ("auc", "logloss")),
                mean_std([run["test"]["auc"] - whole[seed]["test"]["auc"] for seed, run in of.items()])
                if ratio != 1
                else f"{len(of)} seeds",
            ]
        )
    for one in result["times"]:
        base = next(t for t in result["times"] if (t["data"], t["ratio"]) == (one["data"], 1.0))
        faster = [a / b for a, b in zip(base["microseconds"], one["microseconds"], strict=True)]
        spread = f"{statistics.median(faster):.2f} ({min(faster):.2f}–{max(faster):.2f})"
        pace.append([one["data"], f"{one['ratio']:g}", f"{statistics.median(one['microseconds']):.2f}", spread])
    head = f"`{' '.join(result['command'])}`, {machine['cpu']}, {machine['cores']} cores, {machine['date']}."
    parts = [head, grid(HEAD, lines)]
    if pace:
        told = (
            f"`{' '.join(result['time_command'])}`: predictions, by turns in {ROUNDS} rounds, median (lowest–highest):"
        )
        parts += [told, grid(TIMES, pace)]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


if __name__ == "__main__":
    main()
