"""Dense layers that become a product of two."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from clickherd.errors import ConfigError, did_you_mean
from clickherd.layers.low_rank import LowRankLinear


def reducible(net: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that may become a product of two: those with inputs and outputs of some width."""
    inside = {name for name, module in net.named_modules() if isinstance(module, LowRankLinear)}
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear)
        and full_rank(module) > 1
        and "attention" not in name.split(".")  # DIN takes the first layer of its attention apart
        and name.rpartition(".")[0] not in inside
    }


def full_rank(linear: nn.Linear) -> int:
    """The least rank at which the product of two is no smaller than the layer."""
    return -(-linear.in_features * linear.out_features // (linear.in_features + linear.out_features))


def reduce_layers(net: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put a product of two in the place of each layer that `ranks` names.

    Raises:
        ConfigError: there is no such layer, or the product would not be smaller.
    """
    layers = reducible(net)
    for name, rank in ranks.items():
        if name not in layers:
            raise ConfigError(f"compression.ranks names no layer {name!r}", mend=did_you_mean(name, layers))
        linear = layers[name]
        if rank >= full_rank(linear):
            raise ConfigError(
                f"compression.ranks.{name} = {rank}: no smaller than the layer",
                mend=f"Name a rank below {full_rank(linear)}.",
            )
        low = LowRankLinear(linear.in_features, linear.out_features, rank, bias=linear.bias is not None)
        net.set_submodule(name, low.to(linear.weight.device))
