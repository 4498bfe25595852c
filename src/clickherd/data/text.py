"""CSV and TSV files, plain, gzip or Zstandard, local or remote: as text, in bounded memory, with exact lines.

Compressed text is decompressed as a stream on each pass, so that neither memory nor disk has to hold all of it.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa

from clickherd.data.cells import Cells, CellSpan
from clickherd.data.config import DataConfig
from clickherd.data.locate import DataFile, reading
from clickherd.data.part import Part, Piece, check_names
from clickherd.data.scan import BLOCK_BYTES, SPAN_BYTES, Read, Scanner, Span, check_utf8, utf8_decoder
from clickherd.errors import DataError

CRITEO_COLUMNS = ("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))

_SAMPLE_BYTES = 128 * 1000  # below the csv module's limit for one cell
_SAMPLE_ROWS = 200
_SPAN_ROWS = 1 << 16  # parsed at a time; larger spans cost memory and, by page faults, speed
_PIECE_BYTES = 128 << 20
_SEPARATORS = ",\t;|"
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHER_MAGIC = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_UNNAMED = re.compile(r"column_\d+")


class TextPart(Part):
    """One delimited text file. Separator and header are found from its beginning when not configured.

    Args:
        file: where it lies.
        config: the settings for reading.
        names: names that are known to be columns, by which a header is recognised.
        need_label: whether the label's column has to be there.
    """

    def __init__(self, file: DataFile, config: DataConfig, names: frozenset[str], *, need_label: bool) -> None:
        self._file, self.name, self.is_text = file, file.name, True
        self._null_values = [value for value in config.null_values if value]  # an empty cell is null anyway
        sample = self._sample()
        criteo = config.format == "criteo"
        suffixes = PurePosixPath(file.path.lower()).suffixes[-2:]
        tab = config.format in ("tsv", "criteo") or not {".tsv", ".tab"}.isdisjoint(suffixes)
        self._separator = config.separator or ("\t" if tab else _sniff_separator(sample, names))
        if len(self._separator) != 1 or not self._separator.isascii() or self._separator in '"\r\n':
            raise DataError(
                f"cannot part cells by {self._separator!r}",
                mend="--set data.separator takes one ASCII character that is neither a quote nor a line end.",
            )
        records = _records(sample, self._separator, self.name)
        if criteo:
            self.has_header = False
            labelled = need_label or len(records[0]) >= len(CRITEO_COLUMNS)
            columns = CRITEO_COLUMNS if labelled else CRITEO_COLUMNS[1:]
        else:
            found = config.header
            self.has_header = _has_header(records, names, config) if found is None else found
            columns = tuple(
                (cell.strip() if self.has_header else "") or f"column_{i}" for i, cell in enumerate(records[0], 1)
            )
        self.dtypes = dict.fromkeys(columns, pl.String())
        self._positions = {name: position for position, name in enumerate(self.dtypes)}
        check_names(columns, self.name, "Rename one, or say --set data.header=false if the first line holds data.")
        if self.has_header and len(records) == 1 and not next(self._spans(1), None):
            raise DataError(
                "the file has a header but no rows",
                file=self.name,
                mend="Leave it out, or say --set data.header=false if its one line holds data.",
            )

    def _sample(self) -> str:
        head = b""
        with self._reader() as read:
            block = np.empty(_SAMPLE_BYTES, np.uint8)
            while len(head) < _SAMPLE_BYTES and (count := read(block)):
                head += block[:count].tobytes()
        for magic, kind in _OTHER_MAGIC.items():
            if head.startswith(magic):
                raise DataError(
                    f"the file is not text but {kind}",
                    file=self.name,
                    mend="Unpack it or name it after what it is, or say so with --set data.format=...",
                )
        head = head.removeprefix(codecs.BOM_UTF8)
        if not head.strip():
            raise DataError("the file is empty", file=self.name, mend="Leave it out, or write it again.")
        if b"\n" not in head and b"\r" in head.rstrip():
            raise DataError(
                "lines end in a lone carriage return",
                file=self.name,
                mend="Convert them, for example: tr '\\r' '\\n' < in.csv > out.csv",
            )
        if len(head) >= _SAMPLE_BYTES:  # cut within a record: leave that one out
            head = head[: head.rfind(b"\n", 0, _SAMPLE_BYTES) + 1]
            if not head:
                raise DataError(
                    f"the first line is over {_SAMPLE_BYTES // 1000} KB long",
                    file=self.name,
                    mend="Check that it is delimited text with one row a line.",
                )
        return check_utf8(utf8_decoder(), head, 1, self.name)

    @contextmanager
    def _reader(self) -> Iterator[Read]:
        """Reads the decompressed bytes."""
        with reading(self.name), self._file.open() as raw:
            source = _Ahead(raw)
            compression = next((kind for magic, kind in _MAGIC.items() if source.first.startswith(magic)), None)
            suffix = self._file.path.lower().rpartition(".")[2]
            if compression is None and suffix in ("gz", "zst") and source.first:
                raise DataError(
                    f"the file is not compressed, though its name ends in .{suffix}",
                    file=self.name,
                    mend="Compress it, or drop the suffix.",
                )
            if compression:
                yield pa.CompressedInputStream(pa.PythonFile(source, mode="r"), compression).readinto
            else:
                yield source.readinto

    def _spans(self, rows: int) -> Iterator[Span]:
        """All records, checked."""
        scanner = Scanner(self.name, self._separator, len(self.dtypes))
        with self._reader() as read:
            yield from scanner.spans(read, min(BLOCK_BYTES, rows * 1000 + 8000), rows, header=self.has_header)

    def digest(self) -> str:
        """The sha256 of the file's bytes, or the remote store's checksum."""
        return self._file.digest()

    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """The rows as text columns. A piece also ends at some 128 MiB of text, however few its rows are."""
        spans: list[Span | pl.DataFrame] = []
        height = size = first_row = 0
        first_line: int | None = None
        span_rows = min(rows, _SPAN_ROWS)
        for span in self._spans(span_rows):
            if not spans:
                first_row, first_line = span.first_row, span.first_line
            if not span.one_line_each:
                first_line = None
            as_cells = cells and span.bounds is not None
            spans.append(span if as_cells else self._frame(span, columns))
            height += span.num_rows
            size += len(span.text)
            if height + span_rows > rows or size + SPAN_BYTES > _PIECE_BYTES:
                yield self._piece(spans, columns, cells, first_row, first_line)
                spans, height, size = [], 0, 0
        if spans:
            yield self._piece(spans, columns, cells, first_row, first_line)

    def _piece(
        self,
        spans: list[Span | pl.DataFrame],
        columns: Sequence[str],
        cells: Collection[str],
        first_row: int,
        first_line: int | None,
    ) -> Piece:
        plain = [span for span in spans if isinstance(span, Span)]
        if len(plain) < len(spans):
            frames = [self._frame(span, columns) if isinstance(span, Span) else span for span in spans]
            return Piece(pl.concat(frames), first_row, first_line)
        found = {name: self._cells(plain, name) for name in columns}
        frame = pl.DataFrame([found[name].series() for name in columns if name not in cells])
        return Piece(frame, first_row, first_line, {name: found[name] for name in columns if name in cells})

    def _cells(self, spans: Sequence[Span], name: str) -> Cells:
        index = self._positions[name]
        cut = [
            CellSpan(span.text, span.bounds[index], span.bounds[index + 1]) for span in spans if span.bounds is not None
        ]
        return Cells(name, tuple(cut), tuple(self._null_values))

    def _frame(self, span: Span, columns: Sequence[str]) -> pl.DataFrame:
        if span.bounds is not None:
            return pl.DataFrame([self._cells([span], name).series() for name in columns])
        return self._parse(span, columns)

    def _parse(self, span: Span, columns: Sequence[str]) -> pl.DataFrame:
        """The frame of a span that may hold quotes."""
        lazy = pl.scan_csv(
            io.BytesIO(span.text.data),
            has_header=False,
            schema=self.dtypes,
            separator=self._separator,
            quote_char='"' if span.quoted else None,
            null_values=["", *self._null_values],
        )
        frame = lazy.select(columns).collect()
        if frame.height != span.num_rows:
            raise DataError(
                f"{span.num_rows} records were read as {frame.height} rows, from this line on",
                file=self.name,
                line=span.first_line,
                mend="Check the quotes and line ends there.",
            )
        return frame

    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """The first rows."""
        return next(self.pieces(columns, rows)).frame


class _Ahead(io.RawIOBase):
    """A stream of raw bytes of which the first few are known beforehand."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.first = self._ahead = raw.read(8)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            data = self._ahead if size < 0 else self._ahead[:size]
            self._ahead = self._ahead[len(data) :]
            return data + self._raw.read() if size < 0 else data
        return self._raw.read(size)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        if not self._ahead and isinstance(self._raw, io.FileIO):
            return self._raw.readinto(view)
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def _records(sample: str, separator: str, name: str) -> list[list[str]]:
    """The first records' cells."""
    rows = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    try:
        return [row for row, _ in zip((r for r in rows if r), range(_SAMPLE_ROWS), strict=False)]
    except csv.Error:
        raise DataError(
            "a cell is over 128 KB long, perhaps because a quote is not closed",
            file=name,
            line=rows.line_num,
            mend="Close the quote, or write a quote inside a cell twice and the cell in quotes.",
        ) from None


def _sniff_separator(sample: str, names: frozenset[str]) -> str:
    """The separator under which known columns stand in the first record, else that which parts all records alike.

    The bar comes last because it also parts the values within a cell, as in `Action|Comedy`.
    """

    def score(separator: str) -> tuple[int, bool, bool, int]:
        first, *rest = _records(sample, separator, "")
        alike = sum(len(row) == len(first) for row in rest) >= 0.9 * len(rest)
        known = len(names.intersection(cell.strip() for cell in first))
        return known if len(first) > 1 else 0, len(first) > 1 and alike, separator != "|", len(first)

    return max(_SEPARATORS, key=score)


def _has_header(records: list[list[str]], names: frozenset[str], config: DataConfig) -> bool:
    first, rest = records[0], records[1:]
    if names.intersection(cell.strip() for cell in first):
        return True
    if _UNNAMED.fullmatch(config.label):  # the user's way to say that columns have no names
        return False
    if any(not cell.strip() or cell in config.null_values or _NUMBER.fullmatch(cell) for cell in first):
        return False
    return any(_NUMBER.fullmatch(cell) for row in rest if len(row) == len(first) for cell in row)
