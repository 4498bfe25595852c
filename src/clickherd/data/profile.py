"""What is known of a data set once it is encoded: for the report, `data describe` and the reader's own judgement.

rows            split → number of rows
positive_rate   split → share of clicks
columns         one entry per column: name, role, note, encoding, distinct (values in the training rows), missing
                (share of training rows), vocabulary (values with an id of their own), top ([value, count] of the
                five most frequent), unknown (split → share of values without an id), unseen (split → their number),
                separated (of a multi-valued column of text: whether any value holds the separator), min, max, mean
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clickherd.data.machine_words import jit
from clickherd.data.store import UNKNOWN, Batch, Layout

if TYPE_CHECKING:
    from clickherd.data.fit import Fitted


class SplitTally:
    """Counts over the encoded rows of one split."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.rows = self.clicks = 0
        self.values = np.zeros(len(layout.fields), np.int64)  # per field
        self.unknown = np.zeros(len(layout.fields), np.int64)

    def add(self, batch: Batch) -> None:
        """Take in one batch."""
        self.rows += len(batch)
        self.clicks += int(batch.labels.sum(dtype=np.float64))
        single = self.layout.num_single
        offsets = np.array([field.offset for field in self.layout.fields], np.int32)
        self.values[:single] += len(batch)
        _count_equal(batch.ids, offsets[:single] + UNKNOWN, self.unknown)
        for position, (values, _) in enumerate(batch.bags, start=single):
            self.values[position] += len(values)
            self.unknown[position] += np.count_nonzero(values == offsets[position] + UNKNOWN)

    def unknown_values(self) -> dict[str, tuple[int, float]]:
        """Per field, how many values are unknown, and their share."""
        shares = self.unknown / np.maximum(self.values, 1)
        found = zip(self.layout.fields, self.unknown, shares, strict=True)
        return {field.name: (int(number), float(share)) for field, number, share in found}


@jit
def _count_equal(ids: npt.NDArray[np.int32], unknown: npt.NDArray[np.int32], counts: npt.NDArray[np.int64]) -> None:
    for row in range(len(ids)):
        for column in range(len(unknown)):
            counts[column] += ids[row, column] == unknown[column]


def build_profile(fitted: Fitted, tallies: dict[str, SplitTally]) -> dict[str, Any]:
    """The profile as plain dicts and lists."""
    unknown = {name: tally.unknown_values() for name, tally in tallies.items() if name != "train"}
    columns = []
    for column in fitted.encoder.schema.columns:
        found = {name: by_field[column.name] for name, by_field in unknown.items() if column.name in by_field}
        known: dict[str, Any] = {
            "name": column.name,
            "role": column.role,
            "note": column.note,
            "encoding": column.encoding,
            "distinct": None,
            "missing": None,
            "vocabulary": None,
            "top": [],
        }
        columns.append(
            {
                **known,
                **fitted.facts[column.name],
                "unknown": {name: share for name, (_, share) in found.items()},
                "unseen": {name: number for name, (number, _) in found.items()},
            }
        )
    return {
        "rows": {name: tally.rows for name, tally in tallies.items()},
        "positive_rate": {name: tally.clicks / tally.rows for name, tally in tallies.items()},
        "columns": columns,
    }
