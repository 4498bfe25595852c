"""One look at every byte of a CSV: is it UTF-8, has each record as many cells as the header, where does it end.

The parser that follows is fast but says little about a broken file. This scan finds the exact line first, and cuts the
text into spans of whole records, so that memory is bounded and every row knows its line. Quoting is RFC 4180: a cell
that starts with a quote runs to the closing one, and a doubled quote inside stands for one.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from clickherd.errors import DataError

BLOCK_BYTES = 8 << 20
SPAN_BYTES = 16 << 20  # a span ends about here even if it has fewer rows than asked for
RECORD_BYTES = 64 << 20  # no record is this long: a quote was never closed

# Where the scan is within a record
_CELL_START, _PLAIN, _QUOTED, _QUOTE_SEEN = 0, 1, 2, 3
# Slots of the state that is carried from block to block
_MODE, _CELLS, _CONTENT, _LINE, _RECORD_LINE, _BLANK_LINE, _RECORDS, _QUOTED_LINE, _STRAY_LINE, _FAULT, _END_LINE = (
    range(11)
)
_SLOTS = 11
_CELL_COUNT, _BLANK, _AFTER_QUOTE, _MIXED_QUOTES = 1, 2, 3, 4

_TAB, _NEWLINE, _RETURN, _QUOTE = 9, 10, 13, 34


@numba.njit(cache=True, nogil=True)
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
    mode, cells, content, line = state[_MODE], state[_CELLS], state[_CONTENT], state[_LINE]
    records, record_line, end = state[_RECORDS], state[_RECORD_LINE], -1
    fault = 0
    i, n = start, len(block)
    while i < n:
        byte = block[i]
        if mode == _QUOTED:
            while byte != _QUOTE:
                if byte == _NEWLINE:
                    line += 1
                i += 1
                if i == n:
                    break
                byte = block[i]
            if i == n:
                break
            mode = _QUOTE_SEEN
        elif byte == separator:
            cells += 1
            content = 1
            mode = _CELL_START
        elif byte == _NEWLINE:
            line += 1
            if cells == 0 and content == 0:
                if state[_BLANK_LINE] == 0:
                    state[_BLANK_LINE] = record_line
            elif state[_BLANK_LINE] > 0:
                fault = _BLANK
            elif cells + 1 != num_cells:
                cells += 1
                fault = _CELL_COUNT
            else:
                records += 1
                end = i + 1
                state[_END_LINE] = line
            if fault > 0:
                break
            mode, cells, content, record_line = _CELL_START, 0, 0, line
            if records == max_records:
                i += 1
                break
        elif byte == _QUOTE:
            content = 1
            if mode == _CELL_START:
                mode = _QUOTED
                if state[_QUOTED_LINE] == 0:
                    state[_QUOTED_LINE] = line
            elif mode == _QUOTE_SEEN:
                mode = _QUOTED
            elif state[_STRAY_LINE] == 0:
                state[_STRAY_LINE] = line
            if state[_QUOTED_LINE] > 0 and state[_STRAY_LINE] > 0:
                fault = _MIXED_QUOTES
                break
        elif byte == _RETURN:
            if mode == _CELL_START:
                mode = _PLAIN
        elif mode == _QUOTE_SEEN:
            fault = _AFTER_QUOTE
            break
        else:
            mode, content = _PLAIN, 1
            while i + 1 < n and not special[block[i + 1]]:
                i += 1
        i += 1
    state[_MODE], state[_CELLS], state[_CONTENT], state[_LINE] = mode, cells, content, line
    state[_RECORDS], state[_RECORD_LINE], state[_FAULT] = records, record_line, fault
    return i, end


@dataclass(frozen=True)
class Span:
    """Whole records of a text file, ready for the parser."""

    text: bytes
    num_rows: int
    first_row: int  # within the file, from 0
    first_line: int  # within the file, from 1
    one_line_each: bool  # no record of the span runs over several lines
    quoted: bool  # quotes enclose cells; otherwise a quote is a character like any other


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
        self._special[[self._separator, _NEWLINE, _QUOTE]] = True
        self._state = np.zeros(_SLOTS, np.int64)
        self._state[[_LINE, _RECORD_LINE, _END_LINE]] = 1
        self._rows = 0  # rows in the spans so far
        self._header = False

    def spans(self, blocks: Iterable[bytes], rows: int, *, header: bool) -> Iterator[Span]:
        """Spans of at most `rows` rows; the first record is left out if it is the header.

        Raises:
            DataError: bytes that are not UTF-8, a record with too few or too many cells, a quote that is not closed,
                a blank line between records. Each names the line.
        """
        state = self._state
        decoder = utf8_decoder()
        pieces: list[bytes] = []
        size = complete = 0  # bytes in `pieces`, and of them in complete records
        first_line = 1
        self._header = header
        for number, raw in enumerate(blocks):
            block = raw.removeprefix(codecs.BOM_UTF8) if number == 0 else raw
            check_utf8(decoder, block, int(state[_LINE]), self.file)
            array = np.frombuffer(block, np.uint8)
            position = 0
            while position < len(block):
                wanted = 1 if self._header else rows
                begin = position
                position, end = _scan(array, begin, self._special, self._separator, self.num_cells, wanted, state)
                if state[_FAULT]:
                    raise self._fault()
                if end >= 0:
                    complete = size + end - begin
                pieces.append(block[begin:position])
                size += position - begin
                if state[_RECORDS] == wanted or (size >= SPAN_BYTES and complete):
                    text = b"".join(pieces)
                    pieces, size = [text[complete:]], size - complete
                    if self._header:
                        self._header = False
                    else:
                        yield self._span(text[:complete], first_line)
                    first_line, complete = int(state[_END_LINE]), 0
                    state[_RECORDS] = 0
                elif size - complete > RECORD_BYTES:
                    raise self._unclosed()
        check_utf8(decoder, b"", int(state[_LINE]), self.file, final=True)
        self._end(pieces, complete)
        if state[_RECORDS] and not self._header:
            yield self._span(b"".join(pieces), first_line)

    def _span(self, text: bytes, first_line: int) -> Span:
        state = self._state
        num_rows = int(state[_RECORDS])
        span = Span(
            text=text,
            num_rows=num_rows,
            first_row=self._rows,
            first_line=first_line,
            one_line_each=int(state[_END_LINE]) - first_line == num_rows,
            quoted=bool(state[_QUOTED_LINE]),
        )
        self._rows += num_rows
        return span

    def _end(self, pieces: list[bytes], complete: int) -> None:
        """The file is over: close the last record if no newline did, and drop blank lines."""
        state = self._state
        if state[_MODE] == _QUOTED:
            raise self._unclosed()
        if state[_CONTENT]:
            newline = np.array([_NEWLINE], np.uint8)
            _scan(newline, 0, self._special, self._separator, self.num_cells, -1, state)
            if state[_FAULT]:
                raise self._fault()
        elif pieces and state[_RECORDS]:
            pieces[:] = [b"".join(pieces)[:complete]]

    def _unclosed(self) -> DataError:
        return DataError(
            "a cell starts with a quote that is never closed",
            file=self.file,
            line=int(self._state[_RECORD_LINE]),
            mend='Close the quote, or write a quote inside a cell twice and the cell in quotes: "5"" screen".',
        )

    def _fault(self) -> DataError:
        state = self._state
        fault, line = state[_FAULT], int(state[_RECORD_LINE])
        separator = chr(self._separator)
        if fault == _CELL_COUNT:
            cells = int(state[_CELLS])
            few = "too few" if cells < self.num_cells else "too many"
            kind = "the header" if self._rows == 0 and self._header else "the row"
            return DataError(
                f"{kind} has {few} cells: {cells} instead of {self.num_cells}, parted by {separator!r}",
                file=self.file,
                line=line,
                mend="Mend or remove that line; a cell that holds the separator must stand in double quotes. "
                "If the separator is another one, say --set data.separator=...",
            )
        if fault == _BLANK:
            return DataError(
                "a blank line stands between the rows",
                file=self.file,
                line=int(state[_BLANK_LINE]),
                mend="Remove it.",
            )
        if fault == _AFTER_QUOTE:
            return DataError(
                "text follows the closing quote of a cell",
                file=self.file,
                line=int(state[_LINE]),
                mend='Write a quote inside a cell twice and the whole cell in quotes: "a ""b"" c".',
            )
        return DataError(
            f"quotes enclose cells in line {int(state[_QUOTED_LINE])} but stand inside an unquoted cell here",
            file=self.file,
            line=int(state[_STRAY_LINE]),
            mend='Write a quote inside a cell twice and the whole cell in quotes: "5"" screen".',
        )
