"""μP, the maximal update parametrisation: the rates that suit a narrow network suit a wide one.

Yang et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer", 2022,
https://arxiv.org/abs/2203.03466. With Adam, for a weight whose inputs and outputs are n and m times those of the narrow
network (1: they do not grow with it):

    kind      grows        std at the start, over the narrow network's     rate, over that of the settings
    input     m > n = 1    1                                               1
    hidden    n, m > 1     1/√n                                            1/n
    output    n > m = 1    1/n                                             1/n
    vectors   m            1                                               1

The embedding table is an input: its width does not grow, and its rates stay. So every layer's outputs, and what a step
changes about them, are as large at every width (`clickherd widths` checks that). Without it an output layer gets n
times as many steps of the same length, all of one mind.

A layer that became a product of two has in between a width that does not grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clickherd.compact.decoder import DecodedModel
from clickherd.config import merge
from clickherd.errors import ConfigError
from clickherd.layers.low_rank import LowRankLinear
from clickherd.models import ModelConfig
from clickherd.network import ClickModel
from clickherd.settings import validated

INNER = "inner."  # what the names of a network begin with whose embeddings are decoded


@dataclass(frozen=True)
class Growth:
    """How many times more inputs and outputs a weight has than in the narrow network; 1 where as many."""

    inputs: float = 1.0
    outputs: float = 1.0

    @property
    def rate(self) -> float:
        """Of the weight, over that of the settings."""
        return 1 / self.inputs

    @property
    def std(self) -> float:
        """Of the weight at the start, over that in the narrow network."""
        return self.inputs**-0.5 if self.outputs != 1 else 1 / self.inputs


def narrow_config(config: ModelConfig, base: dict[str, Any]) -> ModelConfig:
    """The narrow model's settings: those of `base`, the others as they are in `config`.

    Raises:
        ConfigError: there are no such settings, or they change the embeddings.
    """
    narrow = validated(type(config), merge(config.model_dump(), base), within="optim.mup_base")
    if narrow.row_width != config.row_width:
        raise ConfigError(
            f"optim.mup_base: embeddings of {narrow.row_width} numbers, and of {config.row_width} in the model",
            mend="The dense network alone can be wider than the narrow one: leave embedding_dim as it is.",
        )
    return narrow


def rates(model: ClickModel, base: dict[str, Any] | None) -> list[float] | None:
    """The rate of each dense parameter over that of the settings, in their order; None without a narrow model.

    Raises:
        ConfigError: the two networks differ in more than widths.
    """
    if base is None:
        return None
    grown = growths(model, model.network(narrow_config(model.config, base), device="meta"))
    return [grown[name].rate for name, _ in model.net.named_parameters()]


def told(shares: list[float]) -> str:
    """What becomes of the rates, for the user."""
    lower = [share for share in shares if share < 1]
    if not lower:
        return "μP: no layer reads more than in optim.mup_base, so that nothing differs"
    return f"μP: the rates of {len(lower)} dense weights are lower than those given, down to 1/{1 / min(lower):g}"


@torch.no_grad()
def initialise(model: ClickModel, base: dict[str, Any] | None) -> None:
    """Bring the dense weights to the size at the start that they have in the narrow model, or to what μP makes of it.

    Raises:
        ConfigError: the two networks differ in more than widths.
    """
    if base is None:
        return
    if model.compression.ranks:
        raise ConfigError(
            "optim.mup_base: products of two have no start of their own in μP",
            mend="Leave compression.ranks out, and make the trained model smaller with clickherd compress.",
        )
    narrow = model.network(narrow_config(model.config, base), device=model.device)
    grown, weights = growths(model, narrow), dict(narrow.named_parameters())
    for name, parameter in model.net.named_parameters():
        if grown[name] != Growth() and (size := rms(parameter)) > 0:
            parameter.mul_(grown[name].std * rms(weights[name.removeprefix(INNER)]) / size)


def rms(weight: Tensor) -> float:
    """Root of the mean square."""
    return float(weight.square().mean().sqrt())


def growths(model: ClickModel, narrow: nn.Module) -> dict[str, Growth]:
    """The growth of every dense parameter, by name.

    Raises:
        ConfigError: the two networks differ in more than the widths of linear layers and of vectors.
    """
    shapes = {name: tuple(weight.shape) for name, weight in narrow.named_parameters()}
    modules = dict(model.net.named_modules())
    found = {name: Growth() for name, _ in model.net.named_parameters()}
    met = set()
    for name, weight in model.net.named_parameters():
        if isinstance(model.net, DecodedModel) and name.startswith("decoder."):
            continue
        shape, (layer, _, kind) = tuple(weight.shape), name.rpartition(".")
        outer, _, side = layer.rpartition(".")
        low = isinstance(modules[outer], LowRankLinear)
        title = f"{outer}.{kind}".removeprefix(INNER) if low else name.removeprefix(INNER)
        met.add(title)
        own = shapes.get(title)
        if own is None or len(own) != len(shape):
            raise _other_layers(title)
        if low and len(own) == 2:
            own = (shape[0], own[1]) if side == "reduce" else (own[0], shape[1])
        if own == shape or len(shape) < 2:
            continue
        if not isinstance(modules[layer], nn.Linear):
            raise ConfigError(
                f"optim.mup_base: {title!r} grows with the width, and is no linear layer",
                mend="Keep the width that it comes from as it is in the narrow model.",
            )
        found[name] = Growth(shape[1] / own[1], shape[0] / own[0])
    if missing := sorted(shapes.keys() - met):
        raise _other_layers(missing[0])
    _check_inputs(found)
    return found


def _other_layers(title: str) -> ConfigError:
    return ConfigError(
        f"optim.mup_base: one of the two networks alone has {title!r}",
        mend="They may differ in widths, such as mlp.hidden_units, and have as many layers.",
    )


def _check_inputs(grown: Mapping[str, Growth]) -> None:
    """See that nothing shrinks, and that what a layer reads grows as a whole: as some layer's outputs do.

    Raises:
        ConfigError: something shrinks, or part of what a layer reads grows.
    """
    outputs = {growth.outputs for growth in grown.values()}
    for name, growth in grown.items():
        if min(growth.inputs, growth.outputs) < 1:
            raise ConfigError(
                f"optim.mup_base: the narrow network is the wider one, in {name.removeprefix(INNER)!r}",
                mend="Name widths that are no more than those of the model.",
            )
        if growth.inputs != 1 and growth.inputs not in outputs:
            raise ConfigError(
                f"optim.mup_base: {name.removeprefix(INNER)!r} reads numbers that grow with the width beside others",
                mend="Such a network has no rates of a narrow one; for DCN-v2, model.structure=stacked has them.",
            )
