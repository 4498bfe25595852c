"""The encoded store: raw binary columns on disk, memory-mapped, from which a batch is one gather of rows.

    store.json            number of rows, layout, which columns are there
    ids.i32               (N, S) row-major: global ids of the S single-valued fields
    bag_<j>.values.i32    all values of the j-th multi-valued field, row after row
    bag_<j>.offsets.i64   (N + 1,) where each row's values begin
    numeric.f32           (N, K) row-major: min-max or standardised numeric columns
    labels.f32            (N,) 0 or 1
    groups.u64            (N,) hash of the grouping column (for GAUC), if one was named
    truth.f32             (N,) known click probability, in a log of the built-in generator

Ids are global: field f owns [offset_f, offset_f + size_f), its first id is "unknown", its second "missing".
Embedded fields are numbered single-valued first, then multi-valued, sequences last: F = S + len(bags). A sequence owns
no ids, its values are ids of its target; one "missing" stands for a sequence of no values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd.data.gather import take_bag, take_rows

UNKNOWN, MISSING, FIRST_VALUE = 0, 1, 2  # local ids within a field
TRUTH = "true_probability"  # the raw column of known click probabilities, in the built-in click log


@dataclass(frozen=True)
class FieldLayout:
    """One embedded field's place in the id space. `size` counts the unknown and the missing id.

    A sequence is multi-valued and in order; it has the place of its `target`, and at most `max_length` values a row.
    """

    name: str
    offset: int
    size: int
    multi: bool = False
    target: str | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Layout:
    """The id space of all embedded fields (single-valued, multi-valued, then sequences) and the numeric columns."""

    fields: tuple[FieldLayout, ...]
    numeric: tuple[str, ...]

    @property
    def num_ids(self) -> int:
        """Rows V of the one embedding table."""
        return sum(field.size for field in self.fields if field.target is None)

    @property
    def num_single(self) -> int:
        """Single-valued fields S."""
        return sum(not field.multi for field in self.fields)

    @property
    def sequences(self) -> tuple[FieldLayout, ...]:
        """The fields that are sequences; their bags come last."""
        return tuple(field for field in self.fields if field.target is not None)

    @classmethod
    def from_json(cls, data: dict[str, object]) -> Layout:
        """The inverse of `dataclasses.asdict`."""
        fields = data["fields"]
        numeric = data["numeric"]
        assert isinstance(fields, list)
        assert isinstance(numeric, list)
        return cls(tuple(FieldLayout(**field) for field in fields), tuple(numeric))


@dataclass(frozen=True)
class Batch:
    """Encoded rows in memory.

    Shapes: B rows, S single-valued fields, K numeric columns. `bags` has one (values, offsets) pair per
    multi-valued field; the values of row b are values[offsets[b]:offsets[b + 1]], never empty (a missing
    value is the missing id).
    """

    ids: npt.NDArray[np.int32]  # (B, S)
    bags: tuple[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]], ...]
    numeric: npt.NDArray[np.float32]  # (B, K)
    labels: npt.NDArray[np.float32]  # (B,), empty when the rows carry no label
    groups: npt.NDArray[np.uint64]  # (B,), empty when no grouping column is set
    truth: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))  # (B,) or empty

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> Batch:
        """Rows [start, stop) as views, without a copy but for the bags' offsets."""
        bags = tuple((v[o[start] : o[stop]], o[start : stop + 1] - o[start]) for v, o in self.bags)
        return Batch(
            self.ids[start:stop],
            bags,
            self.numeric[start:stop],
            self.labels[start:stop],
            self.groups[start:stop],
            self.truth[start:stop],
        )


class Store:
    """An encoded data set on disk, opened read-only as memory maps."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        meta = json.loads((self.path / "store.json").read_text())
        self.num_rows: int = meta["num_rows"]
        self.layout = Layout.from_json(meta["layout"])
        n = self.num_rows
        self.ids = self._map("ids.i32", np.int32, (n, self.layout.num_single))
        self.numeric = self._map("numeric.f32", np.float32, (n, len(self.layout.numeric)))
        self.labels = self._map("labels.f32", np.float32, (n,))
        self.groups = self._map("groups.u64", np.uint64, (n if meta["has_groups"] else 0,))
        self.truth = self._map("truth.f32", np.float32, (n if meta["has_truth"] else 0,))
        self.bags = tuple(
            (
                self._map(f"bag_{j}.values.i32", np.int32, None),
                self._map(f"bag_{j}.offsets.i64", np.int64, (n + 1,)),
            )
            for j in range(len(self.layout.fields) - self.layout.num_single)
        )

    def _map(self, name: str, dtype: type[np.generic], shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
        if shape is not None and 0 in shape:  # an empty file cannot be mapped
            return np.empty(shape, dtype)
        return np.memmap(self.path / name, dtype, mode="r", shape=shape)

    def __len__(self) -> int:
        return self.num_rows

    def labelled(self, labels_N: npt.NDArray[np.float32]) -> Store:
        """The same rows with other labels, which may lie between 0 and 1."""
        store = copy(self)
        store.labels = labels_N
        return store

    def occurrences(self, position: int) -> npt.NDArray[np.int64]:
        """How often each value of the field at `position` occurs, shape (size,), by local id."""
        field, single = self.layout.fields[position], self.layout.num_single
        ids = self.ids[:, position] if position < single else self.bags[position - single][0]
        return np.bincount(np.asarray(ids) - field.offset, minlength=field.size)

    def take(self, rows: npt.NDArray[np.int64]) -> Batch:
        """The rows with the given indices, in the given order, copied into memory."""
        bags = tuple(take_bag(values, offsets, rows) for values, offsets in self.bags)
        groups, truth = (column[rows] if len(column) else column for column in (self.groups, self.truth))
        return Batch(take_rows(self.ids, rows), bags, take_rows(self.numeric, rows), self.labels[rows], groups, truth)

    def sample(self, rows: int, seed: int) -> Batch:
        """So many rows drawn at random, or all if there are no more, in stored order."""
        drawn = np.random.default_rng(seed).choice(len(self), min(len(self), rows), replace=False)
        return self.take(np.sort(drawn))

    def read(self, start: int, stop: int) -> Batch:
        """Rows [start, stop) in stored order, copied into memory."""
        bags = tuple((np.array(v[o[start] : o[stop]]), o[start : stop + 1] - o[start]) for v, o in self.bags)
        return Batch(
            np.array(self.ids[start:stop]),
            bags,
            np.array(self.numeric[start:stop]),
            np.array(self.labels[start:stop]),
            np.array(self.groups[start:stop]),
            np.array(self.truth[start:stop]),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in stored order, `size` at a time."""
        for start in range(0, self.num_rows, size):
            yield self.read(start, min(start + size, self.num_rows))


class StoreWriter:
    """Appends encoded rows to a store folder; `close` makes it complete. The caller renames the folder into place.

    Plain appends, not maps: a full disk is then an OSError to report, not a SIGBUS. As a context manager it closes
    itself, and leaves the store incomplete after an error.
    """

    def __init__(self, path: str | Path, layout: Layout, *, has_groups: bool = False, has_truth: bool = False) -> None:
        self.path, self.layout, self.has_groups, self.has_truth = Path(path), layout, has_groups, has_truth
        self.path.mkdir(parents=True)
        self.num_rows = 0
        self._num_values = [0] * (len(layout.fields) - layout.num_single)
        names = ["ids.i32", "numeric.f32", "labels.f32", "groups.u64", "truth.f32"]
        for j in range(len(self._num_values)):
            names += [f"bag_{j}.values.i32", f"bag_{j}.offsets.i64"]
        self._open = ExitStack()
        self._files = {name: self._open.enter_context((self.path / name).open("wb")) for name in names}
        for j in range(len(self._num_values)):
            self._write(f"bag_{j}.offsets.i64", np.zeros(1, np.int64))

    def _write(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self._files[name].write(np.ascontiguousarray(array).data)

    def append(self, batch: Batch) -> None:
        """Write the batch's rows at the end."""
        self._write("ids.i32", batch.ids)
        self._write("numeric.f32", batch.numeric)
        self._write("labels.f32", batch.labels)
        self._write("groups.u64", batch.groups)
        self._write("truth.f32", batch.truth)
        for j, (values, offsets) in enumerate(batch.bags):
            self._write(f"bag_{j}.values.i32", values)
            self._write(f"bag_{j}.offsets.i64", offsets[1:] + self._num_values[j])
            self._num_values[j] += len(values)
        self.num_rows += len(batch)

    def close(self) -> None:
        """Flush the columns and write store.json last, so that a cut-off store is never taken for a whole one."""
        self._open.close()
        meta = {
            "num_rows": self.num_rows,
            "has_groups": self.has_groups,
            "has_truth": self.has_truth,
            "layout": asdict(self.layout),
        }
        (self.path / "store.json").write_text(json.dumps(meta))

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(OSError):  # what is still buffered may not fit on a full disk; the first error is told
                self._open.close()
