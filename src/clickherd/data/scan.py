"""One look at every byte of a CSV: is it UTF-8, has each record as many cells as the header, where does it end.

The parser that follows is fast but says little about a broken file. This scan finds the exact line first, and cuts the
text into spans of whole records, so that memory is bounded and every row knows its line. Quoting is RFC 4180: a cell
that starts with a quote runs to the closing one, and a doubled quote inside stands for one.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickherd.data.machine_words import jit
from clickherd.data.plain_scan import (
    AFTER_QUOTE,
    BLANK,
    BLANK_LINE,
    CELL_COUNT,
    CELL_START,
    CELLS,
    CONTENT,
    END_LINE,
    FAULT,
    LINE,
    MIXED_QUOTES,
    MODE,
    NEWLINE,
    PLAIN,
    QUOTE,
    QUOTE_SEEN,
    QUOTED,
    QUOTED_LINE,
    RECORD_LINE,
    RECORDS,
    RETURN,
    SLOTS,
    STRAY_LINE,
    Bounds,
    new_bounds,
    scan_plain,
)
from clickherd.errors import DataError

Bytes = npt.NDArray[np.uint8]
Read = Callable[[Bytes], int]  # fills the front of an array; returns how many bytes, 0 at the end

BLOCK_BYTES = 8 << 20
SPAN_BYTES = 16 << 20  # a span ends about here even if it has fewer rows than asked for
_HAS_QUOTE, _BEYOND_ASCII = 1, 2  # what `_look` tells of a block
RECORD_BYTES = 64 << 20  # no record is this long: a quote was never closed


@jit
def _scan(
    block: npt.NDArray[np.uint8],
    start: int,
    special: npt.NDArray[np.bool_],  # (256,) separator, newline, quote
    separator: int,
    num_cells: int,
    max_records: int,
    state: npt.NDArray[np.int64],
) -> tuple[int, int]:
    """Go on from `start` until the block ends, `max_records` are complete or a fault is met.

    Returns:
        Where it stopped, and the end of the last complete record in this call (-1: none ended).
    """
    mode, cells, content, line = state[MODE], state[CELLS], state[CONTENT], state[LINE]
    records, record_line, end = state[RECORDS], state[RECORD_LINE], -1
    fault = 0
    i, n = start, len(block)
    while i < n:
        byte = block[i]
        if mode == QUOTED:
            while byte != QUOTE:
                if byte == NEWLINE:
                    line += 1
                i += 1
                if i == n:
                    break
                byte = block[i]
            if i == n:
                break
            mode = QUOTE_SEEN
        elif byte == separator:
            cells += 1
            content = 1
            mode = CELL_START
        elif byte == NEWLINE:
            line += 1
            if cells == 0 and content == 0:
                if state[BLANK_LINE] == 0:
                    state[BLANK_LINE] = record_line
            elif state[BLANK_LINE] > 0:
                fault = BLANK
            elif cells + 1 != num_cells:
                cells += 1
                fault = CELL_COUNT
            else:
                records += 1
                end = i + 1
                state[END_LINE] = line
            if fault > 0:
                break
            mode, cells, content, record_line = CELL_START, 0, 0, line
            if records == max_records:
                i += 1
                break
        elif byte == QUOTE:
            content = 1
            if mode == CELL_START:
                mode = QUOTED
                if state[QUOTED_LINE] == 0:
                    state[QUOTED_LINE] = line
            elif mode == QUOTE_SEEN:
                mode = QUOTED
            elif state[STRAY_LINE] == 0:
                state[STRAY_LINE] = line
            if state[QUOTED_LINE] > 0 and state[STRAY_LINE] > 0:
                fault = MIXED_QUOTES
                break
        elif byte == RETURN:
            if mode == CELL_START:
                mode = PLAIN
        elif mode == QUOTE_SEEN:
            fault = AFTER_QUOTE
            break
        else:
            mode, content = PLAIN, 1
            while i + 1 < n and not special[block[i + 1]]:
                i += 1
        i += 1
    state[MODE], state[CELLS], state[CONTENT], state[LINE] = mode, cells, content, line
    state[RECORDS], state[RECORD_LINE], state[FAULT] = records, record_line, fault
    return i, end


@jit
def _look(block: Bytes) -> int:
    """Whether the block holds a quote, and bytes beyond ASCII."""
    quote, every = False, np.uint8(0)
    for i in range(len(block)):
        quote |= block[i] == QUOTE
        every |= block[i]
    return (_HAS_QUOTE if quote else 0) | (_BEYOND_ASCII if every >= 128 else 0)


def _without_mark(buffer: Bytes, count: int) -> int:
    """Take a byte order mark off the first bytes of a file; returns how many are left."""
    mark = len(codecs.BOM_UTF8)
    if buffer[: min(count, mark)].tobytes() != codecs.BOM_UTF8:
        return count
    buffer[: count - mark] = buffer[mark:count].copy()
    return count - mark


@dataclass(frozen=True)
class Span:
    """Whole records of a text file, ready for the parser."""

    text: Bytes
    num_rows: int
    first_row: int  # within the file, from 0
    first_line: int  # within the file, from 1
    one_line_each: bool  # no record of the span runs over several lines
    quoted: bool  # quotes enclose cells; otherwise a quote is a character like any other
    bounds: Bounds | None = None  # of the cells, see `new_bounds`; None where a quote was met


utf8_decoder = codecs.getincrementaldecoder("utf-8")


def check_utf8(decoder: codecs.IncrementalDecoder, block: bytes, line: int, file: str, *, final: bool = False) -> str:
    """The text of `block`, which begins in the given line.

    Raises:
        DataError: a byte that is not UTF-8, with its line.
    """
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        before, wrong = error.object[: error.start], error.object[error.start]
        raise DataError(
            f"the file is not UTF-8 text: byte 0x{wrong:02x}",
            file=file,
            line=line + before.count(b"\n"),
            mend="Convert it first, for example: iconv -f LATIN1 -t UTF-8 in.csv > out.csv "
            "(with the encoding that the file was written in).",
        ) from None


class Scanner:
    """Cuts one text file into spans of whole, checked records.

    Args:
        file: the name for messages.
        separator: one ASCII character.
        num_cells: how many cells every record must have.
    """

    def __init__(self, file: str, separator: str, num_cells: int) -> None:
        self.file, self.num_cells = file, num_cells
        self._separator = ord(separator)
        self._special = np.zeros(256, np.bool_)
        self._special[[self._separator, NEWLINE, QUOTE]] = True
        self._state = np.zeros(SLOTS, np.int64)
        self._state[[LINE, RECORD_LINE, END_LINE]] = 1
        self._rows = 0  # rows in the spans so far
        self._header = False
        self._bounds = new_bounds(num_cells, 1)  # of the cells in the span that has begun
        self._plain = True  # whether they are known

    def spans(self, read: Read, block_bytes: int, rows: int, *, header: bool) -> Iterator[Span]:
        """Spans of at most `rows` rows; the first record is left out if it is the header.

        `read` is asked for some `block_bytes` at a time.

        Raises:
            DataError: bytes that are not UTF-8, a record with too few or too many cells, a quote that is not closed,
                a blank line between records. Each names the line.
        """
        state = self._state
        decoder = utf8_decoder()
        self._header = header
        rows = min(rows, (SPAN_BYTES + 2 * BLOCK_BYTES) // self.num_cells + 1)  # more do not fit into a span
        self._bounds, self._plain = new_bounds(self.num_cells, rows), True
        buffer = np.empty(0, np.uint8)
        start = filled = 0  # where the span that has begun stands in the buffer, and how far that is filled
        size = complete = 0  # bytes of the span that were scanned, and of them in complete records
        first_line = 1
        while True:
            if filled + block_bytes > len(buffer):  # spans that are out keep the old one
                grown = np.empty(max(size + block_bytes, SPAN_BYTES + block_bytes), np.uint8)
                grown[:size] = buffer[start:filled]
                buffer, start, filled = grown, 0, size
            count = read(buffer[filled : filled + block_bytes])
            if count == 0:
                break
            if filled == 0 and self._rows == 0 and size == 0 and first_line == 1:
                count = _without_mark(buffer, count)
            block = buffer[filled : filled + count]
            filled += count
            flags = _look(block)
            if decoder.getstate()[0] or flags & _BEYOND_ASCII:
                check_utf8(decoder, block.tobytes(), int(state[LINE]), self.file)
            while start + size < filled:
                wanted = 1 if self._header else rows
                size, end = self._scan(buffer[start:filled], size, wanted, plain=not flags & _HAS_QUOTE)
                if state[FAULT]:
                    raise self._fault()
                if end >= 0:
                    complete = end
                if state[RECORDS] == wanted or (size >= SPAN_BYTES and complete):
                    if self._header:
                        self._header = False
                    else:
                        yield self._span(buffer[start : start + complete], first_line)
                    self._begin_span(rows, complete, size > complete)
                    start, size = start + complete, size - complete
                    first_line, complete = int(state[END_LINE]), 0
                elif size - complete > RECORD_BYTES:
                    raise self._unclosed()
        check_utf8(decoder, b"", int(state[LINE]), self.file, final=True)
        if self._end(size):
            complete = size
        if state[RECORDS] and not self._header:
            yield self._span(buffer[start : start + complete], first_line)

    def _scan(self, text: Bytes, begin: int, wanted: int, *, plain: bool) -> tuple[int, int]:
        """See `_scan` and `scan_plain`; `plain` says that there is no quote from `begin` on."""
        state = self._state
        if plain and state[MODE] in (CELL_START, PLAIN):
            return scan_plain(text, begin, self._separator, self.num_cells, wanted, self._bounds, state)
        self._plain = False
        return _scan(text, begin, self._special, self._separator, self.num_cells, wanted, state)

    def _begin_span(self, rows: int, complete: int, has_rest: bool) -> None:
        """Forget the records that are done; the cells of one that has begun stay."""
        cells, records = int(self._state[CELLS]), int(self._state[RECORDS])
        bounds = new_bounds(self.num_cells, rows)
        if has_rest and self._plain and cells:
            bounds[1 : cells + 1, 0] = self._bounds[1 : cells + 1, records] - complete
        self._bounds, self._plain = bounds, self._plain or not has_rest
        self._state[RECORDS] = 0

    def _span(self, text: Bytes, first_line: int) -> Span:
        state = self._state
        num_rows = int(state[RECORDS])
        span = Span(
            text=text,
            num_rows=num_rows,
            first_row=self._rows,
            first_line=first_line,
            one_line_each=int(state[END_LINE]) - first_line == num_rows,
            quoted=bool(state[QUOTED_LINE]),
            bounds=self._bounds[:, :num_rows] if self._plain else None,
        )
        self._rows += num_rows
        return span

    def _end(self, size: int) -> bool:
        """The file is over: close the last record if no newline did; false if there is none."""
        state = self._state
        if state[MODE] == QUOTED:
            raise self._unclosed()
        if not state[CONTENT]:
            return False
        record = state[RECORDS]
        newline = np.array([NEWLINE], np.uint8)
        _scan(newline, 0, self._special, self._separator, self.num_cells, -1, state)
        if state[FAULT]:
            raise self._fault()
        self._bounds[self.num_cells, record] = size
        return True

    def _unclosed(self) -> DataError:
        return DataError(
            "a cell starts with a quote that is never closed",
            file=self.file,
            line=int(self._state[RECORD_LINE]),
            mend='Close the quote, or write a quote inside a cell twice and the cell in quotes: "5"" screen".',
        )

    def _fault(self) -> DataError:
        state = self._state
        fault, line = state[FAULT], int(state[RECORD_LINE])
        separator = chr(self._separator)
        if fault == CELL_COUNT:
            cells = int(state[CELLS])
            few = "too few" if cells < self.num_cells else "too many"
            kind = "the header" if self._rows == 0 and self._header else "the row"
            return DataError(
                f"{kind} has {few} cells: {cells} instead of {self.num_cells}, parted by {separator!r}",
                file=self.file,
                line=line,
                mend="Mend or remove that line; a cell that holds the separator must stand in double quotes. "
                "If the separator is another one, say --set data.separator=...",
            )
        if fault == BLANK:
            return DataError(
                "a blank line stands between the rows",
                file=self.file,
                line=int(state[BLANK_LINE]),
                mend="Remove it.",
            )
        if fault == AFTER_QUOTE:
            return DataError(
                "text follows the closing quote of a cell",
                file=self.file,
                line=int(state[LINE]),
                mend='Write a quote inside a cell twice and the whole cell in quotes: "a ""b"" c".',
            )
        return DataError(
            f"quotes enclose cells in line {int(state[QUOTED_LINE])} but stand inside an unquoted cell here",
            file=self.file,
            line=int(state[STRAY_LINE]),
            mend='Write a quote inside a cell twice and the whole cell in quotes: "5"" screen".',
        )
