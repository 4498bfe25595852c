"""Rows of encoded columns in any order, copied together by compiled loops: a batch is one such gather."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# error_model="numpy": Python's check for a zero divisor would keep the loops from being vectorised.
_jit = numba.njit(cache=True, parallel=True, error_model="numpy")
_jit_serial = numba.njit(cache=True, error_model="numpy")


def take_rows(matrix: Array, rows: Array) -> Array:
    """matrix[rows] for a row-major matrix, on all threads."""
    out = np.empty((len(rows), matrix.shape[1]), matrix.dtype)
    if out.size:
        _take_rows(matrix, rows, out)
    return out


def take_bag(values: Array, offsets: Array, rows: Array) -> tuple[Array, Array]:
    """The given rows of a ragged column, as (values, offsets)."""
    sizes = offsets[rows + 1] - offsets[rows]
    out_offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(sizes, out=out_offsets[1:])
    out = np.empty(out_offsets[-1], values.dtype)
    _take_bag(values, offsets, rows, out, out_offsets)
    return out, out_offsets


@_jit
def _take_rows(matrix: Array, rows: Array, out: Array) -> None:
    for b in numba.prange(len(rows)):
        source = rows[b]
        for j in range(matrix.shape[1]):
            out[b, j] = matrix[source, j]


@_jit_serial
def _take_bag(values: Array, offsets: Array, rows: Array, out: Array, out_offsets: Array) -> None:
    for b in range(len(rows)):
        begin = offsets[rows[b]]
        for k in range(out_offsets[b + 1] - out_offsets[b]):
            out[out_offsets[b] + k] = values[begin + k]
