"""The models of clickherd beside FuxiCTR's own runs of them, on the very same rows and with the same settings.

    git clone https://github.com/reczoo/FuxiCTR
    CLICKHERD_DATA=FOLDER python benchmarks/zoo.py frappe_x1 --fuxictr FuxiCTR --seeds 0 1 2

On Frappe_x1 every model has the settings that BARS publishes for it, on MovieLens-1M a small network, and λ is the best
of three on the validation rows of the first seed, which either trainer finds for itself (`zoo_models.py`). Batches of
4,096, Adam at 1e-3, rates divided by ten after an epoch that scored no better, at most 100 epochs; training stops early
on the validation rows, and test rows are scored once. FuxiCTR runs the classes of its model zoo in its own environment,
made under benchmarks/.envs. `defaults` is clickherd with the same network and its own settings of everything else.

Runs are kept as they come in benchmarks/results/zoo-DATA.json, none that is there is repeated. The table holds
mean ± standard deviation over seeds, and, for Frappe_x1, the figures that BARS published: of one seed, its settings
chosen on the test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import numpy as np
import polars as pl
from datasets import DATA_SETS
from peers.environments import FUXICTR
from tables import grid, mean_std
from zoo_models import ENTRIES, Entry

from clickherd.config import resolve
from clickherd.data.prepare import Prepared
from clickherd.evaluate import evaluate
from clickherd.network import ClickModel
from clickherd.runs import prepare_sources
from clickherd.runtime import seeded, use_threads
from clickherd.train import Trainer

TRAINER = Path(__file__).resolve().parent / "peers" / "train_fuxictr.py"
SPLITS = ("train", "valid", "test")
SCORES = (("valid", "auc"), ("test", "auc"), ("test", "logloss"))
TRAINERS = {"clickherd": "clickherd", "fuxictr": "FuxiCTR", "defaults": "clickherd, its defaults"}


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"zoo-{args.data_set}.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    results["machine"] = host.describe(("torch", "numba", "numpy"))
    results["note"] = DATA_SETS[args.data_set].note
    results["command"] = host.command()
    entries = ENTRIES[args.data_set]
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(args.data_set, Path(folder))
        for seed in args.seeds:
            for entry in (entries[name] for name in args.models or entries):
                for trainer in args.trainers:
                    for l2 in tried(results["runs"], entry, trainer, seed == args.seeds[0]):
                        key = {"trainer": trainer, "model": entry.name, "seed": seed, "l2": l2}
                        if any(run.items() >= key.items() for run in results["runs"]):
                            continue
                        run = run_fuxictr if trainer == "fuxictr" else run_clickherd
                        results["runs"].append(key | run(entry, rows, l2, seed, args))
                        path.write_text(json.dumps(results, indent=1) + "\n")
                        shown = {name: value for name, value in results["runs"][-1].items() if name != "settings"}
                        print(json.dumps(shown), flush=True)
    path.with_suffix(".md").write_text(table(results, entries))


def tried(runs: list[dict[str, Any]], entry: Entry, trainer: str, first: bool) -> tuple[float | None, ...]:
    """The values of λ that are run: all with the first seed, then the one that was best on the validation rows."""
    if trainer == "defaults":
        return (None,)
    return entry.l2 if first else (chosen(runs, entry, trainer),)


def chosen(runs: list[dict[str, Any]], entry: Entry, trainer: str) -> float | None:
    """The λ of the best validation AUC among the runs of the seed that was run with all of them."""
    of_entry = [run for run in runs if (run["trainer"], run["model"]) == (trainer, entry.name)]
    tried = {seed: {run["l2"] for run in of_entry if run["seed"] == seed} for seed in (run["seed"] for run in of_entry)}
    seed = max(tried, key=lambda seed: len(tried[seed]))  # the first of those with the most values
    best = max((run for run in of_entry if run["seed"] == seed), key=lambda run: run["valid"]["auc"])
    l2: float | None = best["l2"]
    return l2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=ENTRIES)
    parser.add_argument("--fuxictr", type=Path, help="a clone of FuxiCTR's repository")
    parser.add_argument("--trainers", nargs="+", default=["clickherd", "fuxictr"], choices=TRAINERS)
    parser.add_argument("--models", nargs="+", help="some of those in zoo_models.py for this data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    args = parser.parse_args()
    if "fuxictr" in args.trainers and not (args.fuxictr and (args.fuxictr / "model_zoo").is_dir()):
        parser.error("--fuxictr must name a clone of FuxiCTR's repository, or leave it out with --trainers clickherd")
    if unknown := {*(args.models or [])} - {*ENTRIES[args.data_set]}:
        parser.error(f"no settings for {', '.join(sorted(unknown))} on {args.data_set}")
    return args


class Rows:
    """One data set's splits as files: Parquet for clickherd, codes for FuxiCTR, lists padded with 0."""

    def __init__(self, data_set: str, folder: Path) -> None:
        self.folder = folder
        frames, roles = DATA_SETS[data_set].splits()
        if roles.numeric:
            raise SystemExit(f"{data_set}: FuxiCTR is given no numeric columns here")
        self.roles = roles
        self.vocabulary: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        codes: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
        for name in roles.categorical:
            of_splits = [frame[name] for frame in frames]
            self.vocabulary[name], found = encoded(of_splits)
            for split, column in zip(SPLITS, found, strict=True):
                codes[split][name] = column.to_numpy()
        for name in roles.multi:
            lists = [frame[name].str.split(roles.separator) for frame in frames]
            self.vocabulary[name], found = encoded([column.explode() for column in lists])
            self.lengths[name] = max(column.list.len().max() for column in lists)
            for split, column, values in zip(SPLITS, lists, found, strict=True):
                codes[split][name] = padded(values.to_numpy(), column.list.len().to_numpy(), self.lengths[name])
        for split, frame in zip(SPLITS, frames, strict=True):
            frame.write_parquet(folder / f"{split}.parquet")
            np.savez(folder / f"{split}.npz", **codes[split], label=frame[roles.label].to_numpy().astype(np.int64))


def encoded(columns: list[pl.Series]) -> tuple[int, list[pl.Series]]:
    """Codes from 1 on for the values of the first column, one more for others; and how many codes there are, with 0."""
    known = columns[0].unique().sort()
    codes = pl.int_range(1, len(known) + 1, dtype=pl.Int64, eager=True)
    return len(known) + 2, [column.replace_strict(known, codes, default=len(known) + 1) for column in columns]


def padded(values: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """The lists that follow one another in `values` as rows of a matrix."""
    matrix = np.zeros((len(lengths), width), dtype=np.int64)
    matrix[np.arange(width) < lengths[:, None]] = values
    return matrix


def run_fuxictr(entry: Entry, rows: Rows, l2: float | None, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """In a process of FuxiCTR's own environment."""
    assert l2 is not None
    FUXICTR.make()
    settings = entry.peer_settings(l2)
    job = {
        "checkout": str(args.fuxictr.resolve()),
        "model": entry.peer,
        "settings": settings,
        "rows": str(rows.folder),
        "vocabulary": rows.vocabulary,
        "lengths": rows.lengths,
        "seed": seed,
        "threads": args.threads or len(os.sched_getaffinity(0)),
    }
    file = rows.folder / "job.json"
    file.write_text(json.dumps(job))
    done = subprocess.run([FUXICTR.python, TRAINER, file], check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "settings": settings}


PREPARED: dict[str, Prepared] = {}


def run_clickherd(entry: Entry, rows: Rows, l2: float | None, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """In this process, through the training loop that the command line calls; without λ, the defaults."""
    use_threads(args.threads)
    source = {split if split != "train" else "data": [str(rows.folder / f"{split}.parquet")] for split in SPLITS}
    settings = entry.defaults(seed, args.threads) if l2 is None else entry.settings(l2, seed, args.threads)
    roles = dict.fromkeys(rows.roles.categorical, "categorical") | dict.fromkeys(rows.roles.multi, "multi")
    settings |= {"source": source, "data": {"label": rows.roles.label, "min_count": 1, "roles": roles}}
    config = resolve(settings)
    if not PREPARED:
        PREPARED["rows"] = prepare_sources(config, lambda *_: None)
    prepared = PREPARED["rows"]
    with seeded(seed), tempfile.TemporaryDirectory() as folder:
        model = ClickModel(config.model, prepared.encoder.layout, init_std=config.optim.init_std)
        progress = Trainer(config, model, prepared.train, prepared.valid, Path(folder)).run()
    assert prepared.valid is not None
    assert prepared.test is not None
    scores = {
        split: evaluate(model, store).scores for split, store in (("valid", prepared.valid), ("test", prepared.test))
    }
    return {
        **{split: {"auc": found["auc"], "logloss": found["logloss"]} for split, found in scores.items()},
        "epochs": progress.epoch,
        "seconds": progress.seconds,
        "weights": model.num_parameters,
        "settings": {key: value for key, value in settings.items() if key != "source"},
    }


def table(results: dict[str, Any], entries: Mapping[str, Entry]) -> str:
    """A line for every model and trainer, and what BARS published."""
    machine, runs = results["machine"], results["runs"]
    published = any(entry.published for entry in entries.values())
    head = [
        "model",
        "trainer",
        "λ",
        "seeds",
        "validation AUC",
        "test AUC",
        "test log loss",
        "epochs",
        "seconds an epoch",
    ]
    body = []
    for entry in entries.values():
        for trainer, title in TRAINERS.items():
            group = chosen_runs(runs, entry, trainer)
            if group:
                pace = statistics.mean(run["seconds"] / run["epochs"] for run in group)
                l2 = "–" if group[0]["l2"] is None else f"{group[0]['l2']:g}"
                valid, auc, loss = (mean_std([run[part][key] for run in group]) for part, key in SCORES)
                epochs = "/".join(str(run["epochs"]) for run in group)
                body.append([entry.title, title, l2, str(len(group)), valid, auc, loss, epochs, f"{pace:.1f}"])
        if published:
            auc, loss = entry.published.split(" / ")
            body.append([entry.title, "published by BARS", "", "1", "", auc, loss, "", ""])
    return (
        f"{results['note']}. {machine['cpu']}, {machine['cores']} cores; {machine['date']}.\n"
        f"Command: `{shlex.join(results['command'])}`\n\nλ is FuxiCTR's; clickherd's `optim.l2` is half of it. "
        f"clickherd's defaults have at most 20 epochs, the others 100.\n\n{grid(head, body)}"
    )


def chosen_runs(runs: list[dict[str, Any]], entry: Entry, trainer: str) -> list[dict[str, Any]]:
    """A model's runs with the λ that its validation rows chose."""
    of_entry = [run for run in runs if (run["trainer"], run["model"]) == (trainer, entry.name)]
    return [run for run in of_entry if run["l2"] == chosen(runs, entry, trainer)] if of_entry else []


if __name__ == "__main__":
    main()
