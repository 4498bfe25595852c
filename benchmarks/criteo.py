"""The shape of Criteo's rows, at any number of ids: 26 fields of its relative sizes, 13 numeric columns, Zipf ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clickherd.data.store import Batch, FieldLayout, Layout

NUM_NUMERIC, ZIPF = 13, 1.05
CRITEO = (  # values of its 26 fields: 33.8M
    *(1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194),
    *(27, 14_992, 5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572),
)
CLICKS = 0.25


def layout_of(num_ids: int) -> Layout:
    """Criteo's fields, their sizes scaled to about so many ids."""
    sizes = np.maximum(3, np.array(CRITEO) * num_ids // sum(CRITEO))
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    fields = (FieldLayout(f"c{i + 1}", int(o), int(s)) for i, (o, s) in enumerate(zip(offsets, sizes, strict=True)))
    return Layout(tuple(fields), tuple(f"i{i + 1}" for i in range(NUM_NUMERIC)))


def draw(layout: Layout, num_rows: int, rng: np.random.Generator) -> Batch:
    """Encoded rows whose labels are noise. P(k-th most frequent id of a field) ∝ k^−1.05, whatever the field's size."""
    ids = np.empty((num_rows, len(layout.fields)), np.int32)
    for f, field in enumerate(layout.fields):
        ids[:, f] = field.offset + zipf(field.size, rng.random(num_rows))
    labels = (rng.random(num_rows) < CLICKS).astype(np.float32)
    numeric = rng.random((num_rows, len(layout.numeric)), np.float32)
    return Batch(ids, (), numeric, labels, np.empty(0, np.uint64))


def zipf(size: int, uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Ranks from 0 below `size` by Zipf's law: its inverse distribution, of a continuous rank, rounded down."""
    power = ((size + 1) ** (1 - ZIPF) - 1) * uniform + 1
    ranks: npt.NDArray[np.int64] = (power ** (1 / (1 - ZIPF)) - 1).astype(np.int64).clip(0, size - 1)
    return ranks
