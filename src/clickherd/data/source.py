"""Raw rows from wherever they lie: files, globs, folders, URLs and frames, in order and in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from clickherd.data.cells import Cells
from clickherd.data.columnar import ArrowPart, ParquetPart
from clickherd.data.config import DataConfig
from clickherd.data.cross import CrossedPart
from clickherd.data.frames import to_part
from clickherd.data.history import EventLog, HistoryPart
from clickherd.data.locate import DataFile, locate
from clickherd.data.part import Part, PartitionedPart
from clickherd.data.text import TextPart
from clickherd.data.unify import check_columns, unify
from clickherd.errors import DataError, did_you_mean

DataLike: TypeAlias = Any
"""A path, glob, folder or URL, or a list of them; a pandas or polars frame, a LazyFrame, a pyarrow Table or
RecordBatchReader, anything with `__arrow_c_stream__`, or a mapping of column names to values."""

CHUNK_ROWS = 262_144  # other chunks would round sums of numbers otherwise


@dataclass(frozen=True)
class RawChunk:
    """Consecutive rows of one file."""

    frame: pl.DataFrame  # CSV: every column String, nulls applied; otherwise the source's dtypes
    file: str  # as the user would recognise it; "<DataFrame>" for a frame
    first_row: int  # index within the file of the chunk's first data row, from 0
    first_line: int | None = None  # line of that row; None when rows and lines do not run in step
    cells: Mapping[str, Cells] = field(default_factory=dict)  # text columns that are not in the frame
    texts: Mapping[str, pl.Series] = field(default_factory=dict)  # column of lists of positions → what they stand for

    @property
    def height(self) -> int:
        """Rows."""
        return len(next(iter(self.cells.values()))) if self.cells else self.frame.height

    def column(self, name: str) -> pl.Series:
        """A column's values."""
        return self.cells[name].series() if name in self.cells else self.frame[name]

    def place(self, index: int) -> dict[str, Any]:
        """Where the chunk's row `index` (from 0) stands, as keyword arguments for UserError."""
        place: dict[str, Any] = {"file": self.file, "row": self.first_row + index + 1}
        return place if self.first_line is None else {**place, "line": self.first_line + index}


class Source:
    """Rows with one set of columns and types, from one or more files or a frame."""

    def __init__(
        self,
        parts: Sequence[Part],
        dtypes: Mapping[str, pl.DataType],
        faults: Mapping[str, DataError],
        *,
        is_text: bool,
        log: EventLog | None = None,
    ) -> None:
        self._parts, self._faults = tuple(parts), dict(faults)
        self.name = parts[0].name if len(parts) == 1 else f"{parts[0].name} and {len(parts) - 1} more"
        self.dtypes = dict(dtypes)
        self.columns = tuple(dtypes)
        self.is_text = is_text
        self.log = log  # of its rows, if histories are made

    def fingerprint(self) -> str:
        """A sha256 of the content that does not depend on where local files lie. Rows are not looked at.

        Raises:
            DataError: a file that cannot be read.
        """
        return hashlib.sha256("\n".join(part.digest() for part in self._parts).encode()).hexdigest()

    def chunks(
        self, columns: Sequence[str] | None = None, rows: int = CHUNK_ROWS, cells: Collection[str] = ()
    ) -> Iterator[RawChunk]:
        """All rows in order, at most `rows` at a time, with the given columns in the given order.

        Those of `cells` may come as such where the rows are text.

        Raises:
            DataError: a column that is unknown or of a type that cannot be used; a broken line, when it is reached.
        """
        wanted = self._wanted(columns)
        for part in self._parts:
            for piece in part.pieces(wanted, rows, cells):
                frame = self._cast(piece.frame, piece.frame.columns)
                yield RawChunk(frame, part.name, piece.first_row, piece.first_line, piece.cells, piece.texts)

    def head(self, rows: int = 50_000) -> pl.DataFrame:
        """At most `rows` rows, spread over the files and, where cheap, within them."""
        return pl.concat([frame for _, frame in self.heads(rows)])

    def heads(self, rows: int = 50_000) -> list[tuple[str, pl.DataFrame]]:
        """The rows of `head`, file by file (of at most 16 files), each with the file's name."""
        wanted = self._wanted(None)
        count = min(len(self._parts), 16, rows)
        parts = [self._parts[i * len(self._parts) // count] for i in range(count)]
        return [(part.name, self._cast(part.sample(wanted, rows // count), wanted)) for part in parts]

    def _wanted(self, columns: Sequence[str] | None) -> tuple[str, ...]:
        wanted = self.columns if columns is None else tuple(columns)
        for name in wanted:
            if name not in self.dtypes:
                raise DataError("no such column", file=self.name, column=name, mend=did_you_mean(name, self.columns))
            if name in self._faults:
                raise self._faults[name]
        return wanted

    def _cast(self, frame: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
        if self.is_text:
            return frame
        other = {name: self.dtypes[name] for name in columns if frame.schema[name] != self.dtypes[name]}
        unusable = [pl.lit(None).alias(name) for name, dtype in other.items() if dtype == pl.Null]
        return frame.cast({name: dtype for name, dtype in other.items() if dtype != pl.Null}).with_columns(unusable)


def open_source(
    data: DataLike,
    config: DataConfig,
    *,
    need_label: bool = True,
    names: Iterable[str] = (),
    earlier: Iterable[Source] = (),
) -> Source:
    """The rows of `data`, ready to be read.

    Args:
        data: see `DataLike`.
        config: how files are read, and the roles of columns.
        need_label: whether the label's column has to be there.
        names: columns known from elsewhere (a trained model's), by which a CSV's header is recognised.
        earlier: other sources of the log, whose rows are in the histories of these as far as they are earlier.

    Raises:
        DataError: nothing to read, or nothing that can be read; the message names file and column.
    """
    parts: list[Part]
    if isinstance(data, str | Path):
        data = [data]
    is_paths = isinstance(data, list | tuple) and all(isinstance(item, str | Path) for item in data)
    if is_paths:
        if not data:
            raise DataError("no data", mend="Name a file, a glob, a folder or a URL.")
        files = locate(data, config.format)
        known = frozenset({*_configured_names(config), *names})
        parts = [_partitioned(_file_part(file, config, known, need_label=need_label), file) for file in files]
    else:
        parts = [to_part(data)]
    parts = _filled(parts)
    check_columns(parts)
    if config.crosses:
        parts = [CrossedPart(part, config) for part in parts]
    source = _of_parts(parts, config)
    if need_label and config.label not in source.dtypes:
        raise DataError(
            "the label's column is not there",
            file=parts[0].name,
            column=config.label,
            mend=_label_mend(parts[0], config),
        )
    if config.histories:
        log = EventLog(source.chunks, config, [other.log for other in earlier if other.log is not None])
        extended = [HistoryPart(part, config, log, number) for number, part in enumerate(parts)]
        source = _of_parts(extended, config, log)
    return source


def _of_parts(parts: Sequence[Part], config: DataConfig, log: EventLog | None = None) -> Source:
    is_text = parts[0].is_text
    dtypes, faults = (parts[0].dtypes, {}) if is_text else unify(parts, config)
    return Source(parts, dtypes, faults, is_text=is_text, log=log)


def _file_part(file: DataFile, config: DataConfig, names: frozenset[str], *, need_label: bool) -> Part:
    if file.kind == "parquet":
        return ParquetPart(file)
    if file.kind == "arrow":
        return ArrowPart(file)
    return TextPart(file, config, names, need_label=need_label)


def _partitioned(part: Part, file: DataFile) -> Part:
    """The part with a text column for each `name=value` folder it lies in, as Hive and Spark write them."""
    values = {name: value for name, value in file.partition if name not in part.dtypes}
    return PartitionedPart(part, values) if values else part


def _filled(parts: list[Part]) -> list[Part]:
    """The parts that have rows: Spark also writes files without any."""
    filled = [part for part in parts if not part.is_empty]
    if not filled:
        raise DataError("there are no rows", file=parts[0].name, mend="Check how it was written.")
    return filled


def _configured_names(config: DataConfig) -> set[str]:
    names = {config.label, *config.roles, *config.hash_buckets, *config.numeric_columns}
    names.update(*config.crosses, *config.targets.items())
    names.update(name for history in config.parsed_histories.values() for name in history if name)
    return names | {name for name in (config.group, config.time_column) if name}


def _label_mend(part: Part, config: DataConfig) -> str:
    mend = f"Say which one it is with --label. {did_you_mean(config.label, part.dtypes)}"
    if part.is_text and not part.has_header:
        mend += " The first line was taken for data; if it names the columns, say --set data.header=true."
    return mend
