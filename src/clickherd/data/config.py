"""The settings of the data: how raw rows are read, and what becomes of each column."""

from __future__ import annotations

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, field_validator

from clickherd.settings import Settings

Role = Literal["label", "numeric", "categorical", "multi", "sequence", "timestamp", "ignored"]
NumericEncoding = Literal["auto", "log_square", "quantile", "minmax", "standard"]


_HISTORY = re.compile(r"\s*(.+?)\s+by\s+(.+?)(?:\s+where\s+(.+?))?\s*")


class History(NamedTuple):
    """`ITEM by USER where CLICKED`: the items of the same user's earlier rows, or of those that were clicked."""

    item: str
    by: str
    where: str | None

    def __str__(self) -> str:
        return f"{self.item} by {self.by}" + (f" where {self.where}" if self.where else "")

    @classmethod
    def parse(cls, text: str) -> History:
        """Raises ValueError on anything else."""
        found = _HISTORY.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no history: write ITEM by USER, or ITEM by USER where CLICKED")
        return cls(*found.groups())


def _as_text(value: object) -> object:
    """YAML reads `positive: 1` as a number; labels are compared as text."""
    if isinstance(value, bool):
        raise ValueError("YAML reads yes, no, on and off as true and false: put the value in quotes")
    return str(value) if isinstance(value, int | float) else value


class DataConfig(Settings):
    """How raw rows are read, which role each column plays, and how the rows are split."""

    label: str = Field("label", description="the label's column")
    positive: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="the value that counts as a click when labels are not 0 and 1"
    )
    format: Literal["auto", "csv", "tsv", "parquet", "arrow", "criteo"] = Field(
        "auto",
        description="auto goes by the file's name; criteo names the 40 columns of Criteo's headerless TSV",
    )
    separator: str | None = Field(None, description="a CSV's separator; found by itself when not given")
    header: bool | None = Field(None, description="whether a CSV's first line names the columns; found when not given")
    null_values: tuple[str, ...] = Field(
        ("", "NULL", "null", "\\N", "NA", "N/A"), description="texts that mean missing"
    )
    roles: dict[str, Role] = Field({}, description="column → role, where the inferred one is not wanted")
    features: tuple[str, ...] = Field(
        (), description="the columns to learn from, crosses and histories included; all that can be when empty"
    )
    kept_values: str | None = Field(
        None, description="file of the values that keep an id of their own, see `clickherd select --method optfs`"
    )
    min_count: int = Field(2, ge=1, description="values seen less often in the training rows become 'unknown'")
    crosses: tuple[tuple[str, ...], ...] = Field(
        (), description="columns whose combinations of values become a column, e.g. [[user, item]]"
    )
    sequences: dict[str, str] = Field(
        {}, description="list column → column whose values it lists, oldest first, e.g. {hist_items: item_id}"
    )
    histories: tuple[str, ...] = Field(
        (),
        description="sequences made of the log itself: 'item_id by user_id' is what the same user had in earlier rows "
        "(by time_column), 'item_id by user_id where clicked' what of it was clicked",
    )
    max_length: int = Field(50, ge=1, description="values of a sequence that are kept: the last ones")
    hash_buckets: dict[str, int] = Field({}, description="column → number of buckets, instead of a vocabulary")
    numeric: NumericEncoding = Field(
        "auto",
        description="log_square: buckets ⌊(ln x)²⌋; quantile: equal-frequency buckets; minmax and standard: real "
        "values. auto is log_square for columns of whole numbers (counts) and quantile for fractions",
    )
    numeric_columns: dict[str, NumericEncoding] = Field({}, description="column → encoding, where it differs")
    quantile_buckets: int = Field(50, ge=2, le=10_000)
    multi_separator: str = Field("|", min_length=1, description="what parts the values of a multi-valued column")
    group: str | None = Field(None, description="column by which GAUC groups rows; a user id is found by itself")
    split: Literal["random", "time"] = "random"
    time_column: str | None = Field(None, description="orders the rows when split=time; a timestamp is found by itself")
    valid_fraction: float = Field(
        0.1, ge=0, lt=1, description="used when no validation file is given; 0: no validation, the last weights count"
    )
    test_fraction: float = Field(0.1, ge=0, lt=1, description="used when neither a validation nor a test file is given")

    @property
    def parsed_histories(self) -> dict[str, History]:
        """Name of the column → history."""
        return {text: History.parse(text) for text in self.histories}

    @property
    def targets(self) -> dict[str, str]:
        """Sequence → the column whose values it lists; histories are sequences."""
        return {**self.sequences, **{name: history.item for name, history in self.parsed_histories.items()}}

    @field_validator("histories")
    @classmethod
    def _canonical(cls, histories: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(str(History.parse(text)) for text in histories)
        if len(set(names)) < len(names):
            raise ValueError("the same history stands there twice")
        return names

    @field_validator("crosses")
    @classmethod
    def _distinct(cls, crosses: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        for columns in crosses:
            if len(columns) < 2 or len(set(columns)) < len(columns):
                raise ValueError(f"a cross combines two or more different columns, not {list(columns)}")
        if len(set(crosses)) < len(crosses):
            raise ValueError("the same cross stands there twice")
        return crosses
