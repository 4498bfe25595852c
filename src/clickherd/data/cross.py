"""Crossed columns: one category for each combination of values of two or more columns.

The cross-product transformation φ of Wide & Deep (Cheng et al., DLRS 2016, eq. 1): it lets a model remember that this
user clicked this item, which products of embeddings can only approximate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl

from clickherd.data.config import DataConfig
from clickherd.data.part import Part, Piece
from clickherd.data.values import as_texts, without_nulls
from clickherd.errors import ConfigError, DataError, did_you_mean

BETWEEN = " × "  # the values of one combination


def cross_name(columns: Sequence[str]) -> str:
    """The name of the crossed column, as `--cross` writes it."""
    return "*".join(columns)


class CrossedPart(Part):
    """A part with the crosses of the settings as additional text columns; missing if one of the values is."""

    def __init__(self, part: Part, config: DataConfig) -> None:
        self._part, self._null_values = part, config.null_values
        self._crosses = {cross_name(columns): columns for columns in config.crosses}
        self.name, self.is_empty = part.name, part.is_empty
        self.is_text, self.has_header = part.is_text, part.has_header
        self.dtypes = {**part.dtypes, **dict.fromkeys(self._crosses, pl.String())}
        _check(part, self._crosses, config)

    def digest(self) -> str:
        """The hash of the content; the crosses are among the settings."""
        return self._part.digest()

    def pieces(self, columns: Sequence[str], rows: int) -> Iterator[Piece]:
        """The part's rows with the columns added."""
        for piece in self._part.pieces(self._stored(columns), rows):
            yield replace(piece, frame=self._add(piece.frame, columns))

    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """The part's sample with the columns added."""
        return self._add(self._part.sample(self._stored(columns), rows), columns)

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """The columns to read for those asked for."""
        needed = (name for column in columns for name in self._crosses.get(column, (column,)))
        return list(dict.fromkeys(needed))

    def _add(self, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        crossed = [self._cross(frame, name) for name in columns if name in self._crosses]
        return frame.with_columns(crossed).select(columns)

    def _cross(self, frame: pl.DataFrame, name: str) -> pl.Series:
        texts = [without_nulls(as_texts(frame[column]), self._null_values) for column in self._crosses[name]]
        return pl.DataFrame(texts).select(pl.concat_str(pl.all(), separator=BETWEEN).alias(name)).to_series()


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
