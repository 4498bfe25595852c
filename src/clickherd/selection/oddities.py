"""What is odd about a column, whether or not it predicts clicks: it drifts, empties, or names every row.

Drift compares the earlier half of the log with the later one, by the Jensen-Shannon divergence of the column's
distribution between them (Lin, IEEE Transactions on Information Theory 37, 1991): the information I(X; half), 0 to 1
bit. Chance alone makes that large for a column of many values, so what rows of even and of odd number differ by is
taken off. 0.02 bits are about a population stability index of 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clickherd.data.store import FIRST_VALUE, MISSING, UNKNOWN
from clickherd.selection.contingency import LATE, ODD, Counts, mutual_information
from clickherd.selection.outrank import noise_deviation

DRIFT, DRIFT_NOISE = 0.02, 5.0  # bits, and standard deviations of chance, from which on a drift is told
MISSING_CHANGE, NEW_VALUES = 0.05, 0.05  # shares of rows
MOSTLY_MISSING, ONE_VALUE, IDENTIFIER = 0.5, 0.99, 0.5


@dataclass(frozen=True)
class Oddities:
    """Facts of a column: shares are of its events, `drift` is in bits."""

    distinct: int  # values with an id of their own that occur
    missing: float
    missing_change: float  # later half less earlier half
    new_values: float  # of the later half, the share of values that the earlier one lacks, beyond chance
    drift: float
    notes: tuple[str, ...]


def oddities(counts_V: Counts, sums_V4: Counts, name_of: Callable[[int], str], *, by_time: bool) -> Oddities:
    """What the counts of a column's values tell; `name_of` gives the value of a local id."""
    total = int(counts_V.sum())
    late_V, odd_V = sums_V4[:, LATE], sums_V4[:, ODD]
    late, odd = int(late_V.sum()), int(odd_V.sum())
    early_V, early = counts_V - late_V, total - late
    even_V = counts_V - odd_V
    change_V = late_V / max(late, 1) - early_V / max(early, 1)
    divergence = mutual_information(counts_V, late_V) - mutual_information(counts_V, odd_V)
    drift = divergence / np.log(2)
    new = late_V[early_V == 0].sum() / max(late, 1) - odd_V[even_V == 0].sum() / max(odd, 1)
    distinct = int((counts_V[FIRST_VALUE:] > 0).sum())
    missing, missing_change = counts_V[MISSING] / max(total, 1), change_V[MISSING]
    half = "later half" if by_time else "second half of the rows"

    def notes() -> Iterator[str]:
        most = int(np.argmax(counts_V))
        if missing > MOSTLY_MISSING:
            yield f"{missing:.0%} missing"
        elif counts_V[most] > ONE_VALUE * total:
            yield f"{counts_V[most] / total:.1%} of the rows have one value, {name_of(most)}"
        rare = counts_V[UNKNOWN] + (counts_V == 1)[FIRST_VALUE:].sum()
        if rare > IDENTIFIER * total:
            yield f"{rare / total:.0%} of the rows have a value of their own: an identifier?"
        if abs(missing_change) > MISSING_CHANGE:
            yield f"missing {early_V[MISSING] / early:.0%} → {late_V[MISSING] / late:.0%} in the {half}"
        if new > NEW_VALUES:
            yield f"{new:.0%} of the {half} have values that no earlier row has"
        if drift > DRIFT and divergence > DRIFT_NOISE * noise_deviation(counts_V):
            mover = int(np.argmax(np.abs(change_V)))
            shares = f"{early_V[mover] / early:.1%} → {late_V[mover] / late:.1%}"
            yield f"drifts, {drift:.2f} bits: {name_of(mover)} {shares} in the {half}"

    return Oddities(distinct, float(missing), float(missing_change), float(new), float(drift), tuple(notes()))
