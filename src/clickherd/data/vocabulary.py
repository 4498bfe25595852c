"""Categorical values as ids: a vocabulary counted on the training rows, or hash buckets.

Local ids within a field: 0 unknown, 1 missing, values from 2. A vocabulary's values are ordered by descending count,
then by their text, so that the same rows give the same ids on every machine.
"""

from __future__ import annotations

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

_COMPACT_AT = 500_000  # values that may wait before they are added up


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


class ValueCounter:
    """How often each value of a column occurs, over many chunks.

    Memory follows the number of distinct values: what came in since is added up whenever it outgrows the sums.
    """

    def __init__(self, null_values: tuple[str, ...]) -> None:
        self.null_values = null_values
        self._sums: pl.DataFrame | None = None
        self._waiting: list[pl.DataFrame] = []
        self._waiting_rows = 0

    def add(self, values: pl.Series) -> None:
        """Count raw values of one chunk."""
        counts = values.alias("value").value_counts(name="count")
        texts = pl.Series("value", as_texts(counts["value"]).to_arrow(compat_level=pl.CompatLevel.oldest()))
        # through Arrow: a polars text may keep the whole chunk alive that it was cut from
        self._waiting.append(pl.DataFrame([texts, counts["count"].cast(pl.Int64)]))
        self._waiting_rows += len(texts)
        if self._waiting_rows > max(_COMPACT_AT, self._sums.height if self._sums is not None else 0):
            self._compact()

    def _compact(self) -> pl.DataFrame:
        parts = self._waiting if self._sums is None else [self._sums, *self._waiting]
        empty = pl.DataFrame(schema={"value": pl.String, "count": pl.Int64})
        sums = pl.concat([empty, *parts]).group_by("value").agg(pl.col("count").sum())
        self._sums, self._waiting, self._waiting_rows = sums, [], 0
        return sums

    def finish(self) -> tuple[pl.DataFrame, int]:
        """All values with their counts, in vocabulary order, and the number of missing ones."""
        sums = self._compact()
        missing = pl.col("value").is_null() | pl.col("value").is_in(self.null_values)
        num_missing = int(sums.filter(missing)["count"].sum())
        key = pl.col("value").str.replace(WHOLE_FLOAT, "$1")
        table = (
            sums.filter(~missing)
            .group_by(key)
            .agg(pl.col("count").sum())
            .sort(["count", "value"], descending=[True, False])
        )
        return table, num_missing
