"""The one pass over the training data: its values are counted and coded, and an encoder is made of the counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.data.cells import tiles
from clickherd.data.codes import EVERY_ROW, Mask
from clickherd.data.columns import Arrays, CategoricalColumn, Embedded, NumberReader, NumericColumn, StreamedColumn
from clickherd.data.config import DataConfig
from clickherd.data.encode import Encoder, Reading
from clickherd.data.hashing import hash_texts
from clickherd.data.kept import load_kept, restricted
from clickherd.data.numeric import MinMax, Scaling, Standard
from clickherd.data.parallel import ahead, in_parallel
from clickherd.data.recorded import RecordedRows
from clickherd.data.schema import Column, Schema, check_features, check_target, drop, note_crosses
from clickherd.data.source import CHUNK_ROWS, RawChunk, Source
from clickherd.data.split import NAMES, TRAIN, Splits, Splitter
from clickherd.data.store import FIRST_VALUE, TRUTH
from clickherd.data.values import Floats, as_label_texts, as_texts, read_labels
from clickherd.data.vocabulary import Ids
from clickherd.errors import DataError
from clickherd.threads import get_threads

_LABEL_VALUES, _LISTED = 100, 10  # distinct labels that are kept, and that a message lists
_TILE_ROWS = 4096


@dataclass(frozen=True)
class Fitted:
    """What the pass found."""

    encoder: Encoder
    rows: dict[str, int]  # split → rows of the training source
    facts: dict[str, dict[str, Any]]  # column → what the profile says of it
    streamed: dict[str, StreamedColumn]  # the embedded columns as they were counted

    def tables(self) -> dict[str, Ids]:
        """The local id of each code, for the columns of which codes were recorded; once, for what was counted goes."""

        def ids(name: str) -> Ids | None:
            return self.streamed.pop(name).ids(self.encoder.embedded[name])

        names = list(self.streamed)
        found = zip(names, in_parallel([partial(ids, name) for name in names]), strict=True)
        return {name: table for name, table in found if table is not None}


def fit(
    source: Source,
    schema: Schema,
    config: DataConfig,
    splitter: Splitter | None,
    record: RecordedRows | None = None,
) -> Fitted:
    """Fit vocabularies and numeric statistics on the rows of `source` that `splitter` leaves for training.

    All rows go to `record`, if it is given, to be encoded without being read again.

    Raises:
        DataError: a value that cannot be read, labels of one class only, or no feature left.
    """
    streamed = {
        c.name: NumericColumn(c, config) if c.role == "numeric" else CategoricalColumn(c, config)
        for c in schema.features
    }
    targets = _Targets(source, schema, config)
    rows = np.zeros(len(NAMES), np.int64)
    wanted = list(dict.fromkeys([*streamed, schema.label, *targets.columns]))
    assert not streamed.keys() & targets.readers.keys()
    readers = {name: column for name, column in streamed.items() if column.takes_cells} | targets.readers
    for chunk, first, splits in ahead(split_chunks(source, wanted, splitter, cells=readers)):
        train = EVERY_ROW if splits is None else splits == TRAIN
        rows += np.bincount(np.zeros(chunk.height, np.uint8) if splits is None else splits, minlength=len(NAMES))
        _read_cells(readers, chunk, train)
        found, recorded = _add(targets, streamed, chunk, train, first)
        if record is not None:
            record.append(recorded, found, splits)
    targets.labels.check(source.name)
    for name, target in schema.sequences.items():
        own, listed = streamed[target], streamed[name]
        assert isinstance(own, CategoricalColumn)
        assert isinstance(listed, CategoricalColumn)
        own.include(listed)
    finished = dict(zip(streamed, in_parallel([column.finish for column in streamed.values()]), strict=True))
    kept = load_kept(config.kept_values) if config.kept_values is not None else {}
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
        if useless or column.target is not None:
            continue
        if isinstance(encoding, MinMax | Standard):
            scaled[column.name] = encoding
        else:
            whole = column.name not in kept
            embedded[column.name] = encoding if whole else restricted(encoding, kept[column.name], column.name)
            if not whole and "vocabulary" in facts[column.name]:
                facts[column.name]["vocabulary"] = embedded[column.name].size - FIRST_VALUE
    schema = check_features(replace(schema, columns=note_crosses(columns, config)), source.name)
    for name, target in schema.sequences.items():
        check_target(name, next(column for column in columns if column.name == target), source.name)
        facts[name]["vocabulary"] = facts[target]["vocabulary"]
    reading = Reading(
        null_values=config.null_values,
        multi_separator=config.multi_separator,
        positive=config.positive,
        label_values=targets.labels.values(),
        max_length=config.max_length,
    )
    encoder = Encoder(schema, reading, embedded, scaled)
    counted = {name: int(n) for name, n in zip(NAMES, rows, strict=True) if n}
    return Fitted(encoder, counted, facts, {name: streamed[name] for name in encoder.embedded})


def _add(
    targets: _Targets, streamed: Mapping[str, StreamedColumn], chunk: RawChunk, train: Mask, first: int
) -> tuple[Arrays, dict[str, Arrays]]:
    """Let targets and every column take in the chunk; returns what is to be recorded of both."""
    jobs = [partial(targets.add, chunk, train)]
    jobs += [partial(column.add, chunk, train, first) for column in streamed.values()]
    found, *recorded = in_parallel(jobs)
    return found, dict(zip(streamed, recorded, strict=True))


def _read_cells(readers: Mapping[str, StreamedColumn | NumberReader], chunk: RawChunk, train: Mask) -> None:
    """Let columns take in their cells, a tile of rows at a time: its text is then near for all of them."""
    names = [name for name in readers if name in chunk.cells]
    for name in names:
        readers[name].begin(chunk.height)

    def read(some: Sequence[str]) -> None:
        for number, start, stop, first in tiles(chunk.cells[some[0]].spans, _TILE_ROWS):
            marked = train[first : first + stop - start]
            for name in some:
                readers[name].read(chunk.cells[name].spans[number].part(start, stop), marked, first)

    threads = get_threads()
    in_parallel([partial(read, names[i::threads]) for i in range(threads) if names[i::threads]])


class _Targets:
    """What rows carry beside features: labels, groups, and known click probabilities as far as there are any."""

    def __init__(self, source: Source, schema: Schema, config: DataConfig) -> None:
        self.labels, self._config = LabelTally(schema.label, config), config
        self._group = schema.group if schema.group in source.columns else None
        self._has_truth = TRUTH in source.columns
        self.columns = [*filter(None, [self._group]), *([TRUTH] if self._has_truth else [])]
        self.readers = {TRUTH: NumberReader(config, fitted=True)} if self._has_truth else {}
        if config.positive is None:
            self.readers[schema.label] = NumberReader(config)

    def add(self, chunk: RawChunk, train: Mask) -> Arrays:
        """Check the chunk's labels; returns labels, groups and probabilities."""
        label = self.labels.label
        numbers = self.readers[label].labels(label, chunk) if label in self.readers else None
        labels = self.labels.add(chunk, train, numbers)
        groups, truth = np.empty(0, np.uint64), np.empty(0, np.float32)
        if self._group is not None:
            groups = hash_texts(as_texts(chunk.column(self._group)))
        if self._has_truth:
            truth = self.readers[TRUTH].numbers(TRUTH, chunk).astype(np.float32)
        return labels, groups, truth


def split_chunks(
    source: Source,
    columns: list[str],
    splitter: Splitter | None,
    rows: int = CHUNK_ROWS,
    cells: Collection[str] = (),
) -> Iterator[tuple[RawChunk, int, Splits | None]]:
    """Chunks with the number of their first row and each row's split (None: all train)."""
    first = 0
    if splitter is not None and splitter.column is not None:
        columns = columns if splitter.column in columns else [*columns, splitter.column]
        cells = [name for name in cells if name != splitter.column]
    for chunk in source.chunks(columns, rows, cells):
        yield chunk, first, splitter.assign(chunk, first) if splitter is not None else None
        first += chunk.height


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

    def add(self, chunk: RawChunk, train: Mask = EVERY_ROW, numbers: Floats | None = None) -> npt.NDArray[np.float32]:
        """Take in one chunk and return its labels as 0 and 1, shape (N,); only the training rows' classes count.

        `numbers` are the labels, if they are known to be 0 and 1 already.

        Raises:
            DataError: a missing or unreadable label, or a third value beside the positive and the negative one.
        """
        if numbers is not None:
            clicks = numbers.astype(np.float32)
        else:
            values = chunk.column(self.label)
            clicks = read_labels(values, chunk, self.config.positive, self.config.null_values)
            if self.config.positive is not None:
                self._values.add(values, chunk)
        self._classes |= set(np.unique(clicks[train] if len(train) else clicks).tolist())
        return clicks

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
