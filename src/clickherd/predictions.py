"""Predictions as a file: one click probability per input row, in order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from clickherd.errors import ConfigError

COLUMN = "click_probability"


def write_predictions(path: Path, chunks: Iterable[npt.NDArray[np.float64]]) -> int:
    """Write the chunks as they come, beside `path` and then renamed; returns the number of rows.

    Raises:
        ConfigError: the suffix is neither .csv nor .parquet, or the folder does not exist.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"cannot write predictions as {path.suffix!r}", file=path, mend="Use .csv or .parquet.")
    if not path.parent.is_dir():
        raise ConfigError("the folder to write to does not exist", file=path, mend="Create it first.")
    schema = pa.schema([(COLUMN, pa.float64())])
    beside = path.with_name(f".{path.name}.part")
    rows = 0
    try:
        open_writer = pa.csv.CSVWriter if path.suffix == ".csv" else pa.parquet.ParquetWriter
        with open_writer(str(beside), schema) as writer:
            for scores in chunks:
                writer.write_table(pa.table({COLUMN: scores}, schema=schema))
                rows += len(scores)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return rows
