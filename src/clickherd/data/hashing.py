"""Hashes of texts that are the same on every machine, and an index that finds texts among millions of keys.

The hash is FNV-1a over the UTF-8 bytes (64 bits; Fowler, Noll and Vo) followed by MurmurHash3's 64-bit finaliser, which
spreads it over the low bits. Whole numbers written as floats (`7.0`, as pandas writes ids of a column with missing
values) hash and compare as the integer (`7`).

polars and Arrow build a hash table anew for every join, which a chunk against a vocabulary of millions cannot afford;
the index here is built once and looked up ever after.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.data.machine_words import jit

_MINUS, _DOT, _ZERO, _NINE = 45, 46, 48, 57
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_MIX_1, _MIX_2, _SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)
_HIGH, _LOW = np.uint64(0xFFFFFFFF00000000), np.uint64(0x00000000FFFFFFFF)

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@jit
def _canonical_end(data: Bytes, start: int, end: int) -> int:
    """Where the text ends once `.0` behind a whole number is left off."""
    if end - start < 3 or data[end - 1] != _ZERO or data[end - 2] != _DOT:
        return end
    first, last = start, end - 2
    if data[first] == _MINUS:
        first += 1
    if first >= last or (data[first] == _ZERO and last - first > 1):
        return end
    for i in range(first, last):
        if data[i] < _ZERO or data[i] > _NINE:
            return end
    return last


@jit
def _hash(data: Bytes, start: int, end: int) -> Any:
    value = _FNV_OFFSET
    for i in range(start, end):
        value = (value ^ np.uint64(data[i])) * _FNV_PRIME
    value = (value ^ (value >> _SHIFT)) * _MIX_1
    value = (value ^ (value >> _SHIFT)) * _MIX_2
    return value ^ (value >> _SHIFT)


@jit
def _hash_all(data: Bytes, offsets: Offsets, out: npt.NDArray[np.uint64]) -> None:
    for row in range(len(out)):
        start = offsets[row]
        out[row] = _hash(data, start, _canonical_end(data, start, offsets[row + 1]))


@jit
def _same(data: Bytes, start: int, end: int, keys: Bytes, key_start: int, key_end: int) -> bool:
    if end - start != key_end - key_start:
        return False
    for i in range(end - start):  # noqa: SIM110  (numba compiles no generator expression)
        if data[start + i] != keys[key_start + i]:
            return False
    return True


@jit
def _build(keys: Bytes, offsets: Offsets, slots: npt.NDArray[np.uint64]) -> None:
    """Fill an open-addressing table. A slot holds the hash's high half and, below it, the key's index + 1."""
    mask = np.uint64(len(slots) - 1)
    one = np.uint64(1)
    for index in range(len(offsets) - 1):
        value = _hash(keys, offsets[index], offsets[index + 1])
        slot = value & mask
        while slots[slot] != 0:
            slot = (slot + one) & mask
        slots[slot] = (value & _HIGH) | np.uint64(index + 1)


@jit
def _find(
    data: Bytes,
    offsets: Offsets,
    keys: Bytes,
    key_offsets: Offsets,
    slots: npt.NDArray[np.uint64],
    out: npt.NDArray[np.int32],
) -> None:
    mask = np.uint64(len(slots) - 1)
    one = np.uint64(1)
    for row in range(len(out)):
        start = offsets[row]
        end = _canonical_end(data, start, offsets[row + 1])
        value = _hash(data, start, end)
        slot = value & mask
        found = -1
        while slots[slot] != 0:
            entry = slots[slot]
            if (entry & _HIGH) == (value & _HIGH):
                index = int(entry & _LOW) - 1
                if _same(data, start, end, keys, key_offsets[index], key_offsets[index + 1]):
                    found = index
                    break
            slot = (slot + one) & mask
        out[row] = found


def _buffers(texts: pl.Series) -> tuple[Bytes, Offsets]:
    """UTF-8 bytes and where each text begins; a null is empty. Both are read-only."""
    if texts.has_nulls():  # a text that was made null may still have its bytes
        texts = texts.fill_null("")
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    where = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    # numba compiles anew for writable arrays: an empty one comes read-only as well
    return np.frombuffer(data if data is not None else b"", np.uint8), where


def hash_texts(texts: pl.Series) -> npt.NDArray[np.uint64]:
    """The 64-bit hash of each text, shape (N,). Nulls hash as the empty text."""
    out = np.empty(len(texts), np.uint64)
    _hash_all(*_buffers(texts), out)
    return out


def hash_rows(first: int, count: int, seed: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row number `first`, …, `first + count - 1` under `seed` (SplitMix64), shape (count,)."""
    golden, mix_1, mix_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
    with np.errstate(over="ignore"):
        start = _mix_seed(np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
        value = start + (np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)) * golden
        value = (value ^ (value >> np.uint64(30))) * mix_1
        value = (value ^ (value >> np.uint64(27))) * mix_2
        return value ^ (value >> np.uint64(31))


def _mix_seed(seed: np.uint64) -> np.uint64:
    """Seeds 0, 1, 2 … far apart; otherwise one seed's row numbers would be the next one's, shifted."""
    value = np.uint64(seed + np.uint64(1)) * _MIX_1
    value = (value ^ (value >> _SHIFT)) * _MIX_2
    return np.uint64(value ^ (value >> _SHIFT))


class TextIndex:
    """Distinct texts, and where each of them stands."""

    def __init__(self, keys: pl.Series) -> None:
        self._keys, self._offsets = _buffers(keys)
        self._slots = np.zeros(1 << (2 * len(keys) + 1).bit_length(), np.uint64)
        _build(self._keys, self._offsets, self._slots)

    def find(self, texts: pl.Series) -> npt.NDArray[np.int32]:
        """The position of each text among the keys, -1 where it is none of them, shape (N,)."""
        out = np.empty(len(texts), np.int32)
        _find(*_buffers(texts), self._keys, self._offsets, self._slots, out)
        return out
