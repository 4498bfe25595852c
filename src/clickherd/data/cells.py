"""One column's cells where they lie in a text: read as numbers or cut out as texts, without parsing the other columns.

Only text without quotes comes as cells (see `plain_scan`); what holds quotes, and columnar files, come as frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from clickherd.data.machine_words import inlined, jit, load_word, lowest_bit
from clickherd.data.plain_scan import RETURN, Bounds

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_ZERO, _MINUS, _DOT = 48, 45, 46
_EXACT_DIGITS = 19  # so many fit into 64 bits
_EXACT_MANTISSA = 1 << 53
_POWERS = 10.0 ** np.arange(_EXACT_DIGITS + 1)  # exact in float64 up to 10^22

# words of eight equal bytes
_ZEROS, _POINTS, _SIXES = np.uint64(0x3030303030303030), np.uint64(0x2E2E2E2E2E2E2E2E), np.uint64(0x0606060606060606)
_LOW_BITS, _HIGH_BITS, _TENS = (
    np.uint64(0x0101010101010101),
    np.uint64(0x8080808080808080),
    np.uint64(0xF0F0F0F0F0F0F0F0),
)
_ONE, _BYTE = np.uint64(1), np.uint64(8)

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")  # what `parse_numbers` reads


@dataclass(frozen=True)
class CellSpan:
    """The cells of one column in consecutive records of a text: cell r is text[before[r] + 1 : end[r]].

    A carriage return at a cell's end does not count, as polars has it: it belongs to the line's end.
    """

    text: Bytes
    before: Bounds  # (N,)
    end: Bounds  # (N,)

    def __len__(self) -> int:
        return len(self.end)

    def part(self, start: int, stop: int) -> CellSpan:
        """The cells of records [start, stop)."""
        return CellSpan(self.text, self.before[start:stop], self.end[start:stop])


@dataclass(frozen=True)
class Cells:
    """One column's cells in the spans of a chunk, in order."""

    name: str
    spans: tuple[CellSpan, ...]
    null_values: tuple[str, ...]  # cells that mean missing, as an empty one does

    def __len__(self) -> int:
        return sum(map(len, self.spans))

    @cached_property
    def null_numbers(self) -> Floats:
        """Numbers that cells which mean missing would be read as."""
        return np.array([float(text) for text in self.null_values if _NUMBER.fullmatch(text)])

    def series(self) -> pl.Series:
        """As texts, nulls applied, shape (N,)."""
        parts = [_texts(span) for span in self.spans]
        texts = pl.concat(parts) if len(parts) > 1 else parts[0]
        if self.null_values:
            texts = pl.select(pl.when(~texts.is_in(self.null_values)).then(texts)).to_series()
        return texts.alias(self.name)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> pl.Series:
        """The cells of these rows, given in ascending order, as texts, nulls applied."""
        rows = np.asarray(rows, np.int64)
        firsts = np.cumsum([0, *map(len, self.spans)])
        found = []
        for span, first, part in zip(
            self.spans, firsts, np.split(rows, np.searchsorted(rows, firsts[1:-1])), strict=False
        ):
            some = part - first
            found.append(CellSpan(span.text, span.before[some], span.end[some]))
        return Cells(self.name, tuple(found), self.null_values).series()


def tiles(spans: Sequence[CellSpan], rows: int) -> Iterator[tuple[int, int, int, int]]:
    """(span, start, stop, where the first row stands in the chunk) for some `rows` rows at a time."""
    first = 0
    for number, span in enumerate(spans):
        for start in range(0, len(span), rows):
            yield number, start, min(start + rows, len(span)), first + start
        first += len(span)


def _texts(span: CellSpan) -> pl.Series:
    offsets = np.empty(len(span) + 1, np.int64)
    _measure(span.text, span.before, span.end, offsets)
    data = np.empty(offsets[-1], np.uint8)
    _copy(span.text, span.before, offsets, data)
    present = np.packbits(offsets[1:] > offsets[:-1], bitorder="little")
    buffers = [pa.py_buffer(present), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pl.Series(pa.LargeStringArray.from_buffers(len(span), buffers[1], buffers[2], buffers[0]))


@inlined
def cell_end(text: Bytes, start: int, end: int) -> int:
    """Where the cell ends once a carriage return is left off."""
    if end > start and text[end - 1] == RETURN:
        return end - 1
    return end


@jit
def _measure(text: Bytes, before: Bounds, end: Bounds, offsets: npt.NDArray[np.int64]) -> None:
    offsets[0] = 0
    for row in range(len(end)):
        start = int(before[row]) + 1
        offsets[row + 1] = offsets[row] + cell_end(text, start, int(end[row])) - start


@jit
def _copy(text: Bytes, before: Bounds, offsets: npt.NDArray[np.int64], data: Bytes) -> None:
    for row in range(len(offsets) - 1):
        source = int(before[row]) + 1 - offsets[row]
        for i in range(offsets[row], offsets[row + 1]):
            data[i] = text[source + i]


@inlined
def _without_point(word: Any, length: int) -> tuple[Any, int]:
    """The cell's digits at the word's end, zeros in front, and how many stand behind the point; -1: it is out of place.

    The cell's first byte is the word's lowest; what follows the cell in the word is left off.
    """
    blank = np.uint64(64 - 8 * length)
    word = (word << blank) | (_ZEROS & ((_ONE << blank) - _ONE))
    other = word ^ _POINTS
    points = (other - _LOW_BITS) & ~other & _HIGH_BITS
    places = 0
    if points != 0:
        place = lowest_bit(points) >> 3
        places = 7 - place if place > 8 - length and place < 7 else -1
        if places > 0:
            bits = np.uint64(8 * place)
            before, behind = word & ((_ONE << bits) - _ONE), word >> bits >> _BYTE << bits << _BYTE
            word = behind | before << _BYTE | np.uint64(_ZERO)
    return word, places


@inlined
def _are_digits(word: Any) -> Any:
    return (word & _TENS) == _ZEROS and ((word + _SIXES) & _TENS) == _ZEROS


@inlined
def _eight_digits(word: Any) -> Any:
    """The number that eight digits make, pairs of them at once, then pairs of pairs."""
    word = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) * np.uint64(10 << 8 | 1) >> np.uint64(8)
    word = (word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(100 << 16 | 1) >> np.uint64(16)
    return (word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(10_000 << 32 | 1) >> np.uint64(32)


def parse_numbers(span: CellSpan, out: Floats) -> npt.NDArray[np.int64]:
    """Read plain decimals into `out` (N,), NaN for an empty cell; returns the rows that are neither."""
    odd = np.empty(len(span), np.int64)
    return odd[: _parse_numbers(span.text, span.before, span.end, out, odd)]


@jit
def _parse_numbers(
    text: Bytes,
    before: Bounds,
    end: Bounds,
    out: Floats,  # (N,) NaN where the cell is empty
    odd: npt.NDArray[np.int64],  # (N,) rows that have to be read in another way
) -> int:
    """Plain decimals such as -12 and 3.75 as float64, correctly rounded; returns how many rows are odd.

    A quotient of two numbers that float64 holds exactly is rounded once, so it is the nearest one (Clinger, 1990).
    Cells of up to eight bytes, the most by far, are read as one word: their lengths differ from row to row, and the
    processor would guess wrong about the end of each.
    """
    num_odd = 0
    for row in range(len(end)):
        start = int(before[row]) + 1
        stop = cell_end(text, start, int(end[row]))
        if start >= stop:
            out[row] = np.nan
            continue
        if stop - start <= 8 and start + 8 <= len(text):
            word, places = _without_point(load_word(text, start), stop - start)
            if places >= 0 and _are_digits(word):
                out[row] = np.float64(_eight_digits(word)) / _POWERS[places]
                continue
        at = start
        if text[at] == _MINUS:
            at += 1
        first, mantissa, point = at, np.uint64(0), -1
        while at < stop:
            digit = np.uint64(text[at]) - np.uint64(_ZERO)  # wraps below the zero
            if digit > 9:
                if text[at] != _DOT or point >= 0 or at == first:
                    break
                point = at
            else:
                mantissa = mantissa * np.uint64(10) + digit
            at += 1
        places = stop - 1 - point if point >= 0 else 0
        digits = stop - first - (1 if point >= 0 else 0)
        is_plain = at == stop and digits > 0 and (point < 0 or places > 0)
        if not is_plain or digits > _EXACT_DIGITS or mantissa > _EXACT_MANTISSA:
            odd[num_odd] = row
            num_odd += 1
            out[row] = np.nan
            continue
        value = np.float64(mantissa)
        if places > 0:
            value /= _POWERS[places]
        out[row] = -value if text[start] == _MINUS else value
    return num_odd
