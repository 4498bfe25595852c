"""The rules that carry hyper-parameters from a base batch size to another (CowClip, section 4 and its table of rules).

batch b → s·b    embedding rate   dense rate   λ      clip
none             1                1            1      off
sqrt             √s               √s           √s     off
linear           s                s            1      off
n2-lambda        1                √s           s²     off
cowclip          1                √s           s      on
root             √s               √s           1      off

The last is our own, and the default; docs/large-batch.md has what each part is worth. Adam divides a row's gradient by
the root of its second moment, so that a step is as long whatever the batch, and an epoch has s times fewer steps. A
rate √s times larger keeps the noise that an epoch's steps add up to what it was: the square-root rule of Malladi et
al., 2022 ("On the SDEs and scaling rules for adaptive gradient algorithms"), of whose rules for the moments and ε
nothing is taken. λΣw² belongs to the loss, which does not change with the batch size; nor is there anything to clip.
And of what the gradients of a field have in common, a share of 1/s is kept, before they are added up row by row:

    g_b,f ← g_b,f − (1 − 1/s)·mean_b g_b,f    g_b,f: of the loss with respect to the row that field f of example b has

What the rows of a field have in common shifts the inputs of every example alike. Steps that agree on it add up, over
rows and over fields, and the more fields there are, the lower is the rate at which they swing. Nothing of it would be
too little: where a single bias stands behind the table, as in LR, the rows must carry a part of it. The mean is that of
the micro-batch. Values of sequences, which several examples may share, are left as they are.

Adam's momentum looks back over 1/(1 − β₁) batches. Ten of them are a hundredth of an epoch of a million rows at 1,024,
and two thirds of it at 65,536. So 1 − β₁ grows as well, by the fourth root of s, up to ½: to (1 − β₁)·s^¼.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clickherd.optim.config import OptimConfig

# Exponents of s for (embedding rate, dense rate, λ).
EXPONENTS = {
    "none": (0.0, 0.0, 0.0),
    "sqrt": (0.5, 0.5, 0.5),
    "linear": (1.0, 1.0, 0.0),
    "n2-lambda": (0.0, 0.5, 2.0),
    "cowclip": (0.0, 0.5, 1.0),
    "root": (0.5, 0.5, 0.0),
}
MOMENTUM = {"root": 0.25}  # exponent of s for 1 − β₁; of the others: 0
COMMON = {"root": -1.0}  # exponent of s for what is kept of a field's common gradient; of the others: 0


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimiser step uses at the actual batch size."""

    learning_rate: float
    embedding_learning_rate: float
    l2: float
    clip: float  # r; infinite: no clip
    beta1: float = 0.9  # of Adam's momentum
    common: float = 1.0  # share that is kept of the gradient that the rows of a field have in common

    def decayed(self, factor: float) -> Hyperparameters:
        """With both rates multiplied by `factor`."""
        return replace(
            self,
            learning_rate=self.learning_rate * factor,
            embedding_learning_rate=self.embedding_learning_rate * factor,
        )

    def describe(self) -> str:
        """One line for the user."""
        clip = "off" if math.isinf(self.clip) else f"r = {self.clip:g}"
        return (
            f"dense rate {self.learning_rate:.3g}, embedding rate {self.embedding_learning_rate:.3g}, "
            f"λ {self.l2:.3g}, clip {clip}, β₁ {self.beta1:.3g}"
        )


def scaled(optim: OptimConfig, batch_size: int) -> Hyperparameters:
    """The hyper-parameters of `optim`, stated at `optim.base_batch_size`, carried to `batch_size` by `optim.rule`."""
    scale = batch_size / optim.base_batch_size
    embedding, dense, l2 = EXPONENTS[optim.rule]
    forgets = 1 - optim.betas[0]
    return Hyperparameters(
        learning_rate=optim.learning_rate * scale**dense,
        embedding_learning_rate=optim.embedding_learning_rate * scale**embedding,
        l2=optim.l2 * scale**l2,
        clip=optim.clip if optim.rule == "cowclip" else math.inf,
        beta1=1 - max(min(forgets * max(scale, 1.0) ** MOMENTUM.get(optim.rule, 0.0), 0.5), forgets),
        common=max(scale, 1.0) ** COMMON.get(optim.rule, 0.0),
    )


def warmed_up(hyper: Hyperparameters, step: int, warmup_steps: float) -> Hyperparameters:
    """With the dense rate at `step` (from 0): a linear ramp from 1e-8 over `warmup_steps`, then constant."""
    if step >= warmup_steps:
        return hyper
    return replace(hyper, learning_rate=1e-8 + (hyper.learning_rate - 1e-8) * step / warmup_steps)
