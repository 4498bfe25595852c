"""Categorical values as ids: a vocabulary counted on the training rows, or hash buckets.

Local ids within a field: 0 unknown, 1 missing, values from 2. A vocabulary's values are ordered by descending count,
then by their text, so that the same rows give the same ids on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from clickherd.data.hashing import TextIndex, hash_texts
from clickherd.data.store import FIRST_VALUE, MISSING, UNKNOWN
from clickherd.data.values import WHOLE_FLOAT, as_texts

Ids = npt.NDArray[np.int32]


class Vocabulary:
    """The values of one column that have an id of their own."""

    def __init__(self, values: pl.Series, null_values: tuple[str, ...]) -> None:
        assert values.dtype == pl.String
        self.values, self.null_values = values, null_values

    @property
    def size(self) -> int:
        """Ids, the unknown and the missing one included."""
        return FIRST_VALUE + len(self.values)

    def encode(self, values: pl.Series) -> Ids:
        """Local ids of raw values of any type, shape (N,)."""
        found = self._index.find(as_texts(values))
        first = len(self.null_values)
        ids = np.where(found >= first, found + (FIRST_VALUE - first), np.where(found >= 0, MISSING, UNKNOWN))
        if values.has_nulls() or values.dtype.is_float():
            ids[_is_missing(values)] = MISSING
        return ids.astype(np.int32, copy=False)

    @cached_property
    def _index(self) -> TextIndex:
        """The texts that mean missing stand first, then the values."""
        return TextIndex(pl.concat([pl.Series("value", self.null_values, pl.String), self.values.alias("value")]))

    def __getstate__(self) -> dict[str, Any]:
        """Without the index: it is large and quickly built."""
        return {"values": self.values, "null_values": self.null_values}


class HashBuckets(BaseModel):
    """Values share `buckets` ids by their hash (see `hashing`); no vocabulary is kept, and none is ever unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["hash"] = "hash"
    buckets: int = Field(ge=1)
    null_values: tuple[str, ...]

    @property
    def size(self) -> int:
        """Ids, the unknown and the missing one included."""
        return FIRST_VALUE + self.buckets

    def encode(self, values: pl.Series) -> Ids:
        """Local ids of raw values of any type, shape (N,)."""
        texts = as_texts(values)
        ids = (hash_texts(texts) % np.uint64(self.buckets)).astype(np.int32) + np.int32(FIRST_VALUE)
        missing = texts.is_null() | texts.is_in(self.null_values)
        ids[missing.fill_null(True).to_numpy()] = MISSING
        return ids


def _is_missing(values: pl.Series) -> npt.NDArray[np.bool_]:
    missing = values.is_null()
    if values.dtype.is_float():
        missing |= values.is_nan().fill_null(True)
    return missing.to_numpy()


def count_values(
    values: pl.Series, counts: npt.NDArray[np.int64], null_values: Sequence[str]
) -> tuple[pl.DataFrame, int]:
    """The vocabulary's table of (value, count) in its order, and the number of missing values.

    Args:
        values: raw values (N,) of any type, null where missing; different spellings of one value may stand apart.
        counts: how often each of them occurs (N,); those with 0 are left out.
    """
    raw = pl.DataFrame([as_texts(values).alias("value"), pl.Series("count", counts, pl.Int64)])
    sums = raw.filter(pl.col("count") > 0).group_by("value").agg(pl.col("count").sum())
    missing = pl.col("value").is_null() | pl.col("value").is_in(null_values)
    num_missing = int(sums.filter(missing)["count"].sum())
    key = pl.col("value").str.replace(WHOLE_FLOAT, "$1")
    table = (
        sums.filter(~missing)
        .group_by(key)
        .agg(pl.col("count").sum())
        .sort(["count", "value"], descending=[True, False])
    )
    return table, num_missing
