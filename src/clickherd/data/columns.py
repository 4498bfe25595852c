"""A feature column of the training data while its rows stream by, once: every cell becomes a provisional code or a
number that is recorded, and what the encoding is made of is counted on the training rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.data.cells import Cells, CellSpan, parse_numbers
from clickherd.data.codes import EVERY_ROW, NULL, Mask, ValueCodes
from clickherd.data.config import DataConfig
from clickherd.data.numeric import (
    BucketCounter,
    LogSquareBuckets,
    MinMax,
    NumberSummary,
    QuantileBuckets,
    SampleCounter,
    Scaling,
    Standard,
    quantile_edges,
)
from clickherd.data.schema import Column, says_nothing
from clickherd.data.source import RawChunk
from clickherd.data.store import MISSING
from clickherd.data.values import Floats, as_texts, last_parts, read_numbers, read_parts, read_positions, without_nulls
from clickherd.data.vocabulary import HashBuckets, Ids, Vocabulary, count_values

Embedded = Vocabulary | HashBuckets | LogSquareBuckets | QuantileBuckets
Arrays = tuple[npt.NDArray[Any], ...]

_TOP = 5
_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)


class StreamedColumn(ABC):
    """What is common to both kinds of columns."""

    def __init__(self, column: Column, config: DataConfig) -> None:
        self.column, self.config = column, config

    @property
    def takes_cells(self) -> bool:
        """Whether `read` can take the column's cells as they lie in the text."""
        return True

    @abstractmethod
    def begin(self, rows: int) -> None:
        """A chunk of so many rows comes as cells."""

    @abstractmethod
    def read(self, span: CellSpan, train: Mask, first: int) -> None:
        """Take in some of the chunk's cells, of which the first is the chunk's row `first`."""

    @abstractmethod
    def add(self, chunk: RawChunk, train: Mask, first: int) -> Arrays:
        """Take in the chunk, of which the first row is the source's row `first`.

        Returns:
            What is to be recorded of it, to be used before the next chunk.
        """

    @abstractmethod
    def finish(self) -> tuple[Embedded | Scaling, dict[str, Any], str]:
        """The encoding, facts for the profile, and why the column is of no use, if so."""

    @abstractmethod
    def ids(self, encoding: Embedded) -> Ids | None:
        """The local id of each code; None where local ids or numbers were recorded instead of codes."""


class NumericColumn(StreamedColumn):
    """Statistics of a numeric column, whose recorded cells are codes of log-squared buckets or numbers."""

    def __init__(self, column: Column, config: DataConfig) -> None:
        super().__init__(column, config)
        self._summary, self._buckets, self._sample = NumberSummary(), BucketCounter(), SampleCounter()
        self._reader = NumberReader(config)

    def begin(self, rows: int) -> None:
        """A chunk of so many rows comes as cells."""
        self._reader.begin(rows)

    def read(self, span: CellSpan, train: Mask, first: int) -> None:
        """Take in some of the chunk's cells."""
        self._reader.read(span, train, first)

    def add(self, chunk: RawChunk, train: Mask, first: int) -> Arrays:
        """Count the training rows of one chunk; all of its rows are checked."""
        numbers = self._reader.numbers(self.column.name, chunk)
        self._summary.add(numbers[train] if len(train) else numbers)
        if self.column.encoding == "log_square":
            return (self._buckets.add(numbers, train),)
        if self.column.encoding == "quantile":
            self._sample.add(numbers, first, train if len(train) else None)
        return (numbers,)

    def finish(self) -> tuple[Embedded | Scaling, dict[str, Any], str]:
        """The encoding, facts for the profile, and why the column is of no use, if so."""
        s = self._summary
        rows = s.count + s.missing
        useless = says_nothing(s.count, 1 if s.low == s.high else 2, rows)
        facts: dict[str, Any] = {"missing": s.missing / max(rows, 1)}
        if s.count:
            facts |= {"min": s.low, "max": s.high, "mean": s.mean}
        encoding: Embedded | Scaling
        if self.column.encoding == "log_square":
            counts = self._buckets.finish()
            kept = [bucket for bucket, count in counts if count >= self.config.min_count]
            encoding = LogSquareBuckets(buckets=tuple(kept))
            top = [[f"bucket {bucket}", count] for bucket, count in counts[:_TOP]]
            facts |= {"distinct": len(counts), "vocabulary": len(kept), "top": top}
        elif self.column.encoding == "quantile":
            encoding = QuantileBuckets(edges=quantile_edges(self._sample.sample(), self.config.quantile_buckets))
            facts["vocabulary"] = len(encoding.edges) + 1
        elif self.column.encoding == "minmax":
            encoding = MinMax(low=s.low if s.count else 0.0, high=s.high if s.count else 0.0)
        else:
            encoding = Standard(mean=s.mean, std=s.std)
        return encoding, facts, useless

    def ids(self, encoding: Embedded) -> Ids | None:
        """The local id of each bucket's code."""
        return self._buckets.ids(encoding) if isinstance(encoding, LogSquareBuckets) else None


class CategoricalColumn(StreamedColumn):
    """Codes and counts of a categorical or multi-valued column, or of a sequence.

    Recorded are codes (N,), of a multi-valued column those of all parts and how many each row has (N,); in their place
    local ids where values are hashed, since these are known at once.
    """

    def __init__(self, column: Column, config: DataConfig) -> None:
        super().__init__(column, config)
        buckets = config.hash_buckets.get(column.target or column.name)
        self._hash = HashBuckets(buckets=buckets, null_values=config.null_values) if buckets else None
        self._multi = column.role in ("multi", "sequence")
        self._codes = ValueCodes()
        self._sequences: list[tuple[pl.Series, npt.NDArray[np.int64]]] = []  # values of sequences, and their counts
        self._distinct = pl.Series(dtype=pl.String)  # the values by code, once all are counted
        self._dtype: pl.DataType = pl.String()
        self._out = np.empty(0, np.int32)
        self._of_texts = np.empty(0, np.int32)  # codes of the texts that positions stand for
        self._from_cells = False  # whether texts were taken as they lie, those that mean missing among them
        self._rows = self._empty_rows = 0
        self._separated: bool | None = None  # whether any text held the separator

    @property
    def takes_cells(self) -> bool:
        """Whether `read` can take the column's cells."""
        return not self._multi and self._hash is None

    def begin(self, rows: int) -> None:
        """A chunk of so many rows comes as cells."""
        self._out, self._from_cells = _of_length(self._out, rows), True

    def read(self, span: CellSpan, train: Mask, first: int) -> None:
        """Take in some of the chunk's cells."""
        self._codes.add_cells(span, train, self._out[first : first + len(span)])

    def add(self, chunk: RawChunk, train: Mask, first: int) -> Arrays:
        """Count the training rows of one chunk."""
        del first
        self._rows += int(train.sum()) if len(train) else chunk.height
        name = self.column.name
        if name in chunk.cells:
            assert len(self._out) == chunk.height
            return (self._out,)
        values = chunk.frame[name]
        if self._multi:
            texts = chunk.texts.get(name)
            return self._add_parts(values, train) if texts is None else self._add_positions(values, texts, train)
        if self._hash is not None:  # nothing is counted: that the values are too many is why they are hashed
            ids = self._hash.encode(values)
            self._empty_rows += int(np.count_nonzero((ids[train] if len(train) else ids) == MISSING))
            return (ids,)
        out = np.empty(len(values), np.int32)
        self._code(values, train, out)
        return (out,)

    def _code(self, values: pl.Series, train: Mask, out: Ids) -> None:
        """Numbers are coded as such: a text would have to be made of each."""
        dtype = values.dtype
        if dtype in _INTEGERS:
            integers = values.cast(pl.Int64)
        elif dtype.is_float():
            integers = values.cast(pl.Float64).fill_nan(None)
        else:
            self._codes.add_texts(as_texts(values) if dtype != pl.String else values, train, out)
            return
        self._dtype = dtype
        present = integers.is_not_null().to_numpy()
        words = np.ascontiguousarray(integers.fill_null(0).to_numpy()).view(np.int64)
        self._codes.add_integers(words, present, train, out)

    def _add_parts(self, values: pl.Series, train: Mask) -> Arrays:
        separator = self.config.multi_separator
        if values.dtype == pl.String and not self._separated:
            trained = values.filter(pl.Series(train)) if len(train) else values
            self._separated = bool(trained.str.contains(separator, literal=True).any())
        parts, sizes = read_parts(values, separator, self.config.null_values)
        if self.column.target is not None:
            parts, sizes = last_parts(parts, sizes, self.config.max_length)
        self._empty_rows += int(np.count_nonzero((sizes[train] if len(train) else sizes) == 0))
        if self._hash is not None:
            return self._hash.encode(parts), sizes
        codes = np.empty(len(parts), np.int32)
        self._codes.add_texts(parts, np.repeat(train, sizes) if len(train) else EVERY_ROW, codes)
        return codes, sizes

    def _values(self) -> pl.Series:
        """The distinct values by code, null first."""
        if self._dtype == pl.String:
            texts = self._codes.texts()
            return without_nulls(texts, self.config.null_values) if self._from_cells else texts
        integers = self._codes.integers()
        numbers = pl.Series("value", integers.view(np.float64) if self._dtype.is_float() else integers)
        return numbers.cast(self._dtype).scatter(NULL, None)

    def _add_positions(self, lists: pl.Series, texts: pl.Series, train: Mask) -> Arrays:
        """As `_add_parts`, for lists of positions in `texts`, which are the same in every chunk."""
        positions, sizes = read_positions(lists)
        self._empty_rows += int(np.count_nonzero((sizes[train] if len(train) else sizes) == 0))
        if self._hash is not None:
            return self._hash.encode(texts)[positions], sizes
        if not len(self._of_texts):
            self._of_texts = np.empty(len(texts), np.int32)
            self._codes.add_texts(texts, np.zeros(len(texts), np.bool_), self._of_texts)  # none of them counts yet
        codes = self._of_texts[positions]
        self._codes.count(codes, np.repeat(train, sizes) if len(train) else EVERY_ROW)
        return codes, sizes

    def include(self, sequence: CategoricalColumn) -> None:
        """Let the values of a sequence of this column's values count towards its vocabulary."""
        if self._hash is None:
            self._sequences.append((as_texts(sequence._values()), sequence._codes.counts.copy()))

    def finish(self) -> tuple[Embedded, dict[str, Any], str]:
        """The encoding (of a sequence: of no use), facts for the profile, why the column is of no use, if so."""
        config, rows = self.config, max(self._rows, 1)
        if self._hash is not None:
            facts: dict[str, Any] = {"missing": self._empty_rows / rows, "vocabulary": self._hash.buckets}
            facts["separated"] = self._separated
            return self._hash, facts, ""
        self._distinct = self._values()
        table, num_missing = count_values(self._distinct, self._codes.counts, config.null_values)
        del self._codes  # larger than the values themselves
        missing = self._empty_rows if self._multi else num_missing
        counted = table
        if self._sequences:
            values, counts = zip(*self._sequences, strict=True)
            texts = pl.concat([table["value"], *values])
            counted, _ = count_values(texts, np.concatenate([table["count"], *counts]), config.null_values)
        kept = counted.filter(pl.col("count") >= config.min_count)["value"]
        present = self._rows - missing
        same = table.height == 1 and int(table["count"][0]) == present
        facts = {
            "missing": missing / rows,
            "distinct": table.height,
            "vocabulary": len(kept),
            "top": [list(row) for row in table.head(_TOP).iter_rows()],
            "separated": self._separated,
        }
        return Vocabulary(kept, config.null_values), facts, says_nothing(present, 1 if same else 2, self._rows)

    def ids(self, encoding: Embedded) -> Ids | None:
        """The local id of each value's code."""
        if not isinstance(encoding, Vocabulary):
            return None
        # by a vocabulary of its own: the index of the encoder's would stay while the rows are written
        return Vocabulary(encoding.values, encoding.null_values).encode(self._distinct)


class NumberReader:
    """Numbers of one column's cells: plain decimals at once, all others as `read_numbers` reads them."""

    def __init__(self, config: DataConfig, *, fitted: bool = False) -> None:
        self._config, self._fitted = config, fitted
        self._numbers = np.empty(0)
        self._odd: list[npt.NDArray[np.int64]] = []

    def begin(self, rows: int) -> None:
        """A chunk of so many rows comes as cells."""
        self._numbers, self._odd = _of_length(self._numbers, rows), []

    def read(self, span: CellSpan, train: Mask, first: int) -> None:
        """Take in some of the chunk's cells, of which the first is the chunk's row `first`."""
        del train
        odd = parse_numbers(span, self._numbers[first : first + len(span)])
        if len(odd):
            self._odd.append(odd + first)

    def numbers(self, name: str, chunk: RawChunk) -> Floats:
        """The column's numbers, NaN where missing, shape (N,). They hold until the next chunk.

        Raises:
            DataError: see `read_numbers`.
        """
        cells = chunk.cells.get(name)
        if cells is None or not self._mend(cells):
            return read_numbers(chunk.column(name), chunk, self._config.null_values, fitted=self._fitted)
        assert len(self._numbers) == chunk.height
        return self._numbers

    def labels(self, name: str, chunk: RawChunk) -> Floats | None:
        """As `numbers`, if all of them are 0 and 1."""
        cells = chunk.cells.get(name)
        if cells is None or not self._mend(cells):
            return None
        return self._numbers if ((self._numbers == 0) | (self._numbers == 1)).all() else None

    def _mend(self, cells: Cells) -> bool:
        """Fill in the cells that were no plain decimals; false if there is more to them than another notation."""
        rows = np.concatenate(self._odd) if self._odd else np.empty(0, np.int64)
        if len(cells.null_numbers):
            rows = np.union1d(rows, np.flatnonzero(np.isin(self._numbers, cells.null_numbers)))
        if not len(rows):
            return True
        texts = cells.take(rows)
        found = texts.cast(pl.Float64, strict=False)
        if found.null_count() > texts.null_count() or not found.is_finite().all():
            return False
        self._numbers[rows] = found.to_numpy()
        return True


def _of_length(array: Any, rows: int) -> Any:
    """The array itself if it is so long, otherwise a new one: pages that are new have to be cleared first."""
    return array if len(array) == rows else np.empty(rows, array.dtype)
