"""Rows of encoded columns in any order, copied together by compiled loops: a batch is one such gather."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from clickherd.threads import share_out

Array = npt.NDArray[Any]

_LEAST = 2048  # rows that are worth a thread of their own

_jit = numba.njit(cache=True, nogil=True)


def take_rows(matrix: Array, rows: Array) -> Array:
    """matrix[rows] for a row-major matrix, on all threads if the rows are many."""
    out = np.empty((len(rows), matrix.shape[1]), matrix.dtype)
    if out.size:
        share_out(lambda first, last: _take_rows(matrix, rows[first:last], out[first:last]), len(rows), _LEAST)
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
    for b in range(len(rows)):
        source = rows[b]
        for j in range(matrix.shape[1]):
            out[b, j] = matrix[source, j]


@_jit
def _take_bag(values: Array, offsets: Array, rows: Array, out: Array, out_offsets: Array) -> None:
    for b in range(len(rows)):
        begin = offsets[rows[b]]
        for k in range(out_offsets[b + 1] - out_offsets[b]):
            out[out_offsets[b] + k] = values[begin + k]
