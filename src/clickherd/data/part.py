"""What every kind of input offers: columns with types, a digest, pieces of rows in order, and a sample."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from clickherd.data.cells import Cells
from clickherd.errors import DataError

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one part."""

    frame: pl.DataFrame
    first_row: int  # within the part, from 0
    first_line: int | None = None  # of a text file whose rows are one line each, from 1
    cells: Mapping[str, Cells] = field(default_factory=dict)  # columns that are not in the frame
    texts: Mapping[str, pl.Series] = field(default_factory=dict)  # column of lists of positions → what they stand for


class Part(ABC):
    """One file or frame of a source."""

    name: str
    dtypes: dict[str, pl.DataType]
    is_empty: bool = False
    is_text: bool = False  # every column is text because the format of the file knows nothing else
    has_header: bool = True

    @abstractmethod
    def digest(self) -> str:
        """A hash of the content that does not depend on where it lies."""

    @abstractmethod
    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """All rows in order, at most `rows` at a time, with the given columns in the given order.

        Those of `cells` may come as such instead of in the frame.
        """

    @abstractmethod
    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """At most `rows` rows, at little cost."""


class ExtendedPart(Part):
    """A part with further text columns."""

    def __init__(self, part: Part, names: Iterable[str]) -> None:
        self._part = part
        self.name, self.is_empty = part.name, part.is_empty
        self.is_text, self.has_header = part.is_text, part.has_header
        self.dtypes = {**part.dtypes, **dict.fromkeys(names, pl.String())}

    def digest(self) -> str:
        """The hash of the content."""
        return self._part.digest()

    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """The part's rows with the columns added."""
        own = self._part.dtypes
        stored = self._stored([name for name in columns if name not in cells or name not in own])
        alone = [name for name in columns if name in cells and name in own and name not in stored]
        for piece in self._part.pieces([*stored, *alone], rows, alone):
            framed = [name for name in columns if name not in piece.cells]
            yield replace(piece, frame=self._add(piece.frame, framed))

    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """The part's sample with the columns added."""
        return self._add(self._part.sample(self._stored(columns), rows), columns)

    @abstractmethod
    def _stored(self, columns: Sequence[str]) -> list[str]:
        """The part's own columns that have to be read for those asked for; at least one, to tell the number of rows."""

    @abstractmethod
    def _add(self, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """The columns asked for, from the frame of those stored."""


class PartitionedPart(ExtendedPart):
    """A part with columns that are the same for all its rows, from the folders that it lies in."""

    def __init__(self, part: Part, values: Mapping[str, str]) -> None:
        super().__init__(part, values)
        self._values = {name: None if value == _HIVE_NULL else value for name, value in values.items()}

    def digest(self) -> str:
        """The hash of the content and of the folders' values."""
        return hashlib.sha256(f"{self._part.digest()}{self._values}".encode()).hexdigest()

    def _stored(self, columns: Sequence[str]) -> list[str]:
        stored = [name for name in columns if name not in self._values]
        return stored or [next(iter(self._part.dtypes))]

    def _add(self, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        added = (pl.lit(value, pl.String).alias(name) for name, value in self._values.items())
        return frame.with_columns(*added).select(columns)


def check_names(names: Sequence[str], file: str, mend: str) -> None:
    """See that no two columns have the same name.

    Raises:
        DataError: it lists the names that occur more than once.
    """
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"columns have the same name: {', '.join(map(repr, twice))}", file=file, mend=mend)
