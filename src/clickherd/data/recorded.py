"""Rows of the training data between counting and encoding: recorded on disk chunk by chunk, read back once.

A recorded cell is the code of its value, or a number (see `columns`). When all rows are counted, one look into a
table makes an id of each code. A chunk's file is removed as soon as it is read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from clickherd.data.columns import Arrays
from clickherd.data.encode import Bag, Encoder, bag_of
from clickherd.data.gather import take_bag
from clickherd.data.machine_words import jit
from clickherd.data.parallel import in_parallel
from clickherd.data.split import NAMES, Splits
from clickherd.data.store import Batch, FieldLayout
from clickherd.data.vocabulary import Ids
from clickherd.errors import DataError
from clickherd.threads import get_threads

_TILE = 64  # rows that are turned at a time, so that they stay in the processor's nearest cache
_TARGETS, _SPLITS = 0, 1  # keys of labels, groups and truth, and of the splits, beside the columns' names

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Chunk:
    """The file of one chunk, and where in it each column's arrays lie."""

    path: Path
    num_rows: int
    places: dict[str | int, list[tuple[int, np.dtype[Any], int]]] = field(default_factory=dict)  # offset, dtype, length

    def write(self, columns: Iterable[tuple[str | int, Arrays]]) -> None:
        with self.path.open("wb") as file:
            for name, arrays in columns:
                places = self.places[name] = []
                for array in arrays:
                    places.append((file.tell(), array.dtype, len(array)))
                    file.write(np.ascontiguousarray(array).data)

    def read(self, file: BinaryIO, name: str | int) -> list[npt.NDArray[Any]]:
        """A column's arrays.

        Raises:
            DataError: the file ends before them.
        """
        arrays = []
        for offset, dtype, length in self.places[name]:
            file.seek(offset)
            arrays.append(np.fromfile(file, dtype, length))
            if len(arrays[-1]) < length:
                raise DataError("recorded rows were cut off", file=self.path, mend="Check the disk, and run again.")
        return arrays


class RecordedRows:
    """Chunks of recorded rows in a new folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.num_bytes = 0
        self._chunks: list[_Chunk] = []

    def append(self, columns: Mapping[str, Arrays], targets: Arrays, splits: Splits | None) -> None:
        """Record one chunk of rows; `targets` are labels, groups and known click probabilities.

        Raises:
            DataError: the disk is too small.
            OSError: it cannot be written.
        """
        every: list[tuple[str | int, Arrays]] = [*columns.items(), (_TARGETS, targets)]
        every.append((_SPLITS, () if splits is None else (splits,)))
        size = sum(array.nbytes for _, arrays in every for array in arrays)
        chunk = _Chunk(self.folder / f"{len(self._chunks)}.rows", len(targets[0]))
        self.num_bytes += size
        if size > shutil.disk_usage(self.folder).free:
            raise disk_full(self.folder.parent.parent, None)  # how many rows will come is not known
        chunk.write(every)
        self._chunks.append(chunk)

    def batches(self, encoder: Encoder, tables: dict[str, Ids]) -> Iterator[list[tuple[str, Batch]]]:
        """Chunk by chunk the encoded rows of each split that has some, with its name; once.

        `tables` gives the local id of each code, for the columns of which codes were recorded; it is emptied.
        """
        remap = _Remap(encoder, tables)
        while self._chunks:
            chunk = self._chunks.pop(0)
            with chunk.path.open("rb") as file:
                batches = remap.batches(chunk, cast(BinaryIO, file))
            chunk.path.unlink()
            yield batches
        self.folder.rmdir()


class _Remap:
    """From codes to ids."""

    def __init__(self, encoder: Encoder, tables: dict[str, Ids]) -> None:
        self._encoder = encoder
        fields = encoder.layout.fields
        self._single, self._multi = fields[: encoder.layout.num_single], fields[encoder.layout.num_single :]
        self._local = {f.name: tables.pop(f.name) for f in self._multi if f.name in tables}
        self._table = np.empty(sum(map(len, tables.values())), np.int32)  # one single-valued field's after the other's
        self._begins = np.full(len(self._single), -1, np.int64)  # where each one's begins; -1: it has none
        self._codes = np.empty((0, 0), np.int32)  # of one chunk
        filled = 0
        for position, single in enumerate(self._single):
            if single.name in tables:
                local = tables.pop(single.name)
                self._begins[position] = filled
                np.add(local, single.offset, out=self._table[filled : filled + len(local)])
                filled += len(local)

    def batches(self, chunk: _Chunk, file: BinaryIO) -> list[tuple[str, Batch]]:
        """The encoded rows of each split that has some."""
        (splits,) = chunk.read(file, _SPLITS) or (np.zeros(chunk.num_rows, np.uint8),)
        rows = [np.flatnonzero(splits == index) for index in range(len(NAMES))]
        ids = self._ids(chunk, file, rows)
        bags = [self._bag(multi, *chunk.read(file, multi.name)) for multi in self._multi]
        numeric = np.empty((chunk.num_rows, len(self._encoder.scaled)), np.float32)
        for position, (name, scaling) in enumerate(self._encoder.scaled.items()):
            numeric[:, position] = scaling.scale(chunk.read(file, name)[0])
        labels, groups, truth = chunk.read(file, _TARGETS)
        return [
            (
                name,
                Batch(
                    part,
                    tuple(take_bag(*bag, some) for bag in bags),
                    numeric[some],
                    labels[some],
                    groups[some] if len(groups) else groups,
                    truth[some] if len(truth) else truth,
                ),
            )
            for name, part, some in zip(NAMES, ids, rows, strict=True)
            if len(some)
        ]

    def _ids(self, chunk: _Chunk, file: BinaryIO, rows: Sequence[Rows]) -> list[Ids]:
        """The ids (N, S) of the single-valued fields, for each of the sets of rows."""
        shape = len(self._single), chunk.num_rows
        if self._codes.shape != shape:  # pages that are new have to be cleared first
            self._codes = np.empty(shape, np.int32)
        codes = self._codes

        def encode(position: int, values: npt.NDArray[Any]) -> None:
            single = self._single[position]
            local = values
            if values.dtype != np.int32:  # numbers
                encoding = self._encoder.embedded[single.name]
                local = encoding.encode(values)  # type: ignore[arg-type]
            np.add(local, single.offset, out=codes[position])

        jobs = []
        for position, single in enumerate(self._single):
            (recorded,) = chunk.read(file, single.name)
            if self._begins[position] >= 0:
                codes[position] = recorded
            else:
                jobs.append(partial(encode, position, recorded))
        in_parallel(jobs)
        out = [np.empty((len(some), len(self._single)), np.int32) for some in rows]
        jobs = []
        for some, ids in zip(rows, out, strict=True):
            share = -(-len(some) // get_threads()) or 1
            for start in range(0, len(some), share):
                part = slice(start, start + share)
                jobs.append(partial(_turn, codes, self._table, self._begins, some[part], ids[part]))
        in_parallel(jobs)
        return out

    def _bag(self, multi: FieldLayout, recorded: Ids, sizes: Rows) -> Bag:
        local = self._local[multi.name][recorded] if multi.name in self._local else recorded
        return bag_of(local, sizes, multi.offset)


@jit
def _turn(codes: Ids, table: Ids, begins: Rows, rows: Rows, out: Ids) -> None:
    """Ids of the given rows, row after row; columns without a table hold ids already."""
    for start in range(0, len(rows), _TILE):
        stop = min(start + _TILE, len(rows))
        for column in range(len(codes)):
            begin = begins[column]
            for row in range(start, stop):
                code = codes[column, rows[row]]
                out[row, column] = table[begin + code] if begin >= 0 else code


def store_bytes(num_features: int, num_rows: int) -> int:
    """What the encoded rows take on disk (multi-valued fields are taken for one value a row)."""
    return num_rows * (4 * (num_features + 2) + 8)


def disk_full(cache: Path, needed: int | None) -> DataError:
    """The error for a full disk: how much space there is, where, and how much it takes."""
    free = shutil.disk_usage(cache).free
    takes = f"; the encoded rows take about {_mib(needed)}" if needed is not None else ""
    return DataError(
        f"the disk is full: {_mib(free)} free{takes}",
        file=cache,
        mend="Make space there, or set CLICKHERD_CACHE to a folder on a larger disk.",
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
