"""The rules that carry hyper-parameters from a base batch size to another (CowClip, section 4 and its table of rules).

batch b → s·b    embedding rate   dense rate   λ      clip
none             1                1            1      off
sqrt             √s               √s           √s     off
linear           s                s            1      off
n2-lambda        1                √s           s²     off
cowclip          1                √s           s      on
occurrence       √s · u_i^¼       √s           1      off

The last is our own (docs/large-batch.md). A row i that occurs n_i times in the batch would have been touched in about

    u_i = s (1 − e^(−n_i/s))

of its s base batches: less than one of a rare row, all s of a frequent one. For the rare row Adam takes the one step
that it would have taken in small batches, larger by √s as its second moment is. For the frequent row it takes one step
in place of u_i: were all of these alike, √u_i would be missing, were they noise, nothing. The power ¼ lies between; for
s ≤ 1 the factor is left out. Gradients are centred field by field, g_b,f ← g_b,f − mean_b g_b,f: what all rows of a
field have in common is the network's to learn, and the steep directions that rows share no longer bound their rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from clickherd.optim.config import OptimConfig


class Exponents(NamedTuple):
    """The powers of s that the embedding rate, the dense rate and λ are multiplied by, and that of a row's visits."""

    embedding: float
    dense: float
    l2: float
    visits: float = 0.0
    centred: bool = False


EXPONENTS = {
    "none": Exponents(0.0, 0.0, 0.0),
    "sqrt": Exponents(0.5, 0.5, 0.5),
    "linear": Exponents(1.0, 1.0, 0.0),
    "n2-lambda": Exponents(0.0, 0.5, 2.0),
    "cowclip": Exponents(0.0, 0.5, 1.0),
    "occurrence": Exponents(0.5, 0.5, 0.0, visits=0.25, centred=True),
}


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimiser step uses at the actual batch size."""

    learning_rate: float
    embedding_learning_rate: float
    l2: float
    clip: float  # r; infinite: no clip
    spread: float = 1.0  # s, where the rule looks at every row's occurrences
    power: float = 0.0  # of a row's visits
    centred: bool = False  # the mean over the batch is taken off the gradients of each field

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
            f"λ {self.l2:.3g}, clip {clip}"
        )


def scaled(optim: OptimConfig, batch_size: int) -> Hyperparameters:
    """The hyper-parameters of `optim`, stated at `optim.base_batch_size`, carried to `batch_size` by `optim.rule`."""
    scale = batch_size / optim.base_batch_size
    exponents = EXPONENTS[optim.rule]
    return Hyperparameters(
        learning_rate=optim.learning_rate * scale**exponents.dense,
        embedding_learning_rate=optim.embedding_learning_rate * scale**exponents.embedding,
        l2=optim.l2 * scale**exponents.l2,
        clip=optim.clip if optim.rule == "cowclip" else math.inf,
        spread=scale,
        power=exponents.visits if scale > 1 else 0.0,
        centred=exponents.centred and scale > 1,
    )


def warmed_up(hyper: Hyperparameters, step: int, warmup_steps: float) -> Hyperparameters:
    """With the dense rate at `step` (from 0): a linear ramp from 1e-8 over `warmup_steps`, then constant."""
    if step >= warmup_steps:
        return hyper
    return replace(hyper, learning_rate=1e-8 + (hyper.learning_rate - 1e-8) * step / warmup_steps)
