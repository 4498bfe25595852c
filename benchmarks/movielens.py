"""Trainings of one DeepFM on MovieLens-1M that differ in a single thing, kept as they come, and the table of them.

The network is small (128-128), settings are the defaults but for what a run changes; eight epochs without early
stopping. A run's validation AUC is that of its best epoch, and so are its test scores.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import host
from datasets import MOVIELENS_BY_TIME, root
from tables import mean_std

from clickherd.config import merge, resolve
from clickherd.data.prepare import Prepared
from clickherd.evaluate import evaluate
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runs import prepare_sources
from clickherd.runtime import seeded, use_threads
from clickherd.train import LearnerOf, Trainer

BASE = 1024
PARTS = ("train", "valid", "test")
TITLES = {
    "random": "random split",
    "time": "the first 80% of all ratings train, the next 10% validate, the last 10% test",
}
Files = tuple[str, str, str]  # of the training, validation and test rows


@contextmanager
def split_files(split: str) -> Iterator[Files]:
    """The rows of a split: drawn at random, as they come, or the log cut at two moments, written for the time being."""
    if split == "random":
        train, valid, test = (str(root() / f"movielens_1m/flat_{part}.parquet") for part in PARTS)
        yield train, valid, test
        return
    frames, _ = MOVIELENS_BY_TIME.splits()
    with tempfile.TemporaryDirectory() as folder:
        train, valid, test = (f"{folder}/{part}.parquet" for part in PARTS)
        for frame, file in zip(frames, (train, valid, test), strict=True):
            frame.write_parquet(file)
        yield train, valid, test


def settings_of(files: Files) -> dict[str, Any]:
    """The settings that all runs on these rows have in common."""
    train, valid, test = files
    return {
        "source": {"data": [train], "valid": [valid], "test": [test]},
        "data": {"label": "label"},
        "model": {"name": "deepfm", "mlp": {"hidden_units": [128, 128]}},
        "train": {"epochs": 8, "patience": None},
    }


@functools.cache
def prepared(files: Files) -> Prepared:
    """The encoded rows, encoded once a process."""
    return prepare_sources(resolve(settings_of(files)), lambda *_: None)


def train(
    files: Files, optim: Mapping[str, Any], size: int, seed: int, learner_of: LearnerOf = Learner
) -> dict[str, Any]:
    """One run."""
    config = resolve(merge(settings_of(files), {"optim": dict(optim), "train": {"batch_size": size, "seed": seed}}))
    rows = prepared(files)
    with seeded(seed), tempfile.TemporaryDirectory() as folder:
        model = ClickModel(config.model, rows.encoder.layout, init_std=config.optim.init_std)
        assert rows.valid is not None
        assert rows.test is not None
        trainer = Trainer(config, model, rows.train, rows.valid, Path(folder), learner_of=learner_of)
        progress = trainer.run()
        test = evaluate(model, rows.test).scores
    by_epoch = [record["valid"]["auc"] for record in progress.history]
    return {
        "valid": max(by_epoch),
        "epoch": progress.best_epoch,
        "test": {"auc": test["auc"], "logloss": test["logloss"]},
        "valid_by_epoch": by_epoch,
        "seconds": round(progress.seconds, 1),
    }


class Results:
    """The runs so far in a JSON file, written anew after each; the same run is not made twice."""

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.key = path, key
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": []}
        self.content |= {"machine": host.describe(("torch", "numba", "numpy"))}

    @property
    def runs(self) -> list[dict[str, Any]]:
        """In the order in which they were made."""
        runs: list[dict[str, Any]] = self.content["runs"]
        return runs

    def has(self, *key: object) -> bool:
        """Whether the run that `key` stands for was made."""
        return any(tuple(run[name] for name in self.key) == key for run in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        """Keep a run."""
        self.runs.append(run)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        print(json.dumps({name: value for name, value in run.items() if name != "valid_by_epoch"}), flush=True)

    def run_all(
        self, wanted: Iterable[Mapping[str, Any]], run: Callable[..., dict[str, Any]], jobs: int, threads: int | None
    ) -> None:
        """Keep `run(**key)` for each wanted key that has none yet; `jobs` at a time, each in a process of its own."""
        order = [tuple(key[name] for name in self.key) for key in wanted]
        missing = [dict(zip(self.key, key, strict=True)) for key in order if not self.has(*key)]
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), use_threads, (threads,)) as pool:
            running = {pool.submit(run, **key): key for key in missing}
            failed = []
            for done in as_completed(running):
                if (error := done.exception()) is None:
                    self.add(
                        {**running[done], **done.result(), "commit": host.commit(), "date": date.today().isoformat()}
                    )
                else:
                    failed.append(error)
        if failed:  # once all that went well is kept
            raise failed[0]
        places = {json.dumps(key): place for place, key in enumerate(order)}
        self.runs.sort(key=lambda run: places.get(json.dumps(tuple(run[name] for name in self.key)), -1))

    def write_table(
        self, columns: tuple[str, ...], scored: list[dict[str, Any]] | None = None, split: str = "random"
    ) -> None:
        """A line for every setting of `columns`, over its seeds."""
        machine = self.content["machine"]
        lines = [
            f"DeepFM (128-128), MovieLens-1M, {TITLES[split]}.",
            f"{machine['cpu']}, {machine['cores']} cores; {machine['date']}.",
            f"Command: `{shlex.join(host.command())}`",
            "",
            f"| {' | '.join(columns)} | seeds | validation AUC | best epoch | test AUC | test log loss |",
            "|---" * (len(columns) + 5) + "|",
        ]
        runs = self.runs if scored is None else scored
        for setting in dict.fromkeys(tuple(run[name] for name in columns) for run in runs):
            group = [run for run in runs if tuple(run[name] for name in columns) == setting]
            valid = mean_std([run["valid"] for run in group])
            auc, logloss = (mean_std([run["test"][key] for run in group]) for key in ("auc", "logloss"))
            epochs = "/".join(str(run["epoch"]) for run in group)
            shown = " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in setting)
            lines.append(f"| {shown} | {len(group)} | {valid} | {epochs} | {auc} | {logloss} |")
        self.path.with_suffix(".md").write_text("\n".join(lines) + "\n")
