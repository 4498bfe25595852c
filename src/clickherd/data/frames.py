"""Data that are already in memory, or come as a stream of Arrow batches, as one part of a source."""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from clickherd.data.columnar import ArrowPart, FramePart, dtypes_of, frame_of
from clickherd.data.locate import DataFile
from clickherd.data.part import Part, check_names
from clickherd.errors import DataError

_MEND = "Give paths, a pandas or polars frame, a pyarrow Table, or a mapping of column names to values."
_RENAME = "Rename one."
_SCALARS = {"str", "int", "float", "bool", "int64", "float64", "bool_"}


def to_part(data: Any) -> Part:
    """`data` as a part.

    A frame or table is used where it lies. What can be read only once or is not yet computed (LazyFrame,
    RecordBatchReader, other Arrow streams) goes to a temporary file first, which is deleted with the part.

    Raises:
        DataError: an object that is no table, or one with columns that cannot be told apart or read.
    """
    name = f"<{type(data).__name__}>"
    if isinstance(data, pl.DataFrame):
        return FramePart(data, name)
    if isinstance(data, pl.LazyFrame):
        return _spill_lazy(data, name)
    if isinstance(data, pa.Table):
        return _from_table(data, name)
    pandas = sys.modules.get("pandas")  # a pandas frame exists only if pandas is loaded
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return FramePart(_from_pandas(data, pandas, name), name)
    if hasattr(data, "__arrow_c_stream__"):
        try:
            reader = pa.RecordBatchReader.from_stream(data)
        except pa.ArrowException as error:
            raise DataError(f"not a table with named columns: {error}", file=name, mend=_MEND) from None
        return _spill_stream(reader, name)
    if isinstance(data, Mapping):
        try:
            return FramePart(pl.DataFrame(dict(data)), name)
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            raise DataError(f"the columns do not make a table: {error}", file=name, mend=_MEND) from None
    raise DataError(f"cannot read rows from an object of type {type(data).__name__}", mend=_MEND)


def _from_table(table: pa.Table, name: str) -> Part:
    check_names(table.column_names, name, _RENAME)
    part = FramePart(frame_of(table), name)
    part.dtypes |= {column: dtype for column, dtype in dtypes_of(table.schema).items() if dtype == pl.Object}
    return part


def _from_pandas(frame: Any, pandas: Any, name: str) -> pl.DataFrame:
    """NaN, None, NaT and NA all mean missing, as they do in pandas; the index is left out."""
    names = [str(column) for column in frame.columns]
    check_names(names, name, _RENAME)
    columns = {}
    for position, column in enumerate(names):
        series = frame.iloc[:, position]
        if isinstance(series.dtype, pandas.SparseDtype):
            series = series.sparse.to_dense()
        try:
            columns[column] = pl.from_pandas(series, nan_to_null=True)
        except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError):
            columns[column] = _mixed(series, column, name)
    return pl.DataFrame(columns)


def _mixed(series: Any, column: str, name: str) -> pl.Series:
    """A column of text and numbers, such as pandas.read_csv makes of a long file, as text."""
    present = series.dropna()
    kinds = {kind.__name__ for kind in present.map(type).unique()}
    if kinds - _SCALARS:
        raise DataError(
            f"the column holds Python objects: {', '.join(sorted(kinds))}",
            file=name,
            column=column,
            mend="Cast it to text or numbers, or drop it.",
        )
    text: pl.Series = pl.from_pandas(series.astype("string"))
    return text


def _spill_folder(part_of: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="clickherd-"))
    except OSError as error:
        raise DataError(f"no temporary folder for {part_of}: {error}", mend="Set TMPDIR to one with space.") from None


def _spilled(folder: Path, name: str) -> Part:
    part = ArrowPart(DataFile(name, str(folder / "rows.arrow"), "arrow"))
    weakref.finalize(part, shutil.rmtree, folder, ignore_errors=True)
    return part


def _spill_lazy(frame: pl.LazyFrame, name: str) -> Part:
    folder = _spill_folder(name)
    try:
        frame.sink_ipc(folder / "rows.arrow")
    except (pl.exceptions.PolarsError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(
            f"the LazyFrame cannot be computed: {error}", file=name, mend="Collect it to see why."
        ) from None
    return _spilled(folder, name)


def _spill_stream(reader: pa.RecordBatchReader, name: str) -> Part:
    check_names(reader.schema.names, name, _RENAME)
    folder = _spill_folder(name)
    try:
        with pa.ipc.new_stream(str(folder / "rows.arrow"), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    except (pa.ArrowException, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"the stream cannot be read: {error}", file=name, mend="Check where it comes from.") from None
    return _spilled(folder, name)
