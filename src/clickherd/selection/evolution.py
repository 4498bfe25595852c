"""The evolutionary search of OptEmbed: lengths of rows, one a field, that a trained supernet scores best with.

It starts from uniform lengths and from some drawn at random. Each generation keeps the best so far as parents; children
are copies of a parent with some fields' lengths drawn anew, and crossings of two parents, cut between two fields. None
has more numbers than the budget (the paper's search has none): those that would have are cut, a number at a time, in
fields drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lengths = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """Lengths from 1 to `width` for fields of so many rows each, and at most `budget` numbers in all."""

    rows: Sequence[int]
    width: int
    budget: float

    def numbers(self, lengths: Sequence[int]) -> int:
        """Of the table."""
        return sum(rows * length for rows, length in zip(self.rows, lengths, strict=True))

    @property
    def is_empty(self) -> bool:
        """Whether a number a row is too much."""
        return self.numbers([1] * len(self.rows)) > self.budget

    def within(self, lengths: npt.NDArray[np.int64], rng: np.random.Generator) -> Lengths:
        """The lengths, cut until they fit."""
        own = lengths.copy()
        while self.numbers(own.tolist()) > self.budget:
            longer = np.flatnonzero((own > 1) & (np.asarray(self.rows) > 0))
            own[rng.choice(longer)] -= 1
        return tuple(own.tolist())


def evolve(
    space: Space,
    score: Callable[[Lengths], float],
    rng: np.random.Generator,
    *,
    generations: int,
    mutated: int,
    crossed: int,
    mutation: float,
    after: Callable[[int, float], None] = lambda _, __: None,
) -> list[tuple[float, Lengths]]:
    """Every candidate that was scored, best first; `after` hears of each generation and its best score so far."""
    fields, found = len(space.rows), dict[Lengths, float]()

    def drawn() -> npt.NDArray[np.int64]:
        return rng.integers(1, space.width + 1, fields)

    def child_by_mutation(parent: Lengths) -> npt.NDArray[np.int64]:
        return np.where(rng.random(fields) < mutation, drawn(), np.array(parent))

    def child_of_two(one: Lengths, other: Lengths) -> npt.NDArray[np.int64]:
        cut = int(rng.integers(0, fields + 1))
        return np.array(one[:cut] + other[cut:])

    uniform = [np.full(fields, length) for length in range(space.width, 0, -1)]
    started = [*uniform, *(drawn() for _ in range(mutated + crossed))]
    candidates = list(dict.fromkeys(space.within(lengths, rng) for lengths in started))
    for generation in range(generations):
        for candidate in candidates:
            if candidate not in found:
                found[candidate] = score(candidate)
        ranked = sorted(found, key=lambda one: -found[one])
        after(generation, found[ranked[0]])
        parents = ranked[: max(mutated, crossed)]
        pairs = [rng.choice(len(parents), 2) for _ in range(crossed)]
        children = [child_by_mutation(parents[place % len(parents)]) for place in range(mutated)]
        children += [child_of_two(parents[a], parents[b]) for a, b in pairs]
        candidates = [space.within(child, rng) for child in children]
    return [(found[one], one) for one in sorted(found, key=lambda one: -found[one])]
