"""One set of columns and types for all parts of a source."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from clickherd.config import DataConfig
from clickherd.data.part import Part
from clickherd.errors import DataError


def check_columns(parts: Sequence[Part]) -> None:
    """See that all parts have the same columns, in whatever order.

    Raises:
        DataError: a column that is missing, or one too many; both files are named.
    """
    first = parts[0]
    for part in parts[1:]:
        for has, lacks in ((first, part), (part, first)):
            extra = next((name for name in has.dtypes if name not in lacks.dtypes), None)
            if extra is not None:
                raise DataError(
                    f"the column is missing, though {has.name} has it",
                    file=lacks.name,
                    column=extra,
                    mend="All files of one source need the same columns; leave a file out or add the column.",
                )


def unify(parts: Sequence[Part], config: DataConfig) -> dict[str, pl.DataType]:
    """The type of each column that all parts can be cast to without loss of meaning.

    Categorical becomes String, Decimal Float64, fixed-size arrays lists, a column without any value String.

    Raises:
        DataError: types that do not mix, such as text and numbers, or that no model can read.
    """
    dtypes: dict[str, pl.DataType] = {}
    for name in parts[0].dtypes:
        if config.roles.get(name) == "ignored":
            dtypes[name] = parts[0].dtypes[name]
            continue
        merged: pl.DataType = pl.Null()
        for part in parts:
            dtype = _plain(part.dtypes[name])
            if dtype is None:
                raise DataError(
                    f"a column of type {part.dtypes[name]} cannot be used",
                    file=part.name,
                    column=name,
                    mend=f"Drop it, cast it to text or numbers, or say --set data.roles.{name}=ignored.",
                )
            both = _merge(merged, dtype)
            if both is None:
                raise DataError(
                    f"the column's type is {part.dtypes[name]} here but {merged} in {parts[0].name}",
                    file=part.name,
                    column=name,
                    mend="Write all files with the same type, or cast one of them.",
                )
            merged = both
        dtypes[name] = _filled(merged)
    return dtypes


def _plain(dtype: pl.DataType) -> pl.DataType | None:
    """The type that a column is read as; None when there is none."""
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.Decimal):
        return pl.Float64()
    if isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        plain = _plain(inner if isinstance(inner, pl.DataType) else inner())
        return None if plain is None or isinstance(plain, pl.List) else pl.List(plain)
    if dtype.is_numeric() or isinstance(dtype, pl.String | pl.Boolean | pl.Date | pl.Datetime | pl.Null):
        return dtype
    return None


def _family(dtype: pl.DataType) -> str:
    if dtype.is_numeric() or isinstance(dtype, pl.Boolean):
        return "number"
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return f"time in {dtype.time_zone}"
    return "time" if dtype.is_temporal() else str(dtype.base_type())


def _merge(left: pl.DataType, right: pl.DataType) -> pl.DataType | None:
    if isinstance(left, pl.Null) or left == right:
        return right
    if isinstance(right, pl.Null):
        return left
    if isinstance(left, pl.List) and isinstance(right, pl.List):
        inner = _merge(_inner(left), _inner(right))
        return None if inner is None else pl.List(inner)
    if _family(left) != _family(right):
        return None
    empty = (pl.DataFrame(schema={"x": dtype}) for dtype in (left, right))
    return pl.concat(empty, how="vertical_relaxed").schema["x"]


def _inner(dtype: pl.List) -> pl.DataType:
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()


def _filled(dtype: pl.DataType) -> pl.DataType:
    """`dtype` with String in the place of types without values and of integers beyond 64 bits."""
    if isinstance(dtype, pl.List):
        return pl.List(_filled(_inner(dtype)))
    return pl.String() if isinstance(dtype, pl.Null | pl.Int128) else dtype
