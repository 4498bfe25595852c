"""What each part of the rule `occurrence` is worth, and which half of a model suffers from a large batch.

    CLICKHERD_DATA=FOLDER python benchmarks/rule_parts.py [--batch-size 65536] [--seeds 0 1 2] [--variants …]

DeepFM on MovieLens-1M (random split), the default settings but for what a variant changes, eight epochs without early
stopping. Each run's validation AUC by epoch, its best one, and the test AUC at that epoch are kept as they come in
benchmarks/results/rule-parts.json; none that is there is repeated. The table beside it is of mean ± standard deviation.

In `dense once a batch` and `embedding once a batch` only one half of the model sees a large batch: the other half takes
a step of its own at each of the s base batches in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import torch
from datasets import root
from torch import Tensor

from clickherd.config import Config, merge, resolve
from clickherd.data.prepare import Prepared
from clickherd.device_store import Epoch
from clickherd.evaluate import evaluate
from clickherd.learner import Learner
from clickherd.network import ClickModel, micro_batches
from clickherd.optim.scaling import EXPONENTS, Hyperparameters, scaled
from clickherd.runs import prepare_sources
from clickherd.runtime import seeded, use_threads
from clickherd.train import Trainer

BASE = 1024
OURS = EXPONENTS["occurrence"]
CHANGED = {
    "no visits": OURS._replace(visits=0.0),
    "visits to the half": OURS._replace(visits=0.5),
    "not centred": OURS._replace(centred=False),
    "λ ∝ √s": OURS._replace(l2=0.5),
    "λ ∝ s": OURS._replace(l2=1.0),
}
OPTIM: dict[str, dict[str, Any]] = {
    "no average": {"averaging": None},
    "average of the last ninth (η = 8)": {"averaging": 8.0},
    "average of the last third (η = 2)": {"averaging": 2.0},
    "warm-up of 0.2 epochs": {"warmup_epochs": 0.2},
    "no average, no visits, not centred": {"averaging": None},
}
CHANGED["no average, no visits, not centred"] = OURS._replace(visits=0.0, centred=False)
SMALL = ("base batch", "base batch, no average")
HALVES = ("dense once a batch", "embedding once a batch")
VARIANTS = ("as it is", *OPTIM, *(name for name in CHANGED if name not in OPTIM), *SMALL, *HALVES)


def main() -> None:
    args = arguments()
    use_threads(args.threads)
    path = args.out / "rule-parts.json"
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    results["machine"] = host.describe(("torch", "numba", "numpy"))
    done = {(run["variant"], run["batch_size"], run["seed"]) for run in results["runs"]}
    prepared = prepare_sources(resolve(source()), lambda *_: None)
    for seed in args.seeds:
        for variant in args.variants:
            size = BASE if variant in SMALL else args.batch_size
            if (variant, size, seed) not in done:
                run = {"variant": variant, "batch_size": size, "seed": seed, **train(variant, size, seed, prepared)}
                results["runs"].append(run)
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(json.dumps(run), flush=True)
    path.with_suffix(".md").write_text(table(results))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def source() -> dict[str, Any]:
    folder = root() / "movielens_1m"
    files = {part: [str(folder / f"flat_{part}.parquet")] for part in ("train", "valid", "test")}
    return {"source": {"data": files.pop("train"), **files}, "data": {"label": "label"}}


class HalfLarge(Learner):
    """One half of the model steps at every base batch, `slow` once for all of a large one."""

    config: Config
    slow: str

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[Tensor, Tensor]:
        """See `Learner.step`."""
        size, base = stop - start, scaled(self.config.optim, BASE)
        fast_rate = base.learning_rate * hyper.learning_rate / self.hyper.learning_rate  # warmed up as the other
        loss, tally = torch.zeros(()), torch.zeros(2, dtype=torch.int64)
        self.dense.zero_grad()
        for first, last in micro_batches(size, BASE):
            batch = self._ready(rows.take(start + first, start + last))
            gradients = self.gradients(batch, size)
            of_batch = size / (last - first)
            loss += gradients.loss
            if self.slow == "dense":
                self.dense.accumulate(gradients.dense)
                assert gradients.wide is not None
                self.embedding.accumulate(batch.ids, batch.bags, gradients.rows * of_batch, gradients.wide * of_batch)
                tally = self.embedding.step(base)
            else:
                self.embedding.accumulate(batch.ids, batch.bags, gradients.rows, gradients.wide)
                self.dense.zero_grad()
                self.dense.accumulate([gradient * of_batch for gradient in gradients.dense])
                self.dense.update(fast_rate)
        if self.slow == "dense":
            self.dense.update(hyper.learning_rate)
            return loss, tally
        return loss, self.embedding.step(hyper)


def half_large(model: ClickModel, config: Config, batch_size: int, slow: str) -> HalfLarge:
    learner = HalfLarge(model, config, batch_size)
    learner.config, learner.slow = config, slow
    learner.hyper = replace(learner.hyper, centred=slow == "embedding")
    return learner


def train(variant: str, size: int, seed: int, prepared: Prepared) -> dict[str, Any]:
    """One run of eight epochs."""
    optim = OPTIM.get(variant, {"averaging": None} if variant in HALVES or variant.endswith("no average") else {})
    of_run = {"batch_size": size, "epochs": 8, "patience": None, "precision": "bf16", "seed": seed}
    config = resolve(merge(source(), {"optim": optim, "train": of_run}))
    with rule(variant), seeded(seed), tempfile.TemporaryDirectory() as folder:
        model = ClickModel(config.model, prepared.encoder.layout, init_std=config.optim.init_std)
        assert prepared.valid is not None
        assert prepared.test is not None
        trainer = Trainer(config, model, prepared.train, prepared.valid, Path(folder))
        if variant in HALVES:
            trainer.learner = half_large(model, config, size, variant.split(maxsplit=1)[0])
        progress = trainer.run()
        test = evaluate(model, prepared.test).scores
    by_epoch = [record["valid"]["auc"] for record in progress.history]
    return {
        "valid": max(by_epoch),
        "epoch": progress.best_epoch,
        "test": {"auc": test["auc"], "logloss": test["logloss"]},
        "valid_by_epoch": by_epoch,
        "seconds": progress.seconds,
    }


@contextmanager
def rule(variant: str) -> Iterator[None]:
    """`occurrence` as the variant has it."""
    EXPONENTS["occurrence"] = CHANGED.get(variant, OURS)
    try:
        yield
    finally:
        EXPONENTS["occurrence"] = OURS


def table(results: dict[str, Any]) -> str:
    """A line for every variant and batch size."""
    machine = results["machine"]
    lines = [
        f"DeepFM, MovieLens-1M, random split. {machine['cpu']}, {machine['cores']} cores; {machine['date']}.",
        "Command: `python benchmarks/rule_parts.py`",
        "",
        "| variant | batch | seeds | validation AUC | best epoch | test AUC | test log loss |",
        "|---|---|---|---|---|---|---|",
    ]
    runs = results["runs"]
    for variant, size in dict.fromkeys((run["variant"], run["batch_size"]) for run in runs):
        group = [run for run in runs if (run["variant"], run["batch_size"]) == (variant, size)]
        scores = [[run["valid"] for run in group], *([run["test"][key] for run in group] for key in ("auc", "logloss"))]
        valid, auc, logloss = map(spread, scores)
        epochs = "/".join(str(run["epoch"]) for run in group)
        lines.append(f"| {variant} | {size:,} | {len(group)} | {valid} | {epochs} | {auc} | {logloss} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


if __name__ == "__main__":
    main()
