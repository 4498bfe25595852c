"""Numeric columns: buckets that become ids, or scaled real values. All are fitted on the training rows only.

    log_square  b(x) = ⌊(ln x)²⌋ for x > 2, otherwise x cut to an integer; one id per bucket that occurred. This is how
                the winners of Criteo's Kaggle contest (2014) and the Criteo_x4 benchmark (BARS) treat counts.
    quantile    buckets with equally many training rows
    minmax      (x − min) / (max − min), clipped to [0, 1]
    standard    (x − mean) / standard deviation

A missing value is the missing id in the first two and 0 in the others.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from clickherd.data.codes import EVERY_ROW, NULL, Codes, Mask, ValueCodes, look_up_small, read_only
from clickherd.data.hashing import hash_rows
from clickherd.data.store import FIRST_VALUE, MISSING, UNKNOWN
from clickherd.data.values import Floats

Ids = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]

_BUCKET_LIMIT = 2.0**31
_DENSE = 1 << 20  # bucket numbers within such a range are looked up in an array
_SMALL = 1 << 15  # whole numbers below it have their bucket looked up
SAMPLE_SIZE = 1 << 18  # values that quantiles are taken from, at most


class _Transform(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def log_square_buckets(values: Floats) -> Integers:
    """Bucket ⌊(ln x)²⌋ of each x > 2, int(x) of the others, shape (N,). Values must not be NaN."""
    large = values > 2
    logs = np.log(np.where(large, values, 3.0))
    buckets = np.where(large, np.floor(logs * logs), np.trunc(values))
    return np.clip(buckets, -_BUCKET_LIMIT, _BUCKET_LIMIT).astype(np.int64)


class LogSquareBuckets(_Transform):
    """Ids of the log-squared buckets that occurred in training, most frequent first."""

    kind: Literal["log_square"] = "log_square"
    buckets: tuple[int, ...]

    @property
    def size(self) -> int:
        """Ids, the unknown and the missing one included."""
        return FIRST_VALUE + len(self.buckets)

    @cached_property
    def _table(self) -> tuple[int, Ids] | None:
        """Lowest bucket and the ids from one below it to one above the highest; None when that is too long."""
        if not self.buckets or max(self.buckets) - min(self.buckets) > _DENSE:
            return None
        low = min(self.buckets)
        table = np.full(max(self.buckets) - low + 3, UNKNOWN, np.int32)
        table[np.array(self.buckets) - low + 1] = np.arange(len(self.buckets)) + FIRST_VALUE
        return low, table

    def encode(self, values: Floats) -> Ids:
        """Local ids, shape (N,); NaN is missing."""
        missing = np.isnan(values)
        ids = self.encode_buckets(log_square_buckets(np.where(missing, 0.0, values)))
        ids[missing] = MISSING
        return ids

    def encode_buckets(self, found: Integers) -> Ids:
        """Local ids of buckets, shape (N,)."""
        if not self.buckets:
            return np.full(len(found), UNKNOWN, np.int32)
        if self._table is not None:
            low, table = self._table
            return table[np.clip(found - low + 1, 0, len(table) - 1)]
        known = np.array(self.buckets)
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known, found, sorter=order), len(known) - 1)
        return np.where(known[order[at]] == found, order[at] + FIRST_VALUE, UNKNOWN).astype(np.int32)


class QuantileBuckets(_Transform):
    """Bucket i holds edges[i - 1] ≤ x < edges[i]. No value is unknown."""

    kind: Literal["quantile"] = "quantile"
    edges: tuple[float, ...]

    @property
    def size(self) -> int:
        """Ids, the unknown and the missing one included."""
        return FIRST_VALUE + len(self.edges) + 1

    def encode(self, values: Floats) -> Ids:
        """Local ids, shape (N,); NaN is missing."""
        ids = np.searchsorted(np.array(self.edges), values, side="right").astype(np.int32) + np.int32(FIRST_VALUE)
        ids[np.isnan(values)] = MISSING
        return ids


class MinMax(_Transform):
    """Scaled to [0, 1] by the training rows' range."""

    kind: Literal["minmax"] = "minmax"
    low: float
    high: float

    def scale(self, values: Floats) -> npt.NDArray[np.float32]:
        """Real values, shape (N,)."""
        width = self.high - self.low
        scaled = np.clip((values - self.low) / (width if width > 0 else 1.0), 0, 1)
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


class Standard(_Transform):
    """Mean 0 and standard deviation 1 over the training rows."""

    kind: Literal["standard"] = "standard"
    mean: float
    std: float

    def scale(self, values: Floats) -> npt.NDArray[np.float32]:
        """Real values, shape (N,)."""
        scaled = (values - self.mean) / (self.std if self.std > 0 else 1.0)
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


Scaling = MinMax | Standard


class NumberSummary:
    """Count, missing, range, mean and variance of a column, over many chunks (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self.count = self.missing = 0
        self.low, self.high = math.inf, -math.inf
        self.mean = self._squares = 0.0

    def add(self, values: Floats) -> None:
        """Take in one chunk, NaN being missing."""
        present = values[~np.isnan(values)]
        self.missing += len(values) - len(present)
        if not len(present):
            return
        count, mean = len(present), float(present.mean())
        delta, total = mean - self.mean, self.count + len(present)
        squares = present - mean
        np.square(squares, out=squares)
        self._squares += float(squares.sum()) + delta * delta * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        self.low, self.high = min(self.low, float(present.min())), max(self.high, float(present.max()))

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0


class BucketCounter:
    """Codes of log-squared buckets, given as values stream by, and how often each bucket occurs (see `codes`)."""

    def __init__(self) -> None:
        self._codes = ValueCodes()
        self._of_small = np.full(_SMALL, -1, np.int32)  # whole number → its bucket's code, once it has occurred

    def add(self, values: Floats, train: Mask = EVERY_ROW) -> Codes:
        """Codes of one chunk's values, NaN being missing, shape (N,); the rows that `train` marks are counted."""
        codes, others = np.empty(len(values), np.int32), np.empty(len(values), np.int64)
        others = others[: look_up_small(read_only(values), self._of_small, codes, others)]
        if len(others):
            new = values[others]
            buckets, found = log_square_buckets(new), np.empty(len(new), np.int32)
            nothing = np.zeros(len(new), np.bool_)
            self._codes.add_integers(buckets, ~nothing, nothing, found)
            codes[others] = found
            small = (new >= 0) & (new < _SMALL) & (np.floor(new) == new)
            self._of_small[new[small].astype(np.int64)] = found[small]
        self._codes.count(codes, train)
        return codes

    def finish(self) -> list[tuple[int, int]]:
        """(bucket, count) of those that were counted, most frequent first."""
        counts = self._codes.counts
        counted = np.flatnonzero(counts[1:]) + 1
        pairs = zip(self._codes.integers()[counted].tolist(), counts[counted].tolist(), strict=True)
        return sorted(pairs, key=lambda item: (-item[1], item[0]))

    def ids(self, encoding: LogSquareBuckets) -> Ids:
        """The local id of each code."""
        ids = encoding.encode_buckets(self._codes.integers())
        ids[NULL] = MISSING
        return ids


class SampleCounter:
    """A bounded uniform sample of a column: the rows whose hashed number is lowest, however they are chunked."""

    def __init__(self, size: int = SAMPLE_SIZE) -> None:
        self._size = size
        self._limit = 2**64
        self._values, self._hashes = [np.empty(0)], [np.empty(0, np.uint64)]
        self._count = 0

    def add(self, values: Floats, first_row: int, rows: npt.NDArray[np.bool_] | None = None) -> None:
        """Take in one chunk, NaN being missing: all rows, or those that `rows` marks."""
        hashes = hash_rows(first_row, len(values), seed=0)
        keep = ~np.isnan(values)
        if rows is not None:
            keep &= rows
        if self._limit < 2**64:
            keep &= hashes < np.uint64(self._limit)
        self._values.append(values[keep])
        self._hashes.append(hashes[keep])
        self._count += len(self._values[-1])
        if self._count > 2 * self._size:
            self._shrink()

    def _shrink(self) -> None:
        values, hashes = np.concatenate(self._values), np.concatenate(self._hashes)
        self._limit = int(np.partition(hashes, self._size)[self._size])
        keep = hashes < np.uint64(self._limit)
        self._values, self._hashes, self._count = [values[keep]], [hashes[keep]], int(keep.sum())

    def sample(self) -> Floats:
        """The sampled values; all of them while they are few."""
        if self._count > self._size:
            self._shrink()
        return np.concatenate(self._values)


def quantile_edges(sample: Floats, buckets: int) -> tuple[float, ...]:
    """Edges between `buckets` buckets of equally many values; fewer where values repeat."""
    if not len(sample):
        return ()
    # edges are values that occur, so no bucket between two of them is empty
    edges = np.unique(np.quantile(sample, np.linspace(0, 1, buckets + 1)[1:-1], method="higher"))
    return tuple(edges[edges > sample.min()].tolist())
