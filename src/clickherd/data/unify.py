"""One set of columns and types for all parts of a source."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from clickherd.data.config import DataConfig
from clickherd.data.part import Part
from clickherd.errors import DataError

_INTEGERS = {pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64}
_FLOATS = {pl.Float32, pl.Float64}


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


def unify(parts: Sequence[Part], config: DataConfig) -> tuple[dict[str, pl.DataType], dict[str, DataError]]:
    """The type of each column that all parts can be cast to without loss of meaning, and what is wrong with others.

    Categorical becomes String, Decimal Float64, fixed-size arrays lists, a column without any value String. Null
    stands for a column that cannot be used: its types do not mix, such as text and numbers, or no model can read them.
    That is an error for whoever asks for it, and none if its role is to be ignored.
    """
    dtypes: dict[str, pl.DataType] = {}
    faults: dict[str, DataError] = {}
    for name in parts[0].dtypes:
        unified = _unify_column(name, parts)
        if isinstance(unified, DataError):
            dtypes[name] = pl.Null()
            if config.roles.get(name) != "ignored":
                faults[name] = unified
        else:
            dtypes[name] = unified
    return dtypes, faults


def _unify_column(name: str, parts: Sequence[Part]) -> pl.DataType | DataError:
    merged: pl.DataType = pl.Null()
    for part in parts:
        dtype = _plain(part.dtypes[name])
        if dtype is None:
            return DataError(
                f"a column of type {part.dtypes[name]} cannot be used",
                file=part.name,
                column=name,
                mend=f"Drop it, cast it to text or numbers, or say --role {name}=ignored.",
            )
        both = _merge(merged, dtype)
        if both is None:
            return DataError(
                f"the column's type is {part.dtypes[name]} here but {merged} in {parts[0].name}",
                file=part.name,
                column=name,
                mend="Write all files with the same type, or cast one of them.",
            )
        merged = both
    return _filled(merged)


def _plain(dtype: pl.DataType) -> pl.DataType | None:
    """The type that a column is read as; None when there is none."""
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.Decimal):
        return pl.Float64()
    if dtype.is_integer() and dtype not in _INTEGERS:  # 128 bits: no number that numpy has
        return pl.String()
    if dtype.is_float() and dtype not in _FLOATS:
        return pl.Float32()
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
    beyond = dtype.is_integer() and dtype not in _INTEGERS
    return pl.String() if beyond or isinstance(dtype, pl.Null) else dtype
