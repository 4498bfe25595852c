"""The profile of a user's own file before any training: roles, distinct values, what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from clickherd.data.config import DataConfig
from clickherd.data.schema import SAMPLE_ROWS, infer_schema
from clickherd.data.source import DataLike, Source, open_source

EXAMPLES = 3


def describe_source(data: DataLike, config: DataConfig, *, need_label: bool) -> Iterator[tuple[str, ...]]:
    """One row per column: name, role, distinct values, missing share, most frequent values, note.

    Counts are those of a sample of at most 50,000 rows, which holds all rows of a smaller file. If there are more, a
    last row, without a name, says so in its note.

    Raises:
        DataError: the files cannot be read.
    """
    source = open_source(data, config, need_label=need_label)
    sample = source.head(SAMPLE_ROWS)
    for column in infer_schema(source, config).columns:
        values = sample[column.name]
        present = values.drop_nulls()
        top = present.value_counts(sort=True).head(EXAMPLES)[column.name].to_list()
        yield (
            column.name,
            column.role,
            f"{present.n_unique():,}",
            f"{values.null_count() / max(len(values), 1):.1%}",
            ", ".join(str(value) for value in top),
            column.note,
        )
    if _has_more(source, sample.height):
        yield ("", "", "", "", "", f"counts are those of the first {sample.height:,} rows read; there are more")


def _has_more(source: Source, rows: int) -> bool:
    """Whether there are more than so many rows. Reading ends once that is clear."""
    found = accumulate(chunk.frame.height for chunk in source.chunks(source.columns[:1], SAMPLE_ROWS))
    return any(height > rows for height in found)
