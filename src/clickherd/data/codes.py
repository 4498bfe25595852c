"""Provisional codes of a column's values, given as rows stream by: the vocabulary is made of them when all are counted.

A code is the position among the distinct values in the order in which they came; code 0 is a missing value. The index
is an open-addressing table that grows. A slot is two words: the value's first eight bytes (of a longer one its hash),
and 24 bits of the hash, the value's length and its code, so that a short value is found by one look at the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from clickherd.data.cells import CellSpan, cell_end
from clickherd.data.machine_words import inlined, jit, load_word
from clickherd.data.plain_scan import Bounds

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

NULL = 0  # the code of a missing value
EVERY_ROW = np.empty(0, np.bool_)  # as a mask of the rows that count

_MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HALF, _CODE = np.uint64(32), np.uint64(0xFFFFFFFF)
_LONG = 255  # stands for every length of more than eight bytes
_NUM_CODES, _USED = 0, 1  # slots of the counters


@inlined
def _mixed(word: Any, length: int) -> Any:
    value = (word ^ (np.uint64(length) * _MIX_2)) * _MIX_1
    value = (value ^ (value >> _HALF)) * _MIX_2
    return value ^ (value >> _HALF)


@inlined
def _short_word(data: Bytes, start: int, length: int) -> Any:
    """Up to eight bytes as a word; texts of one length are told apart by it."""
    if length == 0:
        return np.uint64(0)
    if start + 8 <= len(data):
        return load_word(data, start) << np.uint64(64 - 8 * length)
    word = np.uint64(0)
    for i in range(length):
        word |= np.uint64(data[start + i]) << np.uint64(64 - 8 * length + 8 * i)
    return word


@jit
def _long_hash(data: Bytes, start: int, length: int) -> Any:
    value = np.uint64(length)
    at = start
    while at + 8 <= start + length:
        value = _mixed(value ^ load_word(data, at), 8)
        at += 8
    left = start + length - at
    return _mixed(value ^ _short_word(data, at, left), left)


@jit
def _same(data: Bytes, start: int, keys: Bytes, key: int, length: int) -> bool:
    for i in range(length):  # noqa: SIM110  (numba compiles no generator expression)
        if data[start + i] != keys[key + i]:
            return False
    return True


@inlined
def _code_of(
    data: Bytes, start: int, length: int, slots: Words, keys: Bytes, offsets: Integers, counters: Integers
) -> int:
    """The value's code, a new one if need be; -1 when there is no room for that."""
    size = length if length <= 8 else _LONG
    word = _short_word(data, start, length) if length <= 8 else _long_hash(data, start, length)
    value = _mixed(word, size)
    tag = ((value << np.uint64(8) | np.uint64(size)) << _HALF) & ~_CODE
    mask = np.uint64(len(slots) - 1)
    slot = (value >> np.uint64(8)) & mask
    while True:
        entry = slots[slot, 1]
        if entry == 0:
            break
        if slots[slot, 0] == word and (entry & ~_CODE) == tag:
            code = np.int64(entry & _CODE)
            if length <= 8 or (
                offsets[code + 1] - offsets[code] == length and _same(data, start, keys, offsets[code], length)
            ):
                return int(code)
        slot = (slot + np.uint64(1)) & mask
    code, used = counters[_NUM_CODES], counters[_USED]
    if code + 1 >= len(offsets) or used + length > len(keys):
        return -1
    slots[slot, 0] = word
    slots[slot, 1] = tag | np.uint64(code)
    for i in range(length):
        keys[used + i] = data[start + i]
    offsets[code + 1] = used + length
    counters[_NUM_CODES], counters[_USED] = code + 1, used + length
    return int(code)


@jit
def _code_cells(
    text: Bytes,
    before: Bounds,
    end: Bounds,
    train: Mask,
    slots: Words,
    keys: Bytes,
    offsets: Integers,
    counters: Integers,
    counts: Integers,
    out: Codes,
    first: int,
) -> int:
    """Code the cells from row `first` on; returns the row at which room ran out, or their number."""
    for row in range(first, len(end)):
        start = int(before[row]) + 1
        length = cell_end(text, start, int(end[row])) - start
        code = NULL
        if length > 0:
            code = _code_of(text, start, length, slots, keys, offsets, counters)
            if code < 0:
                return row
        out[row] = code
        if len(train) == 0 or train[row]:
            counts[code] += 1
    return len(end)


@jit
def _code_texts(
    text: Bytes,
    where: Integers,  # (N + 1,)
    present: Mask,  # (N,)
    train: Mask,
    slots: Words,
    keys: Bytes,
    offsets: Integers,
    counters: Integers,
    counts: Integers,
    out: Codes,
    first: int,
) -> int:
    """As `_code_cells`, for the buffers of a text column. An empty text is no missing one."""
    for row in range(first, len(out)):
        code = NULL
        if present[row]:
            code = _code_of(text, where[row], where[row + 1] - where[row], slots, keys, offsets, counters)
            if code < 0:
                return row
        out[row] = code
        if len(train) == 0 or train[row]:
            counts[code] += 1
    return len(out)


@jit
def _rebuild(old: Words, slots: Words) -> None:
    """Put every entry of the old table into the new one."""
    mask = np.uint64(len(slots) - 1)
    for i in range(len(old)):
        entry = old[i, 1]
        if entry == 0:
            continue
        word, length = old[i, 0], (entry >> _HALF) & np.uint64(255)
        slot = (_mixed(word, length) >> np.uint64(8)) & mask
        while slots[slot, 1] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot, 0], slots[slot, 1] = word, entry


@jit
def _count(codes: Codes, train: Mask, counts: Integers) -> None:
    for row in range(len(codes)):
        if len(train) == 0 or train[row]:
            counts[codes[row]] += 1


@jit
def look_up_small(values: npt.NDArray[np.float64], table: Codes, out: Codes, others: Integers) -> int:
    """Codes of whole numbers that the table knows, and of NaN; the other rows go to `others`. Returns their number."""
    found = 0
    for row in range(len(values)):
        value = values[row]
        if value != value:  # noqa: PLR0124  (NaN)
            out[row] = NULL
            continue
        if value >= 0 and value < len(table):
            whole = int(value)
            if whole == value and table[whole] >= 0:
                out[row] = table[whole]
                continue
        others[found] = row
        found += 1
    return found


class ValueCodes:
    """Distinct values, their codes, and how often each of them was counted. Memory follows the distinct values."""

    def __init__(self) -> None:
        self._slots = np.zeros((2048, 2), np.uint64)
        self._keys = np.empty(8192, np.uint8)
        self._offsets = np.zeros(1025, np.int64)
        self._counts = np.zeros(1025, np.int64)
        self._counters = np.array([1, 0], np.int64)  # codes, and bytes of their values; see _NUM_CODES, _USED

    @property
    def counts(self) -> Integers:
        """How often each code was counted, missing ones first."""
        return self._counts[: self._counters[_NUM_CODES]]

    def add_cells(self, span: CellSpan, train: Mask, out: Codes) -> None:
        """Code the cells of a text into `out`; those that `train` marks are counted."""
        row = 0
        while (row := self._code(_code_cells, (span.text, span.before, span.end), train, out, row)) < len(out):
            self._grow()

    def add_texts(self, texts: pl.Series, train: Mask, out: Codes) -> None:
        """Code texts into `out`; those that `train` marks are counted."""
        array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
        _, offsets, data = array.buffers()
        where = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
        text = np.frombuffer(data if data is not None else b"", np.uint8)
        self._add(text, where, texts.is_not_null().to_numpy(), train, out)

    def add_integers(self, values: Integers, present: Mask, train: Mask, out: Codes) -> None:
        """Code whole numbers (N,) into `out`; those that `train` marks are counted."""
        self._add(
            np.ascontiguousarray(values).view(np.uint8), np.arange(0, 8 * len(values) + 1, 8), present, train, out
        )

    def count(self, codes: Codes, train: Mask) -> None:
        """Count codes that were given before."""
        _count(codes, train, self._counts)

    def _add(self, text: Bytes, where: Integers, present: Mask, train: Mask, out: Codes) -> None:
        text, where, present = (read_only(array) for array in (text, where, present))
        row = 0
        while (row := self._code(_code_texts, (text, where, present), train, out, row)) < len(out):
            self._grow()

    def _code(self, kernel: Any, cells: tuple[Any, ...], train: Mask, out: Codes, row: int) -> int:
        index = (self._slots, self._keys, self._offsets, self._counters, self._counts)
        return int(kernel(*cells, train, *index, out, row))

    def _grow(self) -> None:
        """Double what is full; a value may be longer than all before."""
        used = int(self._counters[_USED])
        if 2 * used > len(self._keys) or self._counters[_NUM_CODES] + 1 < len(self._offsets):
            self._keys = _longer(self._keys, 2 * len(self._keys))
        if self._counters[_NUM_CODES] + 1 >= len(self._offsets):
            capacity = 2 * (len(self._offsets) - 1)
            self._offsets = _longer(self._offsets, capacity + 1)
            self._counts = _longer(self._counts, capacity + 1)
            slots = np.zeros((2 * capacity, 2), np.uint64)
            _rebuild(self._slots, slots)
            self._slots = slots

    def texts(self) -> pl.Series:
        """The distinct values by code; the first is null."""
        number = int(self._counters[_NUM_CODES])
        present = np.packbits(np.arange(number) != NULL, bitorder="little")
        buffers = [present, self._offsets[: number + 1].copy(), self._keys[: self._counters[_USED]].copy()]
        present_, offsets, data = map(pa.py_buffer, buffers)
        return pl.Series("value", pa.LargeStringArray.from_buffers(number, offsets, data, present_))

    def integers(self) -> Integers:
        """The distinct values by code, if whole numbers were added; the first stands for a missing one."""
        values = self._keys[: self._counters[_USED]].view(np.int64)
        return np.concatenate([np.zeros(1, np.int64), values])


def _longer(array: Any, size: int) -> Any:
    longer = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer


def read_only(array: Any) -> Any:
    """A view that is read-only, as arrays of polars are: numba compiles anew for writable ones."""
    view = array.view()
    view.flags.writeable = False
    return view
