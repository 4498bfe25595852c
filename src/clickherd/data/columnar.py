"""Parquet and Arrow IPC files, local or remote, and frames in memory: columns that keep their types."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clickherd.data.locate import DataFile, reading
from clickherd.data.part import Part, Piece, check_names

_SAMPLE_GROUPS = 8  # row groups that a sample is spread over
_RENAME = "Rename one."


def dtypes_of(schema: pa.Schema) -> dict[str, pl.DataType]:
    """The types that `frame_of` gives the columns; Object stands for one that polars does not know."""
    frame = frame_of(schema.empty_table())
    return {field.name: pl.Object() if _is_unknown(field.type) else frame.schema[field.name] for field in schema}


def _is_unknown(kind: pa.DataType) -> bool:
    return bool(pa.types.is_interval(kind) or pa.types.is_union(kind))


def frame_of(batch: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    """The batch as a frame. Types that polars does not know are converted first, or else come as nulls."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_decimal256(field.type):
            batch = batch.set_column(i, field.name, batch.column(i).cast(pa.float64()))
        elif pa.types.is_run_end_encoded(field.type):
            batch = batch.set_column(i, field.name, pc.run_end_decode(batch.column(i)))
        elif _is_unknown(field.type):
            batch = batch.set_column(i, field.name, pa.nulls(batch.num_rows))
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    frame.columns = batch.schema.names  # polars renames a column whose name is empty
    return frame


def _repack(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[Piece]:
    """Frames of any height as pieces of `rows` rows."""
    waiting: list[pl.DataFrame] = []
    height = first_row = 0
    for frame in frames:
        waiting.append(frame)
        height += frame.height
        if height >= rows:
            whole = pl.concat(waiting)
            full = height - height % rows
            for start in range(0, full, rows):
                yield Piece(whole.slice(start, rows), first_row + start)
            first_row += full
            height -= full
            waiting = [whole.slice(full)] if height else []
    if height:
        yield Piece(pl.concat(waiting), first_row)


class ParquetPart(Part):
    """One Parquet file."""

    def __init__(self, file: DataFile) -> None:
        self._file, self.name = file, file.name
        with reading(self.name), self._open() as parquet:
            schema = parquet.schema_arrow
            self.is_empty = parquet.metadata.num_rows == 0
        check_names(schema.names, self.name, _RENAME)
        self.dtypes = dtypes_of(schema)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with ExitStack() as stack:
            remote = self._file.filesystem is not None
            source = stack.enter_context(self._file.open()) if remote else self._file.path
            yield stack.enter_context(pq.ParquetFile(source))

    def digest(self) -> str:
        """The sha256 of the file's bytes, or the remote store's checksum."""
        return self._file.digest()

    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """The rows; columns that are not asked for are not read."""
        yield from _repack(self._frames(columns, min(rows, 65_536)), rows)

    def _frames(self, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
        with reading(self.name), self._open() as parquet:
            for group in range(parquet.num_row_groups):  # asked for all at once, pyarrow keeps what it has read
                for batch in parquet.iter_batches(rows, row_groups=[group], columns=list(columns)):
                    yield frame_of(batch).select(columns)

    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """The first rows of row groups that are spread over the file."""
        with reading(self.name), self._open() as parquet:
            metadata = parquet.metadata
            filled = [i for i in range(metadata.num_row_groups) if metadata.row_group(i).num_rows]
            groups = [filled[i] for i in _spread(len(filled), min(rows, _SAMPLE_GROUPS))]
            share = rows // len(groups)
            frames = []
            for group in groups:
                batches = parquet.iter_batches(share, row_groups=[group], columns=list(columns))
                frames += [frame_of(batch).select(columns) for batch in islice(batches, 1)]
        return pl.concat(frames)


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` indices, evenly spread, the first among them."""
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]


class ArrowPart(Part):
    """One Arrow IPC file, in the file or the streaming format, or Feather version 2."""

    def __init__(self, file: DataFile) -> None:
        self._file, self.name = file, file.name
        with reading(self.name), self._open() as source:
            schema, batches = self._read(source)
            self.is_empty = not any(batch.num_rows for batch in batches)
        check_names(schema.names, self.name, _RENAME)
        self.dtypes = dtypes_of(schema)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        if self._file.filesystem is None:
            with pa.memory_map(self._file.path) as source:
                yield source
        else:
            with self._file.open() as raw:
                yield pa.PythonFile(raw, mode="r")

    @staticmethod
    def _read(source: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        magic = source.read(6)
        source.seek(0)
        if magic == b"ARROW1":
            reader = pa.ipc.open_file(source)
            return reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)

    def digest(self) -> str:
        """The sha256 of the file's bytes, or the remote store's checksum."""
        return self._file.digest()

    def _frames(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        with reading(self.name), self._open() as source:
            for batch in self._read(source)[1]:
                yield frame_of(batch.select(list(columns)))

    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """The rows."""
        yield from _repack(
            (frame.slice(i, rows) for frame in self._frames(columns) for i in _starts(frame, rows)), rows
        )

    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """The first rows."""
        return next(self.pieces(columns, rows)).frame


def _starts(frame: pl.DataFrame, rows: int) -> range:
    return range(0, frame.height, rows)


class FramePart(Part):
    """A frame in memory."""

    def __init__(self, frame: pl.DataFrame, name: str) -> None:
        # As text at once: the codes of a Categorical, and so its hash, depend on what was read before
        self._frame = frame.with_columns(cs.categorical().cast(pl.String), cs.enum().cast(pl.String))
        self.name = name
        self.dtypes = dict(self._frame.schema)
        self.is_empty = frame.height == 0

    def digest(self) -> str:
        """A hash over names, types and the hash of every row."""
        sha256 = hashlib.sha256(repr(list(self.dtypes.items())).encode())
        hashable = [name for name, dtype in self.dtypes.items() if not isinstance(dtype, pl.Object)]
        for piece in self.pieces(hashable, 1 << 20):
            sha256.update(piece.frame.hash_rows(seed=0).to_numpy().tobytes())
        return sha256.hexdigest()

    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """The rows, without a copy."""
        for start in range(0, self._frame.height, rows):
            yield Piece(self._frame.select(columns).slice(start, rows), start)

    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """Rows spread evenly over the frame."""
        return self._frame.select(columns).gather_every(-(-self._frame.height // rows))
