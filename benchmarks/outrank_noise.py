"""How far off zero OutRank's score of a column of noise is, with labels shifted as published and shuffled as here.

    python benchmarks/outrank_noise.py

Twenty columns of noise of each cardinality, 200,000 rows, base rate .2: the standard deviation of their scores, in
standard deviations of chance. Then the score of a column of 500 values that tells something, in random order and sorted
by it. The table is in docs/decisions/0014.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clickherd.selection.contingency import conditional_entropy, shuffled
from clickherd.selection.outrank import noise_deviation

Array = npt.NDArray[np.int64]
ROWS, COLUMNS = 200_000, 20


def main() -> None:
    rng = np.random.default_rng(1)
    for values in (2, 10, 100, 1_000, 10_000, 100_000):
        drawn = [(rng.integers(0, values, ROWS), (rng.random(ROWS) < 0.2).astype(np.int64)) for _ in range(COLUMNS)]
        scored = np.array(
            [[score / noise for score in (shifted, mixed)] for shifted, mixed, noise in map(scores, drawn)]
        )
        shifted, mixed = scored.std(axis=0)
        print(f"{values:>7,} values: shifted {shifted:.2f}, shuffled {mixed:.2f}")
    x = rng.integers(0, 500, 40_000)
    y = (rng.random(len(x)) < rng.beta(1, 3, 500)[x]).astype(np.int64)
    for name, order in (("random order", np.arange(len(x))), ("sorted", np.argsort(x, kind="stable"))):
        shifted, mixed, _ = scores((x[order], y[order]))
        print(f"500 values that tell something, {name}: shifted {shifted:.3f}, shuffled {mixed:.3f}")


def scores(column: tuple[Array, Array]) -> tuple[float, float, float]:
    """H(Y'|X) - H(Y|X) with either noise, and what it varies by."""
    x, y = column
    counts = np.bincount(x)
    noises = (y[(np.arange(len(x)) + counts[x]) % len(x)], shuffled(y))
    own, *by_chance = (
        conditional_entropy(counts, np.bincount(x, z, len(counts)).astype(np.int64)) for z in (y, *noises)
    )
    return by_chance[0] - own, by_chance[1] - own, noise_deviation(counts)


if __name__ == "__main__":
    main()
