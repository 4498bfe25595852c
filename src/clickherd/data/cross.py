"""Crossed columns: one category for each combination of values of two or more columns.

The cross-product transformation φ of Wide & Deep (Cheng et al., DLRS 2016, eq. 1): it lets a model remember that this
user clicked this item, which products of embeddings can only approximate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from clickherd.data.config import DataConfig
from clickherd.data.part import ExtendedPart, Part
from clickherd.data.values import WHOLE_FLOAT, as_texts, without_nulls
from clickherd.errors import ConfigError, DataError, did_you_mean

BETWEEN, ESCAPED = " × ", " ×× "  # the values of one combination; what stands for BETWEEN within a value
ALL_SAME = "every row has the same value"  # why a column is ignored


def cross_name(columns: Sequence[str]) -> str:
    """The name of the crossed column, as `--cross` writes it."""
    return "*".join(columns)


def cross_note(columns: Sequence[str], useless: Mapping[str, str]) -> str:
    """The note on a crossed column; `useless` says of ignored columns why they tell nothing."""
    parts = [
        f"{name} is the same in every row" if useless[name] == ALL_SAME else f"{name} is ignored: {useless[name]}"
        for name in columns
        if name in useless
    ]
    return "; ".join(["crossed", *parts])


class CrossedPart(ExtendedPart):
    """A part with the crosses of the settings as columns; missing if one of the values is."""

    def __init__(self, part: Part, config: DataConfig) -> None:
        self._crosses = {cross_name(columns): columns for columns in config.crosses}
        self._null_values = config.null_values
        super().__init__(part, self._crosses)
        _check(part, self._crosses, config)

    def _stored(self, columns: Sequence[str]) -> list[str]:
        needed = (name for column in columns for name in self._crosses.get(column, (column,)))
        return list(dict.fromkeys(needed))

    def _add(self, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        crossed = [self._cross(frame, name) for name in columns if name in self._crosses]
        return frame.with_columns(crossed).select(columns)

    def _cross(self, frame: pl.DataFrame, name: str) -> pl.Series:
        texts = [without_nulls(as_texts(frame[column]), self._null_values) for column in self._crosses[name]]
        whole = pl.all().str.replace(WHOLE_FLOAT, "$1").str.replace_all(BETWEEN, ESCAPED, literal=True)
        return pl.DataFrame(texts).select(pl.concat_str(whole, separator=BETWEEN).alias(name)).to_series()


def _check(part: Part, crosses: Mapping[str, Sequence[str]], config: DataConfig) -> None:
    """See that the crosses combine columns that are there and have one value a row.

    Raises:
        ConfigError: a name that is taken, or a column that cannot be crossed.
        DataError: a column is missing.
    """
    for name, columns in crosses.items():
        if name in part.dtypes:
            raise ConfigError(f"data.crosses makes a column {name!r}, but there is one of that name already")
        for column in columns:
            if column == config.label:
                raise ConfigError(f"the cross {name} holds the label", mend="Cross columns known before the click.")
            if column not in part.dtypes:
                raise DataError(
                    f"the column is missing that the cross {name} needs",
                    file=part.name,
                    column=column,
                    mend=did_you_mean(column, part.dtypes),
                )
            if isinstance(part.dtypes[column], pl.List | pl.Array):
                raise ConfigError(
                    f"the cross {name} holds {column!r}, a column of lists", mend="Cross columns of one value a row."
                )
