"""What every kind of input offers: columns with types, a digest, pieces of rows in order, and a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one part."""

    frame: pl.DataFrame
    first_row: int  # within the part, from 0
    first_line: int | None = None  # of a text file whose rows are one line each, from 1


class Part(ABC):
    """One file or frame of a source."""

    name: str
    dtypes: dict[str, pl.DataType]

    @abstractmethod
    def digest(self) -> str:
        """A hash of the content that does not depend on where it lies."""

    @abstractmethod
    def pieces(self, columns: Sequence[str], rows: int) -> Iterator[Piece]:
        """All rows in order, at most `rows` at a time, with the given columns in the given order."""

    @abstractmethod
    def sample(self, columns: Sequence[str], rows: int) -> pl.DataFrame:
        """At most `rows` rows, at little cost."""
