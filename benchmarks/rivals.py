"""Other ways to train embeddings at a batch of 65,536 rows, beside the rule `root`, on MovieLens-1M.

    CLICKHERD_DATA=FOLDER python benchmarks/rivals.py [--seeds 0 1 2] [--rivals …]

Each rival gets four to six settings, which are tried with the first seed and chosen between on the validation rows;
`root`, whose base was chosen on these rows before (docs/decisions/0013), and the published CowClip rule get none here.
Rivals get the embeddings' gradients as they are, Adam's usual β₁ = .9, and for the network the rate of `root`; what is
scored is the average of the weights (but for MEDA, which throws embeddings away). All have the λ of the defaults, on
the rows of a batch. Runs are kept in benchmarks/results/rivals.json.

- row-wise Adagrad: one sum of squares per embedding row, as FBGEMM and TorchRec have it.
- Clippy (Tang et al., KDD 2023, Algorithm 1, λ_rel = ½, λ_abs = 1e-2 as published, larger ones as well): Adagrad's
  update Δ of a table is scaled down until no element moves by more than λ_rel·|w| + λ_abs.
- Helen (Zhu et al., WWW 2024, ξ = 0.3, the dense weights perturbed as well): the gradient is taken at w + ρ_i·g/‖g‖,
  the norm that of a field's whole table and ρ_i = ρ·max(n_i/max n, ξ); then Adam. Two passes a step.
- AdamAR (Li and Lyu, ICLR 2026): a row that returns after I steps is first shrunk by 1 − min(1, α·I); Adam of the
  touched rows alone. Written from the description of the method.
- MEDA (Liu et al., 2023): embeddings and their moments start anew at every epoch, the dense weights go on.
"""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import torch
from movielens import Files, Results, split_files, train
from torch import Tensor

from clickherd.config import Config
from clickherd.device_store import Epoch
from clickherd.learner import Learner
from clickherd.network import ClickModel, micro_batches
from clickherd.optim.config import OptimConfig
from clickherd.optim.cowclip import CowClip
from clickherd.optim.scaling import Hyperparameters, scaled

SIZE = 65_536


class Rival(CowClip, ABC):
    """An optimiser of the embedding rows; linear weights (column 0) are rows of one column."""

    def __init__(self, learner: Learner, **settings: float) -> None:
        super().__init__(learner.model.table, learner.embedding.config)
        self.fields = [slice(field.offset, field.offset + field.size) for field in learner.model.layout.fields]
        self.settings = settings

    def step(self, hyper: Hyperparameters) -> Tensor:
        """See `CowClip.step`."""
        self.num_steps += 1
        touched = self.counts_V > 0
        self.grad_VW += 2 * hyper.l2 * self.table.weight * touched.unsqueeze(1)
        for field in self.fields:
            for columns in (slice(0, 1), slice(1, None)):
                self.update(field, columns, touched[field].unsqueeze(1))
        self.grad_VW.zero_()
        self.counts_V.zero_()
        return torch.stack([touched.sum(), torch.zeros((), dtype=torch.int64)])

    @abstractmethod
    def update(self, field: slice, columns: slice, touched_V1: Tensor) -> None:
        """Step one table: its rows and columns, and which of its rows the batch holds."""


class RowwiseAdagrad(Rival):
    """G_i ← G_i + mean_d g_id², w_id ← w_id − η·g_id/(√G_i + ε)."""

    def update(self, field: slice, columns: slice, touched_V1: Tensor) -> None:
        """See `Rival.update`."""
        del touched_V1  # the others' gradients are zero
        grad, total = self.grad_VW[field, columns], self.exp_avg_sq_VW[field, columns]
        total += (grad**2).mean(dim=1, keepdim=True)
        self.table.weight[field, columns] -= self.settings["rate"] * grad / (total.sqrt() + 1e-10)


class Clippy(Rival):
    """Δ = η·g/(√G + ε), w ← w − Δ·min(1, min_j (λ_rel·|w_j| + λ_abs)/|Δ_j|), λ_rel = ½."""

    def update(self, field: slice, columns: slice, touched_V1: Tensor) -> None:
        """See `Rival.update`."""
        del touched_V1
        weight, grad = self.table.weight[field, columns], self.grad_VW[field, columns]
        total = self.exp_avg_sq_VW[field, columns]
        total += grad**2
        delta = self.settings["rate"] * grad / (total.sqrt() + 1e-7)
        most = (0.5 * weight.abs() + self.settings["absolute"]) / delta.abs()  # infinite where nothing moves
        weight -= delta * most.min().clamp(max=1)


class AdamAR(Rival):
    """w_i ← w_i·(1 − min(1, α·I_i)), then Adam, on the rows that the batch holds."""

    def __init__(self, learner: Learner, **settings: float) -> None:
        super().__init__(learner, **settings)
        self.last_V1 = torch.zeros(len(self.counts_V), 1)

    def update(self, field: slice, columns: slice, touched_V1: Tensor) -> None:
        """See `Rival.update`."""
        (beta1, beta2), t = self.config.betas, self.num_steps
        weight, grad = self.table.weight[field, columns], self.grad_VW[field, columns]
        mean, square = self.exp_avg_VW[field, columns], self.exp_avg_sq_VW[field, columns]
        interval = t - self.last_V1[field]
        mean.copy_(torch.where(touched_V1, beta1 * mean + (1 - beta1) * grad, mean))
        square.copy_(torch.where(touched_V1, beta2 * square + (1 - beta2) * grad**2, square))
        corrected = (mean / (1 - beta1**t)) / ((square / (1 - beta2**t)).sqrt() + 1e-8)
        kept = 1 - (self.settings["alpha"] * interval).clamp(max=1)
        weight.copy_(torch.where(touched_V1, kept * weight - self.settings["rate"] * corrected, weight))
        if columns.start:  # the last columns of the field
            self.last_V1[field] = torch.where(touched_V1, torch.tensor(float(t)), self.last_V1[field])


class Helen(Learner):
    """The gradient of a step is that at the perturbed weights."""

    rho, bound = 0.05, 0.3

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[Tensor, Tensor]:
        """See `Learner.step`."""
        size, table = stop - start, self.embedding
        weights = [table.table.weight, *(weight.detach() for weight in self.model.net.parameters())]
        before = [weight.clone() for weight in weights]
        self.model.net.train()
        loss = self._pass(rows, start, size)
        dense = [weight.grad.clone() for weight in self.model.net.parameters() if weight.grad is not None]
        whole = torch.stack([grad.norm() for grad in (table.grad_VW, *dense)]).norm()
        for field in self.model.layout.fields:
            span = slice(field.offset, field.offset + field.size)
            counts = table.counts_V[span].float()
            strength = self.rho * (counts / counts.max()).clamp(min=self.bound).unsqueeze(1)
            for columns in (slice(0, 1), slice(1, None)):
                grad = table.grad_VW[span, columns]
                weights[0][span, columns] += strength * grad / (grad.norm() + 1e-12)
        for weight, grad in zip(weights[1:], dense, strict=True):
            weight.add_(grad, alpha=self.rho / (float(whole) + 1e-12))
        table.grad_VW.zero_()
        table.counts_V.zero_()
        self._pass(rows, start, size)
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
        self.dense.update(hyper.learning_rate)
        return loss, table.step(hyper)

    def _pass(self, rows: Epoch, start: int, size: int) -> Tensor:
        self.dense.zero_grad()
        loss = torch.zeros(())
        whole = self._ready(rows.take(start, start + size))
        batches = [whole.slice(first, last) for first, last in micro_batches(size, self.micro_batch_size)]
        for batch, gradients in zip(
            batches, self.workers.map(partial(self.gradients, batch_size=size), batches), strict=True
        ):
            loss += self._add(batch, gradients)
        return loss


class Meda(Learner):
    """The embeddings are drawn anew at the start of every epoch."""

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[Tensor, Tensor]:
        """See `Learner.step`."""
        if start == 0:
            table = self.model.table
            table.weight.zero_()
            table.weight[:, int(table.wide) :].normal_(0, 1e-2)
            self.embedding = CowClip(table, self.embedding.config)
        return super().step(rows, start, stop, hyper)


def with_rival(
    kind: Callable[..., Rival], settings: dict[str, float], model: ClickModel, config: Config, size: int
) -> Learner:
    learner = Learner(model, config, size)
    learner.embedding = kind(learner, **settings)
    return learner


def helen(settings: dict[str, float], model: ClickModel, config: Config, size: int) -> Learner:
    learner = Helen(model, config, size)
    learner.embedding = CowClip(model.table, learner.embedding.config)  # no row waits while the table is perturbed
    learner.rho = settings["rho"]
    return learner


def meda(settings: dict[str, float], model: ClickModel, config: Config, size: int) -> Learner:
    del settings  # its rate is the config's
    return Meda(model, config, size)


RIVALS: dict[str, tuple[Callable[..., Learner], list[dict[str, float]]]] = {
    "row-wise Adagrad": (partial(with_rival, RowwiseAdagrad), [{"rate": rate} for rate in (0.05, 0.1, 0.2, 0.4)]),
    "Clippy": (
        partial(with_rival, Clippy),
        [{"rate": rate, "absolute": most} for rate in (0.1, 0.4) for most in (1e-2, 1e-1, 1.0)],
    ),
    "AdamAR": (
        partial(with_rival, AdamAR),
        [{"rate": rate, "alpha": alpha} for rate in (0.032, 0.064, 0.128) for alpha in (1e-5, 1e-4)],
    ),
    "Helen": (helen, [{"rate": rate, "rho": rho} for rate in (0.032, 0.064, 0.128) for rho in (0.003, 0.01)]),
    "MEDA": (meda, [{"rate": rate} for rate in (0.016, 0.032, 0.064, 0.128)]),
}
RULES = ("root", "cowclip")


def main() -> None:
    args = arguments()
    results = Results(args.out / "rivals.json", ("rival", "settings", "seed"))
    first, *others = args.seeds
    wanted = [key(rule, {}, seed) for rule in RULES for seed in args.seeds]
    wanted += [key(name, settings, first) for name in args.rivals for settings in RIVALS[name][1]]
    with split_files("random") as files:
        results.run_all(wanted, partial(run, files), args.jobs, args.threads)
        best = {name: best_settings(results, name, first) for name in args.rivals}
        chosen = [key(name, best[name], seed) for name in args.rivals for seed in others]
        results.run_all([*wanted, *chosen], partial(run, files), args.jobs, args.threads)
    scored = [run for run in results.runs if run["settings"] == best.get(run["rival"], {})]
    results.write_table(("rival", "settings"), [shown(run) for run in scored])


def key(name: str, settings: dict[str, float], seed: int) -> dict[str, Any]:
    return {"rival": name, "settings": settings, "seed": seed}


def best_settings(results: Results, name: str, seed: int) -> dict[str, float]:
    """Of those tried with this seed, the ones with the best validation AUC."""
    tried = [run for run in results.runs if (run["rival"], run["seed"]) == (name, seed)]
    settings: dict[str, float] = max(tried, key=lambda run: run["valid"])["settings"]
    return settings


def run(files: Files, rival: str, settings: dict[str, float], seed: int) -> dict[str, Any]:
    """One training."""
    if rival in RULES:
        return train(files, {"rule": rival}, SIZE, seed)
    optim: dict[str, Any] = {"rule": "none", "learning_rate": scaled(OptimConfig(), SIZE).learning_rate}
    if rival == "MEDA":
        optim |= {"averaging": None}
    if rival in ("Helen", "MEDA"):
        optim |= {"embedding_learning_rate": settings["rate"]}
    return train(files, optim, SIZE, seed, partial(RIVALS[rival][0], settings))


def shown(run: dict[str, Any]) -> dict[str, Any]:
    settings = ", ".join(f"{name} {value:g}" for name, value in run["settings"].items())
    return run | {"settings": settings or "none tried"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
