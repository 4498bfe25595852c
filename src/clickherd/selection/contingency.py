"""How often values occur, and occur together, by compiled loops that pass over the rows once.

Shapes: N events (rows, or the values of a multi-valued field), S fields of one matrix, V values, M joint values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from clickherd.threads import share_out

Ids = npt.NDArray[np.int32]
Bits = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CLICKS, NOISE, LATE, ODD = range(4)  # columns of the sums that go with counts
_EMPTY = -1
_SEED = 2309_01552  # nobody else's: columns shuffled by the same numbers would have the clicks' noise in common

_jit = numba.njit(cache=True, nogil=True)


@dataclass(frozen=True)
class Marks:
    """What is known of each event, shapes (N,), all 0 or 1."""

    clicks: Bits
    noise: Bits  # the clicks in an order of their own: labels that no feature knows anything about
    late: Bits  # whether it is of the later half of the log

    def of_events(self, sizes: Counts) -> Marks:
        """Of the values of a multi-valued field, of which row i has `sizes[i]`; the noise is drawn anew from them."""
        return Marks.of(np.repeat(self.clicks, sizes), np.repeat(self.late, sizes))

    def take(self, rows: Counts) -> Marks:
        """Of some of the events; the noise is drawn anew from them."""
        return Marks.of(self.clicks[rows], self.late[rows])

    @classmethod
    def of(cls, clicks: Bits, late: Bits) -> Marks:
        """With the clicks in a random order, the same one in every run, as the noise."""
        return cls(clicks, shuffled(clicks), late)


def shuffled(array_N: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers in a random order: for as many numbers the same one, in every run."""
    out = array_N.copy()
    np.random.default_rng(_SEED).shuffle(out)
    return out


def tally(ids_NS: Ids, marks: Marks, num_ids: int) -> tuple[Counts, Counts]:
    """How often each id occurs (V,), and how many of these events are clicked, noise, late and of an odd number (V, 4).

    No two columns may have ids in common.
    """
    counts_V, sums_V4 = np.zeros(num_ids, np.int64), np.zeros((num_ids, 4), np.int64)
    bits = marks.clicks, marks.noise, marks.late

    def loop(first: int, last: int) -> None:
        _tally(ids_NS, first, last, *bits, counts_V, sums_V4)

    if ids_NS.shape[1]:
        share_out(loop, ids_NS.shape[1])
    return counts_V, sums_V4


@_jit
def _tally(
    ids_NS: Ids, first: int, last: int, clicks: Bits, noise: Bits, late: Bits, counts_V: Counts, sums_V4: Counts
) -> None:
    for n in range(len(ids_NS)):
        for s in range(first, last):
            i = ids_NS[n, s]
            counts_V[i] += 1
            sums_V4[i, 0] += clicks[n]
            sums_V4[i, 1] += noise[n]
            sums_V4[i, 2] += late[n]
            sums_V4[i, 3] += n & 1


@_jit
def joint(a_N: Ids, b_N: Ids, width: int) -> tuple[Ids, int]:
    """A number from 0 to M - 1 for each combination of a and b that occurs, shape (N,), and M. All b are below `width`.

    An open-addressing table of at least 2N places: O(N), whatever the number of possible combinations.
    """
    size = 16
    while size < 2 * len(a_N):
        size *= 2
    keys, numbers = np.full(size, _EMPTY, np.int64), np.empty(size, np.int32)
    out, found = np.empty(len(a_N), np.int32), 0
    for n in range(len(a_N)):
        key = np.int64(a_N[n]) * width + b_N[n]
        place = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)) & np.uint64(size - 1)
        while keys[place] != key:
            if keys[place] == _EMPTY:
                keys[place], numbers[place] = key, found
                found += 1
                break
            place = (place + np.uint64(1)) & np.uint64(size - 1)
        out[n] = numbers[place]
    return out, found


def entropy(counts: Counts) -> float:
    """Of the distribution that the counts (M,) give, in nats."""
    total = counts.sum()
    present = counts[counts > 0]
    return float(np.log(total) - (present * np.log(present)).sum() / total) if total else 0.0


def conditional_entropy(counts_V: Counts, ones_V: Counts) -> float:
    """H(Y|X) in nats, of a binary Y that is 1 in `ones` of the `counts` events with each value of X."""
    seen = counts_V > 0
    counts, ones = counts_V[seen].astype(np.float64), ones_V[seen].astype(np.float64)
    share = ones / counts
    return float((counts * (_plogp(share) + _plogp(1 - share))).sum() / max(counts.sum(), 1))


def mutual_information(counts_V: Counts, ones_V: Counts) -> float:
    """I(X; Y) in nats, of X and Y as in `conditional_entropy`."""
    total, ones = int(counts_V.sum()), int(ones_V.sum())
    return entropy(np.array([ones, total - ones])) - conditional_entropy(counts_V, ones_V)


def _plogp(p: Floats) -> Floats:
    """-p ln p, 0 at 0."""
    return -p * np.log(np.where(p > 0, p, 1.0))
