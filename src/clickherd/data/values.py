"""Cells of a raw column as texts, numbers, instants, parts or labels; what cannot be read is named with its place."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.errors import DataError

if TYPE_CHECKING:
    from clickherd.data.source import RawChunk

Floats = npt.NDArray[np.float64]

TIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M")
_STRAY_SHARE = 0.1  # of labels; more of them are no slips
ZONED_FORMATS = ("%+", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")


WHOLE_FLOAT = r"^(-?(?:0|[1-9][0-9]*))\.0$"  # `7.0`, as pandas writes an id of a column with missing values

_BOOLEANS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def as_texts(values: pl.Series) -> pl.Series:
    """Values as the texts that vocabularies hold, so that 1, 1.0 and "1" are one value; nulls (and NaN) stay null.

    Whole floats become integers; booleans become "true" and "false", however a file spells them. (`1.0` that is text
    already is taken for `1` when it is looked up, see `hashing`.)
    """
    if values.dtype == pl.String:
        return values.replace(_BOOLEANS)
    if values.dtype == pl.Boolean:
        return values.cast(pl.String)
    if values.dtype.is_float():
        values = values.fill_nan(None)
        if (values.drop_nulls().floor() == values.drop_nulls()).all() and (values.abs() < 2**63).all():
            return values.cast(pl.Int64).cast(pl.String)
        whole = (values.floor() == values) & (values.abs() < 2**63)
        integers = values.cast(pl.Int64, strict=False).cast(pl.String)
        return integers.zip_with(whole.fill_null(False), values.cast(pl.String))
    return values.cast(pl.String)


def as_label_texts(values: pl.Series) -> pl.Series:
    """Labels as texts, however they are spelt: ` 1 `, `1.0` and 1 are one value."""
    return as_texts(values).str.strip_chars().replace(_BOOLEANS).str.replace(WHOLE_FLOAT, "$1")


def without_nulls(texts: pl.Series, null_values: Sequence[str]) -> pl.Series:
    """The texts with those that mean missing as nulls; other types come back as they are."""
    if texts.dtype != pl.String:
        return texts
    cell = pl.col(texts.name)
    return texts.to_frame().select(pl.when(~cell.is_in(null_values)).then(cell)).to_series()


def _first(mask: pl.Series) -> int | None:
    """Index of the first true value."""
    return mask.arg_max() if mask.any() else None


def read_numbers(values: pl.Series, chunk: RawChunk, null_values: Sequence[str], *, fitted: bool = False) -> Floats:
    """A numeric column's values as float64, NaN where missing, shape (N,).

    `fitted`: the settings are those of a model and cannot be changed, so that no advice is given to do so.

    Raises:
        DataError: a text that is no number, a NaN or an infinity; with file, column and row.
    """
    name = values.name
    if values.dtype == pl.String or values.dtype.is_numeric() or values.dtype == pl.Boolean:
        numbers = values.cast(pl.Float64, strict=False)
    else:
        raise DataError(
            f"the column holds {values.dtype}, not numbers",
            file=chunk.file,
            column=name,
            mend=f"Give it another role, such as --role {name}=categorical.",
        )
    if values.dtype == pl.String and (numbers.null_count() > values.null_count() or not numbers.is_finite().all()):
        values = without_nulls(values.str.strip_chars(), null_values)
        numbers = values.cast(pl.Float64, strict=False)
        bad = _first(numbers.is_null() & values.is_not_null())
        if bad is not None:
            role = (
                f"Or say --role {name}=categorical. If an earlier file had numbers here, the column's type changed "
                "between files."
            )
            raise DataError(
                f"{values[bad]!r} is not a number, but the column is numeric",
                column=name,
                **chunk.place(bad),
                mend=_missing_mend(values, bad, null_values, fitted) + ("" if fitted else f" {role}"),
            )
    bad = _first((~numbers.is_finite()).fill_null(False))
    if bad is not None:
        raise DataError(
            f"the value is {numbers[bad]}, which is not a finite number",
            column=name,
            **chunk.place(bad),
            mend=_missing_mend(values, bad, null_values, fitted),
        )
    return numbers.to_numpy()


_DECIMAL_COMMA = re.compile(r"[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+")


def _missing_mend(values: pl.Series, bad: int, null_values: Sequence[str], fitted: bool) -> str:
    """The advice for a value that is no number but may mean missing."""
    if values.dtype != pl.String:
        return "Mend it, or write null if it means missing."
    if fitted:
        return "Mend it, or leave it empty if it means missing."
    if _DECIMAL_COMMA.fullmatch(values[bad].strip()):
        return "Numbers have a decimal point: write 1234.5, not 1.234,5 or 1234,5."
    setting = "data.null_values=" + json.dumps([*null_values, values[bad]], ensure_ascii=False)
    return f"Mend it, or say --set {shlex.quote(setting)} if it means missing."


def read_instants(
    values: pl.Series,
    chunk: RawChunk,
    null_values: Sequence[str],
    mend: str = "Write times as 2026-01-31 12:00:00 or as epoch numbers, or use --split random.",
) -> npt.NDArray[np.int64]:
    """A time column's values as integers in time order: microseconds, or the column's own unit if it holds numbers.

    Raises:
        DataError: a missing value, or one that is no time; with file, column and row.
    """
    name = values.name
    values = without_nulls(values, null_values)
    instants = parse_instants(values)
    bad = _first(instants.is_null())
    if bad is not None:
        what = "the time is missing" if values[bad] is None else f"{values[bad]!r} is not a time"
        raise DataError(
            what,
            column=name,
            **chunk.place(bad),
            mend=mend,
        )
    return instants.to_numpy()


def parse_instants(values: pl.Series) -> pl.Series:
    """Int64, null where a value is no time."""
    if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        return values.cast(pl.Datetime("us")).cast(pl.Int64)
    if values.dtype.is_numeric():
        whole = values.fill_nan(None) if values.dtype.is_float() else values
        return whole.cast(pl.Int64, strict=False)
    if values.dtype != pl.String:
        return pl.Series(values.name, [None] * len(values), pl.Int64)
    texts = values.str.strip_chars()
    instants = texts.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False)
    for form in (*ZONED_FORMATS, *TIME_FORMATS):
        left = instants.is_null() & texts.is_not_null()
        if not left.any():
            break
        zone = "UTC" if form in ZONED_FORMATS else None
        some = texts.filter(left).str.replace("T", " ", literal=True) if zone is None else texts.filter(left)
        parsed = some.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False)
        instants = instants.scatter(left.arg_true(), parsed.cast(pl.Int64))
    return instants


def read_parts(
    values: pl.Series, separator: str, null_values: Sequence[str]
) -> tuple[pl.Series, npt.NDArray[np.int64]]:
    """A multi-valued column's parts, row after row, and how many each row has, shape (N,).

    Texts are split at `separator`; lists are taken as they are. Empty parts, and those that mean missing, are dropped.
    """
    lists = values if isinstance(values.dtype, pl.List) else as_texts(values).str.split(separator)
    sizes = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    parts = as_texts(lists.filter(pl.Series(sizes > 0)).explode()).str.strip_chars()
    keep = (parts.is_not_null() & ~parts.is_in([*null_values, ""])).fill_null(False)
    if not keep.all():
        rows = np.repeat(np.arange(len(sizes)), sizes)[keep.to_numpy()]
        sizes = np.bincount(rows, minlength=len(sizes)).astype(np.int64)
        parts = parts.filter(keep)
    return parts, sizes


def read_positions(lists: pl.Series) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """The numbers in a column of lists, row after row, and how many each row has, shape (N,)."""
    sizes = lists.list.len().to_numpy().astype(np.int64)
    return lists.filter(pl.Series(sizes > 0)).explode().to_numpy(), sizes


def last_parts(
    parts: pl.Series, sizes: npt.NDArray[np.int64], max_length: int
) -> tuple[pl.Series, npt.NDArray[np.int64]]:
    """What `read_parts` returns, with the last `max_length` parts of each row alone."""
    if not len(sizes) or sizes.max() <= max_length:
        return parts, sizes
    to_end = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(parts))
    return parts.filter(pl.Series(to_end <= max_length)), np.minimum(sizes, max_length)


def check_known(labels: pl.Series, chunk: RawChunk, known: set[str], mend: str) -> None:
    """See that rows have the labels of training.

    Raises:
        DataError: one has not; it is named.
    """
    texts = as_label_texts(labels)
    odd = ~texts.is_in(list(known))
    row = _first(odd)
    if row is not None:
        found = ", ".join(map(repr, texts.filter(odd).unique().sort().head(10)))
        what = f"training had no label {texts[row]!r}; found {found} beside those that it had"
        raise DataError(what, column=labels.name, **chunk.place(row), mend=mend)


def read_labels(
    values: pl.Series,
    chunk: RawChunk,
    positive: str | None,
    null_values: Sequence[str],
    mend: str = "Say which value counts as a click with --positive VALUE.",
) -> npt.NDArray[np.float32]:
    """Labels as 0 and 1, shape (N,). `mend` is the advice for labels that are other values.

    Raises:
        DataError: a missing label, or one that is neither 0 nor 1 while `positive` is not given.
    """
    name = values.name
    values = without_nulls(values.str.strip_chars() if values.dtype == pl.String else values, null_values)
    if values.dtype.is_float():
        values = values.fill_nan(None)
    bad = _first(values.is_null())
    if bad is not None:
        raise DataError(
            "the label is missing", column=name, **chunk.place(bad), mend="Fill it in, or leave the row out."
        )
    if positive is not None:
        click = _BOOLEANS.get(positive.strip(), positive.strip()).removesuffix(".0")
        return as_texts(values).is_in([click, f"{click}.0"]).to_numpy().astype(np.float32)
    if values.dtype == pl.String:
        lower = values.str.to_lowercase()
        numbers = lower.replace(["true", "false"], ["1", "0"]).cast(pl.Float64, strict=False)
    elif values.dtype.is_numeric() or values.dtype == pl.Boolean:
        numbers = values.cast(pl.Float64)
    else:
        numbers = pl.Series(name, [None] * len(values), pl.Float64)
    odd = ~numbers.is_in([0.0, 1.0]).fill_null(False)
    bad = _first(odd)
    if bad is not None:
        found = as_texts(values.unique().sort().head(10)) if values.dtype != pl.List else values.head(0)
        what = f"labels have to be 0 and 1; found {', '.join(map(repr, found))}"
        if numbers.filter(~odd).n_unique() == 2 and odd.sum() < _STRAY_SHARE * len(odd):
            what = f"all but {odd.sum():,} of {len(odd):,} labels are 0 and 1; this one is {as_texts(values)[bad]!r}"
            mend = f"Mend such rows or leave them out. {mend}"
        raise DataError(what, column=name, **chunk.place(bad), mend=mend)
    return numbers.to_numpy().astype(np.float32)
