"""The models of clickherd beside FuxiCTR's own runs of them, on the very same rows and with the same settings.

    git clone https://github.com/reczoo/FuxiCTR
    CLICKHERD_DATA=FOLDER python benchmarks/zoo.py frappe_x1 --fuxictr FuxiCTR --seeds 0 1 2

Every model is trained with the settings that BARS publishes for it on Frappe_x1 (batch 4,096, Adam at 1e-3, rates
divided by ten after an epoch that scored no better, at most 100 epochs), stops early on the validation rows, and is
scored on the test rows once. FuxiCTR runs the classes of its model zoo in its own environment, made under
benchmarks/.envs. Runs are kept as they come in benchmarks/results/zoo-DATA.json, none that is there is repeated. The
table beside it holds mean ± standard deviation over seeds, and the figures that BARS published: of one seed, its
settings chosen on the test rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import numpy as np
import polars as pl
from datasets import DATA_SETS
from peers.environments import FUXICTR
from tables import mean_std
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


def main() -> None:
    args = arguments()
    path = args.out / f"zoo-{args.data_set}.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    results["machine"] = host.describe(("torch", "numba", "numpy"))
    results["note"] = DATA_SETS[args.data_set].note
    done = {(run["trainer"], run["model"], run["seed"]) for run in results["runs"]}
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(args.data_set, Path(folder))
        for seed in args.seeds:
            for entry in (ENTRIES[name] for name in args.models):
                for trainer in args.trainers:
                    if (trainer, entry.name, seed) in done:
                        continue
                    train = run_clickherd if trainer == "clickherd" else run_fuxictr
                    run = {"trainer": trainer, "model": entry.name, "seed": seed, **train(entry, rows, seed, args)}
                    results["runs"].append(run)
                    path.write_text(json.dumps(results, indent=1) + "\n")
                    print(json.dumps({key: value for key, value in run.items() if key != "settings"}), flush=True)
    path.with_suffix(".md").write_text(table(results))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=DATA_SETS)
    parser.add_argument("--fuxictr", type=Path, help="a clone of FuxiCTR's repository")
    parser.add_argument("--trainers", nargs="+", default=["clickherd", "fuxictr"], choices=["clickherd", "fuxictr"])
    parser.add_argument("--models", nargs="+", default=list(ENTRIES), choices=list(ENTRIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    args = parser.parse_args()
    if "fuxictr" in args.trainers and not (args.fuxictr and (args.fuxictr / "model_zoo").is_dir()):
        parser.error("--fuxictr must name a clone of FuxiCTR's repository, or leave it out with --trainers clickherd")
    return args


class Rows:
    """One data set's splits as files: Parquet for clickherd, codes for FuxiCTR."""

    def __init__(self, data_set: str, folder: Path) -> None:
        self.folder = folder
        frames, roles = DATA_SETS[data_set].splits()
        if roles.numeric or roles.multi:
            raise SystemExit(f"{data_set}: FuxiCTR is given categorical columns alone here")
        self.roles = roles
        self.vocabulary: dict[str, int] = {}
        codes: dict[str, dict[str, np.ndarray]] = {split: {} for split in SPLITS}
        for name in roles.categorical:
            known = frames[0].select(pl.col(name).unique().sort()).with_row_index("code", 1)
            self.vocabulary[name] = len(known) + 2
            for split, frame in zip(SPLITS, frames, strict=True):
                joined = frame.select(name).join(known, on=name, how="left", nulls_equal=True, maintain_order="left")
                codes[split][name] = joined["code"].fill_null(len(known) + 1).to_numpy().astype(np.int64)
        for split, frame in zip(SPLITS, frames, strict=True):
            frame.write_parquet(folder / f"{split}.parquet")
            np.savez(folder / f"{split}.npz", **codes[split], label=frame[roles.label].to_numpy().astype(np.int64))


def run_fuxictr(entry: Entry, rows: Rows, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """In a process of FuxiCTR's own environment."""
    FUXICTR.make()
    job = {
        "checkout": str(args.fuxictr.resolve()),
        "model": entry.peer,
        "settings": entry.peer_settings,
        "rows": str(rows.folder),
        "vocabulary": rows.vocabulary,
        "seed": seed,
        "threads": args.threads or len(os.sched_getaffinity(0)),
    }
    file = rows.folder / "job.json"
    file.write_text(json.dumps(job))
    done = subprocess.run([FUXICTR.python, TRAINER, file], check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "settings": entry.peer_settings}


PREPARED: dict[str, Prepared] = {}


def run_clickherd(entry: Entry, rows: Rows, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """In this process, through the training loop that the command line calls."""
    use_threads(args.threads)
    source = {split if split != "train" else "data": [str(rows.folder / f"{split}.parquet")] for split in SPLITS}
    settings = entry.settings(seed, args.threads) | {"source": source}
    settings["data"] = {"label": rows.roles.label, "min_count": 1}
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


def table(results: dict[str, Any]) -> str:
    """A line for every model: both trainers' scores, and what BARS published."""
    machine = results["machine"]
    threads = {run["settings"]["train"]["threads"] for run in results["runs"] if run["trainer"] == "clickherd"}
    option = "".join(f" --threads {number}" for number in sorted(threads - {None}))
    lines = [
        f"{results['note']}. {machine['cpu']}, {machine['cores']} cores; {machine['date']}.",
        f"Command: `python benchmarks/zoo.py frappe_x1 --fuxictr FuxiCTR{option}`",
        "",
        "| model | clickherd, test AUC | FuxiCTR, test AUC | difference | clickherd, log loss | FuxiCTR, log loss "
        "| seeds | seconds an epoch | published by BARS |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [line(entry, results["runs"]) for entry in ENTRIES.values()]
    return "\n".join(lines) + "\n"


def line(entry: Entry, runs: list[dict[str, Any]]) -> str:
    ours, theirs = (
        [run for run in runs if (run["trainer"], run["model"]) == (trainer, entry.name)]
        for trainer in ("clickherd", "fuxictr")
    )
    difference = f"{mean(scores(ours, 'auc')) - mean(scores(theirs, 'auc')):+.4f}" if ours and theirs else "–"
    pace = " / ".join(
        f"{mean([r['seconds'] / r['epochs'] for r in group]):.1f}" if group else "–" for group in (ours, theirs)
    )
    return (
        f"| {entry.title} | {mean_std(scores(ours, 'auc'))} | {mean_std(scores(theirs, 'auc'))} | {difference} "
        f"| {mean_std(scores(ours, 'logloss'))} | {mean_std(scores(theirs, 'logloss'))} "
        f"| {len(ours)} / {len(theirs)} | {pace} | {entry.published} |"
    )


def scores(runs: list[dict[str, Any]], score: str) -> list[float]:
    return [run["test"][score] for run in runs]


def mean(values: list[float]) -> float:
    return statistics.mean(values)


if __name__ == "__main__":
    main()
