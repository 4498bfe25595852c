"""The built-in click log: Criteo-shaped, of any size, with the click probability that every label was drawn from.

The probability depends on nothing but the row's own columns (`click_model`), so `true_probability` is the best
prediction that anyone can make, and its scores are the best reachable.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from clickherd import metrics
from clickherd.data import click_model as model
from clickherd.data.store import TRUTH
from clickherd.errors import DataError, UserError

START = datetime(2025, 1, 6)
SPAN = timedelta(days=7)
CHUNK_ROWS = 1 << 17
LONG_TAIL = 90_000  # ids of a field whose tail `lengthened` makes longer
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def synthesize(
    rows: int,
    *,
    seed: int = 0,
    world: int = 0,
    chunk_rows: int = CHUNK_ROWS,
    categorical: tuple[model.Categorical, ...] = model.CATEGORICAL,
) -> Iterator[pl.DataFrame]:
    """A click log of `rows` rows over SPAN from START, in frames of at most `chunk_rows` rows.

    Columns: label (Int8), timestamp (Datetime[μs], never decreasing), I1–I13 (Float64), C1–C26 (String, eight
    hexadecimal digits), true_probability (Float64).

    Args:
        rows: length of the whole log. The same span is cut into more, denser rows when it grows.
        seed: draws the rows. Logs of different seeds are samples of one world, so one can test what another trained.
        world: draws the ids and their effects. The scores that docs/data.md states hold for world 0.
        chunk_rows: rows in memory at a time; the rows themselves do not depend on it.
        categorical: what C1 … C26 are like; `lengthened` makes one. The stated scores hold for the default.

    Raises:
        UserError: `rows` or `chunk_rows` is below 1, or a seed is out of range.
    """
    if rows < 1 or chunk_rows < 1:
        raise UserError(f"rows = {rows}, chunk_rows = {chunk_rows}", mend="Both are 1 or more.")
    row_keys, id_keys = model.derive_keys(seed, "seed"), model.derive_keys(world, "world")
    fields = model.categorical_table(categorical)
    return (
        _chunk(first, min(chunk_rows, rows - first), rows, row_keys, id_keys, *fields)
        for first in range(0, rows, chunk_rows)
    )


def lengthened(tail_exponent: float) -> tuple[model.Categorical, ...]:
    """The built-in log's fields with more rare ids: at most this exponent in fields of LONG_TAIL ids or more."""
    if not tail_exponent > 1.0:
        raise UserError(f"tail_exponent = {tail_exponent}", mend="Give a number above 1.")
    return tuple(
        replace(field, exponent=min(field.exponent, tail_exponent)) if field.size >= LONG_TAIL else field
        for field in model.CATEGORICAL
    )


def _chunk(
    first: int,
    size: int,
    rows: int,
    row_keys: npt.NDArray[np.uint64],
    id_keys: npt.NDArray[np.uint64],
    categorical_F: npt.NDArray[np.void],
    power_span_F: npt.NDArray[np.float64],
) -> pl.DataFrame:
    offset, label, probability = np.empty(size, np.int64), np.empty(size, np.int8), np.empty(size)
    ids = np.empty((len(categorical_F), size), np.int64)
    numeric = np.empty((len(model.NUMERIC), size))
    parameters = (categorical_F, model.NUMERIC_TABLE, power_span_F)
    span = SPAN // timedelta(microseconds=1)
    model.fill(first, rows, span, row_keys, id_keys, *parameters, offset, ids, numeric, probability, label)
    return pl.DataFrame(
        [
            pl.Series("label", label),
            pl.Series("timestamp", np.datetime64(START, "us") + offset.astype("timedelta64[us]")),
            *(pl.Series(f"I{j}", column, nan_to_null=True) for j, column in enumerate(numeric, 1)),
            *(_texts(f"C{f}", column) for f, column in enumerate(ids, 1)),
            pl.Series(TRUTH, probability),
        ]
    )


def _texts(name: str, ids_B: npt.NDArray[np.int64]) -> pl.Series:
    rows = len(ids_B)
    text, ends, present = np.empty(8 * rows, np.uint8), np.empty(rows + 1, np.int64), np.empty(rows, np.bool_)
    model.write_hex(ids_B, text, ends, present)
    valid = pa.py_buffer(np.packbits(present, bitorder="little"))
    series = pl.from_arrow(pa.LargeStringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(text), valid))
    assert isinstance(series, pl.Series)
    return series.alias(name)


def write(
    path: str | Path,
    rows: int,
    seed: int = 0,
    *,
    world: int = 0,
    categorical: tuple[model.Categorical, ...] = model.CATEGORICAL,
) -> Path:
    """Write a log to `path`: Parquet, CSV or TSV by its suffix, texts gzipped if it ends in .gz.

    Memory is bounded by a chunk. The file is written beside its place and renamed, so a cut-off one is never taken
    for a whole one.

    Raises:
        UserError: an unknown suffix, a folder in the file's place, or what `synthesize` refuses.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise UserError("cannot tell the format by the name", file=path, mend=f"End it in {', '.join(SUFFIXES)}.")
    if path.is_dir():
        raise UserError("this is a folder", file=path, mend="Name a file.")
    frames = synthesize(rows, seed=seed, world=world, categorical=categorical)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if suffix == ".parquet":
            _write_parquet(beside, frames)
        else:
            _write_text(beside, frames, separator="\t" if "tsv" in suffix else ",", packed=suffix.endswith(".gz"))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _write_parquet(path: Path, frames: Iterator[pl.DataFrame]) -> None:
    with contextlib.ExitStack() as stack:
        writer = None
        for frame in frames:
            table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table)


def _write_text(path: Path, frames: Iterator[pl.DataFrame], *, separator: str, packed: bool) -> None:
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("wb"))
        if packed:  # without name and time, so that equal logs are equal files
            packer = gzip.GzipFile("", "wb", compresslevel=5, fileobj=file, mtime=0)
            file = cast(IO[bytes], stack.enter_context(packer))
        for number, frame in enumerate(frames):
            frame.write_csv(file, separator=separator, include_header=number == 0)


def best_auc(frame: pl.DataFrame) -> float:
    """The AUC of the true probabilities on these very rows: what a perfect model scores on them."""
    return metrics.auc(*_truth(frame))


def best_logloss(frame: pl.DataFrame) -> float:
    """The logloss of the true probabilities on these very rows, in nats."""
    return metrics.logloss(*_truth(frame))


def expected_auc(probability: npt.ArrayLike) -> float:
    """The AUC of true probabilities (N,) over all labels that they could draw, not only those drawn.

        E[pairs ranked rightly] / E[pairs] = Σ_{i≠j} p_i (1 − p_j) ([p_i > p_j] + ½[p_i = p_j]) / Σ_{i≠j} p_i (1 − p_j)

    A ratio of expectations; it differs from the expected ratio by O(1/N).
    """
    p, counts = np.unique(np.asarray(probability, np.float64), return_counts=True)
    clicks, others = p * counts, (1.0 - p) * counts
    with_itself = float((clicks * (1.0 - p)).sum())
    won = float((clicks * (np.cumsum(others) - 0.5 * others)).sum()) - 0.5 * with_itself
    return won / (float(clicks.sum()) * float(others.sum()) - with_itself)


def expected_logloss(probability: npt.ArrayLike) -> float:
    """The mean entropy of true probabilities (N,) in nats: their logloss over all labels that they could draw."""
    p = np.asarray(probability, np.float64)
    tails = np.stack([p, 1.0 - p])
    return float(-(tails * np.log(tails, where=tails > 0, out=np.zeros_like(tails))).sum(axis=0).mean())


def _truth(frame: pl.DataFrame) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    for column in ("label", TRUTH):
        if column not in frame.columns:
            raise DataError("the column is not there", column=column, mend="Take rows of the built-in log.")
    return frame["label"].to_numpy(), frame[TRUTH].to_numpy()
