"""The columns of encoded rows as ids to be counted: single-valued, multi-valued and real-valued ones alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clickherd.data.store import FIRST_VALUE, Store
from clickherd.selection.contingency import Counts, Ids, Marks, tally

REAL_BUCKETS = 50  # of equal frequency, that a real-valued column is counted in


def tallies(store: Store, marks: Marks) -> Iterator[tuple[str, Counts, Counts]]:
    """Each column's name, how often its values occur (V,), and the sums that `contingency.tally` gives (V, 4).

    Values stand at their local ids; those of real-valued columns, which have none, are bucketed from FIRST_VALUE on.
    """
    layout = store.layout
    single = layout.fields[: layout.num_single]
    counts_V, sums_V4 = tally(store.ids, marks, max((f.offset + f.size for f in single), default=0))
    for field in single:
        place = slice(field.offset, field.offset + field.size)
        yield field.name, counts_V[place], sums_V4[place]
    for field, (values, offsets) in zip(layout.fields[layout.num_single :], store.bags, strict=True):
        local = np.asarray(values) - np.int32(field.offset)
        yield field.name, *tally(local[:, None], marks.of_events(np.diff(offsets)), field.size)
    for column, name in enumerate(layout.numeric):
        yield name, *tally(bucketed(store.numeric[:, column])[:, None], marks, FIRST_VALUE + REAL_BUCKETS)


def local_ids(store: Store, rows: Counts) -> Iterator[tuple[str, Ids]]:
    """Local ids (N,) of some rows, for each column of one value a row."""
    ids_NS = store.ids[rows]
    for position, field in enumerate(store.layout.fields[: store.layout.num_single]):
        yield field.name, np.ascontiguousarray(ids_NS[:, position]) - np.int32(field.offset)
    for column, name in enumerate(store.layout.numeric):
        yield name, bucketed(store.numeric[rows, column])


def bucketed(numbers_N: npt.NDArray[np.float32]) -> Ids:
    """The bucket of each number among `REAL_BUCKETS` of about equal frequency, from FIRST_VALUE on."""
    edges = np.unique(np.quantile(numbers_N, np.linspace(0, 1, REAL_BUCKETS + 1)[1:-1]))
    return (np.searchsorted(edges, numbers_N, side="right") + FIRST_VALUE).astype(np.int32)
