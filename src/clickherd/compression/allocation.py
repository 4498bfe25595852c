"""Which option each part gets, so that the whole takes few bytes and its predictions move little.

The losses of parts are taken to add up. Of each part only the options on the lower convex hull of (bytes, loss) count;
steps along all hulls, those that cost least loss a byte first, are then the best allocation for every budget that they
pass through (Lagrangian bit allocation; Shoham & Gersho, IEEE TASSP 36(9), 1988).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from clickherd.compact.config import CompressionConfig
from clickherd.compression.sensitivity import Option, Part


@dataclass(frozen=True)
class Allocation:
    """An option for each part, in the order of the parts; `loss` is the sum of theirs."""

    options: tuple[Option, ...]

    @property
    def loss(self) -> float:
        """In nats a row."""
        return sum(option.loss for option in self.options)

    @property
    def num_bytes(self) -> int:
        """Of the parts."""
        return sum(option.num_bytes for option in self.options)

    def config(self, parts: Sequence[Part]) -> CompressionConfig:
        """The settings of a model that is made so."""
        chosen = list(zip(parts, self.options, strict=True))
        fields = [(part.name, option) for part, option in chosen if part.is_field and option.bits != 32]
        widths = {part.name: part.options[0].dim for part in parts}
        return CompressionConfig.model_validate(
            {
                "dims": {name: option.dim for name, option in fields if option.dim != widths[name]},
                "bits": {name: option.bits for name, option in fields},
                "dense_bits": 16,
                "ranks": {part.name: option.rank for part, option in chosen if option.rank is not None},
            }
        )


def hull(options: Sequence[Option]) -> list[Option]:
    """From the first option on, those that no mix of others beats; ever fewer bytes, ever more loss a byte saved."""
    first = options[0]
    path = [first]
    for option in sorted(options[1:], key=lambda one: (-one.num_bytes, one.loss)):
        if option.num_bytes >= path[-1].num_bytes:
            continue
        while len(path) > 1 and slope(path[-2], path[-1]) >= slope(path[-1], option):
            path.pop()
        path.append(option)
    return path


def slope(larger: Option, smaller: Option) -> float:
    """Loss a byte saved."""
    return (smaller.loss - larger.loss) / (larger.num_bytes - smaller.num_bytes)


def allocate(parts: Sequence[Part], budgets: Sequence[int]) -> list[Allocation]:
    """The allocation for each budget in bytes, or the smallest there is."""
    hulls = [hull(part.options) for part in parts]
    steps = sorted(
        (slope(before, after), place, number)
        for place, path in enumerate(hulls)
        for number, (before, after) in enumerate(itertools.pairwise(path), start=1)
    )
    found: dict[int, Allocation] = {}
    current = [path[0] for path in hulls]
    total = sum(option.num_bytes for option in current)
    ahead = iter(steps)
    for budget in sorted(set(budgets), reverse=True):
        while total > budget and (step := next(ahead, None)) is not None:
            _, place, number = step
            total += hulls[place][number].num_bytes - current[place].num_bytes
            current[place] = hulls[place][number]
        found[budget] = Allocation(tuple(current))
    return [found[budget] for budget in budgets]
