"""What each part of the rule `root` is worth, does the clip clip, and which half of a model suffers from a large batch.

    CLICKHERD_DATA=FOLDER python benchmarks/rule_parts.py [--split time] [--batch-size 65536] [--seeds 0 1 2]
        [--variants …]

One thing at a time is changed (`movielens.py` has what is common); runs are kept in benchmarks/results, in
rule-parts.json, those of the split by time in rule-parts-time.json. `root` keeps 1/s of what the gradients of a field
have in common; the variants that are not about that share keep nothing of it, as the rule did when they were first
measured. On this log that is the same.

In `dense once a batch` and `embedding once a batch` only one half of the model sees a large batch: the other half takes
a step of its own at each of the s base batches in it. Where a rule clips, the share of rows that were clipped is kept
by how often the batch held them.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import torch
from movielens import BASE, TITLES, Files, Results, split_files, train
from torch import Tensor

from clickherd.config import Config
from clickherd.device_store import Epoch
from clickherd.learner import Learner
from clickherd.network import ClickModel, micro_batches
from clickherd.optim import scaling
from clickherd.optim.cowclip import CowClip
from clickherd.optim.scaling import Hyperparameters

OURS = scaling.EXPONENTS["root"]
SHARES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "1/√s of the common gradient kept": {"common": -0.5},
    "nothing of it kept": {"common": -math.inf},
    "all of it kept": {"common": 0.0},
    "all of it kept, β₁ as it is": {"common": 0.0, "momentum": 0.0},
}
PARTS: dict[str, dict[str, Any]] = {
    "β₁ as it is": {"momentum": 0.0},
    "embedding rate as it is": {"exponents": (0.0, 0.5, 0.0)},
    "embedding rate ∝ s": {"exponents": (1.0, 0.5, 0.0)},
    "dense rate as it is": {"exponents": (0.5, 0.0, 0.0)},
    "dense rate ∝ s": {"exponents": (0.5, 1.0, 0.0)},
    "λ ∝ √s": {"exponents": (0.5, 0.5, 0.5)},
    "λ ∝ s": {"exponents": (0.5, 0.5, 1.0)},
}
OPTIM: dict[str, dict[str, Any]] = {
    "no average": {"averaging": None},
    "average of the last ninth (η = 8)": {"averaging": 8.0},
    "average of the last third (η = 2)": {"averaging": 2.0},
    "warm-up of 0.2 epochs": {"warmup_epochs": 0.2},
    "no warm-up": {"warmup_epochs": 0.0},
    "start at N(0, 1e-4²)": {"init_std": 1e-4},
    "start at N(0, 1e-1²)": {"init_std": 1e-1},
    "base batch, no average": {"averaging": None},
}
CLIPPED: dict[str, dict[str, Any]] = {
    "clipped, r = 1": {},
    "clipped by count / B, r = 1": {"clip": 1.0},  # divided by the batch size
    "clipped by count / B, r = 64": {"clip": 64.0},
}
PUBLISHED = {  # CowClip's settings for Criteo, stated at 1,024
    "rule": "cowclip",
    "learning_rate": 8e-4,
    "embedding_learning_rate": 1e-4,
    "averaging": None,
    "initial_bias": "zero",
}
SMALL = ("base batch", "base batch, no average", "CowClip as published, base batch")
HALVES = ("dense once a batch", "embedding once a batch")
VARIANTS = (
    *(*SHARES, *PARTS, *(name for name in OPTIM if name not in SMALL), *CLIPPED),
    *("CowClip as published", *SMALL, *HALVES),
)


def main() -> None:
    args = arguments()
    name = "rule-parts.json" if args.split == "random" else f"rule-parts-{args.split}.json"
    results = Results(args.out / name, ("variant", "batch_size", "seed"))
    wanted = [
        {"variant": variant, "batch_size": BASE if variant in SMALL else args.batch_size, "seed": seed}
        for seed in args.seeds
        for variant in args.variants
    ]
    with split_files(args.split) as files:
        results.run_all(wanted, functools.partial(run, files), args.jobs, args.threads)
    results.write_table(("variant", "batch_size"), split=args.split)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=TITLES, default="random")
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def run(files: Files, variant: str, batch_size: int, seed: int) -> dict[str, Any]:
    """One variant's training."""
    if variant in HALVES:
        slow = variant.split(maxsplit=1)[0]
        with rule("root"):
            return train(files, {"averaging": None}, batch_size, seed, lambda *of: HalfLarge(*of, slow=slow))
    if variant in CLIPPED:
        with rule("cowclip"):
            clip = {"clip": CLIPPED[variant]["clip"] / batch_size} if CLIPPED[variant] else {}
            return count_clipped(files, {"rule": "cowclip", **clip}, batch_size, seed)
    if variant.startswith("CowClip as published"):
        return count_clipped(files, PUBLISHED, batch_size, seed)
    if variant in SHARES:
        with rule("root", **{"common": scaling.COMMON["root"], **SHARES[variant]}):
            return train(files, {}, batch_size, seed)
    with rule("root", **PARTS.get(variant, {})):
        return train(files, OPTIM.get(variant, {}), batch_size, seed)


@contextmanager
def rule(
    name: str,
    *,
    exponents: tuple[float, float, float] = OURS,
    common: float = -math.inf,
    momentum: float = scaling.MOMENTUM["root"],
) -> Iterator[None]:
    """The rule `name` as `root` is, but for what is given."""
    with (
        patch.dict(scaling.EXPONENTS, {name: exponents}),
        patch.dict(scaling.MOMENTUM, {name: momentum}),
        patch.dict(scaling.COMMON, {name: common}),
    ):
        yield


def count_clipped(files: Files, optim: dict[str, Any], size: int, seed: int) -> dict[str, Any]:
    """A run that keeps, beside its scores, which rows were clipped."""
    made: list[Counting] = []
    found = train(files, optim, size, seed, lambda *of: counting(*of, made))
    return found | {"clipped": made[-1].shares()}


class HalfLarge(Learner):
    """One half of the model steps at every base batch, `slow` once for all of a large one."""

    def __init__(self, model: ClickModel, config: Config, batch_size: int, *, slow: str) -> None:
        super().__init__(model, config, batch_size)
        self.base, self.slow = scaling.scaled(config.optim, BASE), slow
        if slow == "dense":
            self.embedding.config = replace(self.embedding.config, betas=config.optim.betas)
        else:
            self.dense.betas = config.optim.betas

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[Tensor, Tensor]:
        """See `Learner.step`."""
        size = stop - start
        fast_rate = self.base.learning_rate * hyper.learning_rate / self.hyper.learning_rate  # warmed up as the other
        loss, tally = torch.zeros(()), torch.zeros(2, dtype=torch.int64)
        self.dense.zero_grad()
        for first, last in micro_batches(size, BASE):
            batch = self._ready(rows.take(start + first, start + last))
            gradients = self.gradients(batch, size)
            of_batch = size / (last - first)
            loss += gradients.loss
            assert gradients.wide is not None
            if self.slow == "dense":
                self.dense.accumulate(gradients.dense)
                self.embedding.accumulate(batch.ids, batch.bags, gradients.rows * of_batch, gradients.wide * of_batch)
                tally = self.embedding.step(self.base)
            else:
                self.embedding.accumulate(batch.ids, batch.bags, gradients.rows, gradients.wide)
                self.dense.zero_grad()
                self.dense.accumulate([gradient * of_batch for gradient in gradients.dense])
                self.dense.update(fast_rate)
        if self.slow == "dense":
            self.dense.update(hyper.learning_rate)
            return loss, tally
        return loss, self.embedding.step(hyper)


class Counting(CowClip):
    """CowClip that counts, by ⌊log₂⌋ of their occurrences in the batch, the rows that it clips."""

    def __init__(self, of: CowClip) -> None:
        super().__init__(of.table, of.config)
        self.touched, self.clipped = torch.zeros(32), torch.zeros(32)

    def step(self, hyper: Hyperparameters) -> Tensor:
        """See `CowClip.step`."""
        rows = self.counts_V.nonzero().squeeze(1)
        wide, counts = int(self.table.wide), self.counts_V[rows]
        weight, grad = self.table.weight[rows, wide:], self.grad_VW[rows, wide:]
        floor = hyper.clip * math.sqrt(weight.shape[1]) * self.config.zeta
        threshold = counts * hyper.clip * weight.norm(dim=1).clamp(min=floor)
        exceeds = (grad + 2 * hyper.l2 * weight).norm(dim=1) > threshold
        bucket = counts.log2().long()
        self.touched += torch.bincount(bucket, minlength=32)
        self.clipped += torch.bincount(bucket, weights=exceeds.double(), minlength=32).float()
        return super().step(hyper)

    def shares(self) -> dict[str, float]:
        """The share of clipped rows among those that a batch held 1, 2–3, 4–7, … times, over all steps."""
        return {f"{2**k}": float(self.clipped[k] / self.touched[k]) for k in range(32) if self.touched[k] > 0} | {
            "all": float(self.clipped.sum() / self.touched.sum())
        }


def counting(model: ClickModel, config: Config, batch_size: int, made: list[Counting]) -> Learner:
    learner = Learner(model, config, batch_size)
    learner.embedding = Counting(learner.embedding)
    made.append(learner.embedding)
    return learner


if __name__ == "__main__":
    main()
