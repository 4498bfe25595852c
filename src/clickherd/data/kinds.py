"""Whether the values of a column are numbers or times: all of them, or all but a few."""

from __future__ import annotations

import polars as pl

from clickherd.data.values import parse_instants

_NEARLY_ALL = 0.99  # of values; so few others are slips rather than another kind
_LISTED = 3  # odd values that a note names
_LEADING_ZERO = r"^[+-]?0[0-9]"
_ISO_TIME = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$"


def as_numbers(present: pl.Series) -> pl.Series | None:
    """The values as numbers; None if one of them is none, or if leading zeros say that they are codes."""
    if present.dtype.is_numeric():
        return present.cast(pl.Float64)
    if present.dtype != pl.String:
        return None
    texts = present.str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    return None if numbers.has_nulls() or texts.str.contains(_LEADING_ZERO).any() else numbers


def are_fractions(present: pl.Series) -> bool:
    """Whether numbers are written as fractions, if only as 1.0."""
    return present.dtype.is_float() or (present.dtype == pl.String and bool(present.str.contains("[.eE]").any()))


def are_times(present: pl.Series) -> bool:
    """Whether all values are times of a type of their own, or texts such as 2026-01-31 12:00:00."""
    if present.dtype == pl.Date or isinstance(present.dtype, pl.Datetime):
        return True
    if present.dtype != pl.String or not len(present):
        return False
    return bool(present.str.strip_chars().str.contains(_ISO_TIME).all()) and not parse_instants(present).has_nulls()


def without_odd(present: pl.Series) -> tuple[pl.Series, str] | None:
    """The values without the few that are no time or no number, and words for these; None if there are none or many."""
    if present.dtype != pl.String:
        return None
    texts = present.str.strip_chars()
    fits = texts.str.contains(_ISO_TIME)
    if fits.sum() >= _NEARLY_ALL * len(texts):
        fits &= parse_instants(present).is_not_null()
    elif not texts.str.contains(_LEADING_ZERO).any():
        fits = texts.cast(pl.Float64, strict=False).is_not_null()
    if fits.all() or fits.sum() < _NEARLY_ALL * len(texts):
        return None
    odd = present.filter(~fits).value_counts(sort=True)[present.name]
    listed = ", ".join(map(repr, odd.head(_LISTED)))
    if len(odd) == 1:
        return present.filter(fits), f"{listed} is not one"
    more = f" and {len(odd) - _LISTED:,} more" if len(odd) > _LISTED else ""
    return present.filter(fits), f"{listed}{more} are not"
