"""Encoded values as a reader knows them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clickherd.data.encode import Embedded
from clickherd.data.numeric import LogSquareBuckets, MinMax, QuantileBuckets, Scaling
from clickherd.data.store import FIRST_VALUE, MISSING, UNKNOWN
from clickherd.data.vocabulary import Vocabulary


def value_name(encoding: Embedded | None, local: int) -> str:
    """A value as a reader knows it, from its local id."""
    if local in (UNKNOWN, MISSING):
        return "rare values" if local == UNKNOWN else "missing"
    index = local - FIRST_VALUE
    if isinstance(encoding, Vocabulary):
        return repr(encoding.values[index])
    if isinstance(encoding, LogSquareBuckets):
        bucket = encoding.buckets[index]
        return str(bucket) if bucket <= 2 else f"numbers from {math.exp(math.sqrt(bucket)):.3g} on"
    if isinstance(encoding, QuantileBuckets):
        return f"numbers from {encoding.edges[index - 1]:.4g} on" if index else f"numbers below {encoding.edges[0]:.4g}"
    return f"bucket {index + 1}"


def bucket_start(encoding: Embedded, local: int) -> float | None:
    """Where the numbers of a bucket begin, from its local id; None where ids are not buckets of numbers."""
    index = local - FIRST_VALUE
    if index < 0:
        return None
    if isinstance(encoding, LogSquareBuckets):
        bucket = encoding.buckets[index]
        return float(bucket) if bucket <= 2 else math.exp(math.sqrt(bucket))
    if isinstance(encoding, QuantileBuckets):
        return float(encoding.edges[index - 1]) if index else -math.inf
    return None


def unscaled(scaling: Scaling, value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The numbers in the log that scaled ones stand for."""
    if isinstance(scaling, MinMax):
        return scaling.low + value * (scaling.high - scaling.low)
    return scaling.mean + value * scaling.std
