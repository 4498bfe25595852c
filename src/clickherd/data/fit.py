"""The first pass: count values and numbers of the training rows, and make an encoder of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.data.config import DataConfig
from clickherd.data.encode import Embedded, Encoder, Reading, in_parallel
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
from clickherd.data.schema import Column, Schema, check_features, drop, note_crosses, says_nothing
from clickherd.data.source import RawChunk, Source
from clickherd.data.split import NAMES, TRAIN, Splits, Splitter
from clickherd.data.values import as_label_texts, as_texts, read_labels, read_numbers, read_parts
from clickherd.data.vocabulary import HashBuckets, ValueCounter, Vocabulary
from clickherd.errors import DataError

_TOP = 5
_LABEL_VALUES, _LISTED = 100, 10  # distinct labels that are kept, and that a message lists

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fitted:
    """What the first pass found."""

    encoder: Encoder
    rows: dict[str, int]  # split → rows of the training source
    facts: dict[str, dict[str, Any]]  # column → what the profile says of it


class _Numeric:
    """Statistics of a numeric column."""

    def __init__(self, column: Column, config: DataConfig) -> None:
        self.column, self.config = column, config
        self.summary, self.buckets, self.sample = NumberSummary(), BucketCounter(), SampleCounter()

    def add(self, values: pl.Series, chunk: RawChunk, train: Mask | None, first: int) -> None:
        """Count the training rows of one chunk; all of its rows are checked."""
        numbers = read_numbers(values, chunk, self.config.null_values)
        present = self.summary.add(numbers if train is None else numbers[train])
        if self.column.encoding == "log_square":
            self.buckets.add(present)
        elif self.column.encoding == "quantile":
            self.sample.add(numbers, first, train)

    def finish(self) -> tuple[Embedded | Scaling, dict[str, Any], str]:
        """The encoding, facts for the profile, and why the column is of no use, if so."""
        s = self.summary
        rows = s.count + s.missing
        useless = says_nothing(s.count, 1 if s.low == s.high else 2, rows)
        facts: dict[str, Any] = {"missing": s.missing / max(rows, 1)}
        if s.count:
            facts |= {"min": s.low, "max": s.high, "mean": s.mean}
        encoding: Embedded | Scaling
        if self.column.encoding == "log_square":
            counts = self.buckets.finish()
            kept = [bucket for bucket, count in counts if count >= self.config.min_count]
            encoding = LogSquareBuckets(buckets=tuple(kept))
            top = [[f"bucket {bucket}", count] for bucket, count in counts[:_TOP]]
            facts |= {"distinct": len(counts), "vocabulary": len(kept), "top": top}
        elif self.column.encoding == "quantile":
            encoding = QuantileBuckets(edges=quantile_edges(self.sample.sample(), self.config.quantile_buckets))
            facts["vocabulary"] = len(encoding.edges) + 1
        elif self.column.encoding == "minmax":
            encoding = MinMax(low=s.low if s.count else 0.0, high=s.high if s.count else 0.0)
        else:
            encoding = Standard(mean=s.mean, std=s.std)
        return encoding, facts, useless


class _Categorical:
    """Counts of a categorical or multi-valued column."""

    def __init__(self, column: Column, config: DataConfig) -> None:
        self.column, self.config = column, config
        self.counter = ValueCounter(config.null_values)
        self.rows = self.empty_rows = 0
        self.separated: bool | None = None  # whether any text held the separator
        self.hashed = column.name in config.hash_buckets

    def add(self, values: pl.Series, chunk: RawChunk, train: Mask | None, first: int) -> None:
        """Count the training rows of one chunk."""
        del chunk, first
        if train is not None:
            values = values.filter(pl.Series(train))
        self.rows += len(values)
        if self.column.role == "multi":
            if values.dtype == pl.String and not self.separated:
                self.separated = bool(values.str.contains(self.config.multi_separator, literal=True).any())
            values, sizes = read_parts(values, self.config.multi_separator, self.config.null_values)
            self.empty_rows += int(np.count_nonzero(sizes == 0))
        elif self.hashed:  # nothing is counted: that the values are too many is why they are hashed
            self.empty_rows += int((values.is_null() | as_texts(values).is_in(self.config.null_values)).sum())
        if not self.hashed:
            self.counter.add(values)

    def finish(self) -> tuple[Embedded, dict[str, Any], str]:
        """The encoding, facts for the profile, and why the column is of no use, if so."""
        name, config = self.column.name, self.config
        if self.hashed:
            buckets = config.hash_buckets[name]
            facts: dict[str, Any] = {"missing": self.empty_rows / max(self.rows, 1), "vocabulary": buckets}
            facts["separated"] = self.separated
            return HashBuckets(buckets=buckets, null_values=config.null_values), facts, ""
        table, num_missing = self.counter.finish()
        missing = self.empty_rows if self.column.role == "multi" else num_missing
        kept = table.filter(pl.col("count") >= config.min_count)["value"]
        present = self.rows - missing
        same = table.height == 1 and int(table["count"][0]) == present
        facts = {
            "missing": missing / max(self.rows, 1),
            "distinct": table.height,
            "vocabulary": len(kept),
            "top": [list(row) for row in table.head(_TOP).iter_rows()],
            "separated": self.separated,
        }
        return Vocabulary(kept, config.null_values), facts, says_nothing(present, 1 if same else 2, self.rows)


def fit(source: Source, schema: Schema, config: DataConfig, splitter: Splitter | None) -> Fitted:
    """Fit vocabularies and numeric statistics on the rows of `source` that `splitter` leaves for training.

    Raises:
        DataError: a value that cannot be read, labels of one class only, or no feature left.
    """
    counters = {
        c.name: _Numeric(c, config) if c.role == "numeric" else _Categorical(c, config) for c in schema.features
    }
    labels = LabelTally(schema.label, config)
    rows = np.zeros(len(NAMES), np.int64)
    for chunk, first, splits in split_chunks(source, [*counters, schema.label], splitter):
        train = None if splits is None else splits == TRAIN
        rows += np.bincount(np.zeros(chunk.frame.height, np.uint8) if splits is None else splits, minlength=len(NAMES))
        labels.add(chunk, train)
        jobs = [partial(counter.add, chunk.frame[name], chunk, train, first) for name, counter in counters.items()]
        in_parallel(jobs)
    labels.check(source.name)
    finished = dict(zip(counters, in_parallel([counter.finish for counter in counters.values()]), strict=True))
    columns: list[Column] = []
    facts: dict[str, dict[str, Any]] = {}
    embedded: dict[str, Embedded] = {}
    scaled: dict[str, Scaling] = {}
    for column in schema.columns:
        facts[column.name] = {}
        if column.name not in finished:
            columns.append(column)
            continue
        encoding, facts[column.name], useless = finished[column.name]
        columns.append(drop(column, useless, config) if useless else column)
        if useless:
            continue
        if isinstance(encoding, MinMax | Standard):
            scaled[column.name] = encoding
        else:
            embedded[column.name] = encoding
    schema = check_features(replace(schema, columns=note_crosses(columns, config)), source.name)
    reading = Reading(
        null_values=config.null_values,
        multi_separator=config.multi_separator,
        positive=config.positive,
        label_values=labels.values(),
    )
    encoder = Encoder(schema, reading, embedded, scaled)
    return Fitted(encoder, {name: int(n) for name, n in zip(NAMES, rows, strict=True) if n}, facts)


def split_chunks(
    source: Source, columns: list[str], splitter: Splitter | None, rows: int = 262_144
) -> Iterator[tuple[RawChunk, int, Splits | None]]:
    """Chunks with the number of their first row and each row's split (None: all train)."""
    first = 0
    if splitter is not None and splitter.column is not None and splitter.column not in columns:
        columns = [*columns, splitter.column]
    for chunk in source.chunks(columns, rows):
        yield chunk, first, splitter.assign(chunk, first) if splitter is not None else None
        first += chunk.frame.height


class LabelValues:
    """The texts of the labels that stream by, with their counts: there may be two."""

    def __init__(self) -> None:
        self._rows = 0
        self._found: dict[str, tuple[int, dict[str, Any]]] = {}  # text → its rows, and the place of the first

    def add(self, values: pl.Series, chunk: RawChunk) -> None:
        """Take in the labels of one chunk, none of them missing.

        Raises:
            DataError: a third value; it lists all with their counts in the rows so far, and where the rarest begins.
        """
        texts = as_label_texts(values).alias("text").to_frame().with_row_index()
        found = texts.group_by("text").agg(pl.len(), pl.col("index").min()).sort("index")
        self._rows += len(values)
        if found.height > _LABEL_VALUES:  # the wrong column, perhaps: no need to keep them all
            found = found.sort("len", descending=True).head(_LABEL_VALUES)
        for text, count, index in found.iter_rows():
            before, place = self._found.get(text, (0, None))
            self._found[text] = (before + count, place or chunk.place(index))
        if len(self._found) > 2:
            raise self._too_many(values.name)

    def _too_many(self, label: str) -> DataError:
        texts = self.texts()
        listed = ", ".join(f"{text!r} in {self._found[text][0]:,}" for text in texts[:_LISTED])
        more = f" and others ({len(texts)} in all)" if len(texts) > _LISTED else ""
        return DataError(
            f"labels have to be two values; of the first {self._rows:,} rows, {listed}{more}; "
            f"here {texts[-1]!r} stands first",
            column=label,
            **self._found[texts[-1]][1],
            mend="Mend the rows, or leave them out.",
        )

    def texts(self) -> tuple[str, ...]:
        """The labels found, most frequent first."""
        return tuple(sorted(self._found, key=lambda text: -self._found[text][0]))


class LabelTally:
    """Checks labels as they stream by, and remembers what they were."""

    def __init__(self, label: str, config: DataConfig) -> None:
        self.label, self.config = label, config
        self._classes: set[float] = set()
        self._values = LabelValues()

    def add(self, chunk: RawChunk, train: Mask | None = None) -> None:
        """Take in one chunk; only the training rows' classes count.

        Raises:
            DataError: a missing or unreadable label, or a third value beside the positive and the negative one.
        """
        values = chunk.frame[self.label]
        clicks = read_labels(values, chunk, self.config.positive, self.config.null_values)
        self._classes |= set(np.unique(clicks if train is None else clicks[train]).tolist())
        if self.config.positive is not None:
            self._values.add(values, chunk)

    def values(self) -> tuple[str, ...]:
        """The labels found, most frequent first."""
        return self._values.texts()

    def check(self, file: str) -> None:
        """See that the training rows hold both classes.

        Raises:
            DataError: one class only.
        """
        if len(self._classes) == 2:
            return
        if self._classes == {0.0} and self.config.positive is not None:
            raise no_positive(self.config.positive, self.values(), file, self.label)
        if not self._classes:
            raise DataError(
                "the split leaves no training rows",
                file=file,
                mend="Give more rows or smaller fractions. A split by time keeps rows of one instant together.",
            )
        only = int(self._classes.pop())
        raise DataError(
            f"all training rows have the label {only}",
            file=file,
            column=self.label,
            mend="A click model needs rows with and without clicks; check the label's column.",
        )


def no_positive(
    positive: str,
    found: tuple[str, ...],
    file: str,
    label: str,
    mend: str = "Give one of these as --positive, or make the labels of all files alike.",
) -> DataError:
    """The error for labels among which the positive one never occurs."""
    return DataError(
        f"no row has the label {positive!r}; found {', '.join(map(repr, found[:10]))}",
        file=file,
        column=label,
        mend=mend,
    )
