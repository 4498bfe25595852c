"""Histories: to every row of an event log, what the same user had before.

`item_id by user_id where clicked` is a sequence of the last values of `item_id` in rows of the same `user_id`, at
strictly earlier times, with `clicked` true. Neither the row itself, nor rows of its very instant, nor later ones are
seen. Rows without a user have no history; rows without an item are in none.

The lists hold positions in the column's distinct texts, which come beside the frame (`RawChunk.texts`): a text for each
value would take longer than all else. User, item and time of every row are held in memory, about 50 bytes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from clickherd.data.config import DataConfig, History
from clickherd.data.hashing import hash_texts
from clickherd.data.part import ExtendedPart, Part, Piece
from clickherd.data.values import WHOLE_FLOAT, as_texts, read_instants, read_labels, without_nulls
from clickherd.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from clickherd.data.source import RawChunk

Integers = npt.NDArray[np.int64]
Positions = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]

_TIMES = "Write times as 2026-01-31 12:00:00 or as epoch numbers."


@dataclass(frozen=True)
class _Events:
    """The columns of a log's N rows that histories are made of, in their order."""

    times: Integers
    users: dict[str, npt.NDArray[np.uint64]]  # column → hashes
    counts: dict[History, Mask]  # whether the row's item is in later histories of its user
    items: dict[str, tuple[pl.Series, Positions]]  # column → its distinct texts, and each row's among them
    firsts: Integers  # the first row of each part, and the number of rows


@dataclass(frozen=True)
class Histories:
    """The history of each of N rows, as pool[begin:end], positions in `texts`."""

    begin: Integers
    end: Integers
    pool: Positions
    texts: pl.Series

    def lists(self, name: str, rows: Integers) -> pl.Series:
        """Those of the given rows as a column of lists, oldest value first."""
        begin, sizes = self.begin[rows], self.end[rows] - self.begin[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        values = self.pool[np.repeat(begin - offsets[:-1], sizes) + np.arange(offsets[-1])]
        return pl.Series(name, pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values)))


def make_histories(
    users: npt.NDArray[np.uint64], times: Integers, counts: Mask, max_length: int
) -> tuple[Integers, Integers, Integers]:
    """For N events: the rows that are in histories, sorted by user and time, and which of these each row has, as
    (order, begin, end): the history of row n is order[begin[n]:end[n]].
    """
    by_time = np.lexsort((times, users))  # stable: rows of one instant stay in their order
    users, times, counts = users[by_time], times[by_time], counts[by_time]
    index = np.arange(len(users))
    new_user = np.ones(len(users), np.bool_)
    new_user[1:] = users[1:] != users[:-1]
    new_instant = new_user.copy()
    new_instant[1:] |= times[1:] != times[:-1]
    before: Integers = np.cumsum(counts) - counts
    first_of_user = np.maximum.accumulate(np.where(new_user, index, 0))
    first_of_instant = np.maximum.accumulate(np.where(new_instant, index, 0))
    end: Integers = before[first_of_instant]
    begin = np.maximum(before[first_of_user], end - max_length)
    out = np.empty((2, len(users)), np.int64)
    out[:, by_time] = begin, end
    return by_time[counts], out[0], out[1]


class EventLog:
    """The rows of a source as histories need them, and those of earlier sources. Nothing is read before it is needed.

    Args:
        chunks: the source's rows, with the columns asked for.
        config: the histories, and how cells are read.
        earlier: logs of other sources, whose rows are in the histories as far as they are earlier.
    """

    def __init__(
        self, chunks: Callable[[list[str]], Iterator[RawChunk]], config: DataConfig, earlier: Sequence[EventLog] = ()
    ) -> None:
        self._chunks, self._config, self._earlier = chunks, config, tuple(earlier)
        self._made: dict[str, Histories] = {}

    def histories(self, name: str) -> Histories:
        """Those of all rows of the source."""
        if name not in self._made:
            self._made[name] = self._make(self._config.parsed_histories[name])
        return self._made[name]

    def lists(self, name: str, part: int, rows: Integers) -> pl.Series:
        """The histories of rows of the source's part of that number, as a column of lists."""
        return self.histories(name).lists(name, rows + self.events.firsts[part])

    def num_rows(self, part: int) -> int:
        """Rows of the source's part of that number."""
        return int(self.events.firsts[part + 1] - self.events.firsts[part])

    def _make(self, history: History) -> Histories:
        logs = [*(log.events for log in self._earlier), self.events]
        users = np.concatenate([log.users[history.by] for log in logs])
        times = np.concatenate([log.times for log in logs])
        counts = np.concatenate([log.counts[history] for log in logs])
        order, begin, end = make_histories(users, times, counts, self._config.max_length)
        own = slice(len(users) - len(self.events.times), None)
        texts, items = zip(*(log.items[history.item] for log in logs), strict=True)
        together, places = _distinct(pl.concat(texts))
        starts = np.cumsum([0, *map(len, texts)])
        every = np.concatenate([positions + start for positions, start in zip(items, starts, strict=False)])
        return Histories(begin[own], end[own], places[every[order]], together)

    @cached_property
    def events(self) -> _Events:
        """All rows, read once.

        Raises:
            DataError: a time or a mark that cannot be read, with file, column and row.
        """
        config, time = self._config, self._config.time_column
        assert time is not None
        histories = list(config.parsed_histories.values())
        columns = dict.fromkeys([time, *(name for history in histories for name in history if name)])
        firsts, times, rows = [], [], 0
        users: dict[str, list[npt.NDArray[np.uint64]]] = {history.by: [] for history in histories}
        items: dict[str, list[pl.Series]] = {history.item: [] for history in histories}
        counts: dict[History, list[Mask]] = {history: [] for history in histories}
        for chunk in self._chunks(list(columns)):
            if chunk.first_row == 0:
                firsts.append(rows)
            rows += chunk.height
            times.append(read_instants(chunk.frame[time], chunk, config.null_values, _TIMES))
            texts = {name: _texts(chunk.frame[name], config) for name in {**users, **items}}
            for name, hashes in users.items():
                hashes.append(hash_texts(texts[name]))
            for name, values in items.items():
                values.append(texts[name])
            for history in histories:
                known = texts[history.by].is_not_null() & texts[history.item].is_not_null()
                marked = _marks(history.where, chunk, config) if history.where else np.True_
                counts[history].append(known.to_numpy() & marked)
        return _Events(
            np.concatenate(times),
            {name: np.concatenate(parts) for name, parts in users.items()},
            {history: np.concatenate(parts) for history, parts in counts.items()},
            {name: _distinct(pl.concat(parts)) for name, parts in items.items()},
            np.array([*firsts, rows]),
        )


def _distinct(texts: pl.Series) -> tuple[pl.Series, Positions]:
    """The distinct texts, and the position of each text among them; that of a missing one is any."""
    table = texts.alias("text").to_frame()
    distinct = table.unique(maintain_order=True).drop_nulls().with_row_index("position")
    positions = table.join(distinct, on="text", how="left", maintain_order="left")["position"].fill_null(0)
    return distinct["text"], positions.cast(pl.UInt32).to_numpy()


def _texts(values: pl.Series, config: DataConfig) -> pl.Series:
    """Values as vocabularies hold them, null where missing."""
    texts = without_nulls(as_texts(values), config.null_values)
    return texts.str.replace(WHOLE_FLOAT, "$1")


def _marks(name: str, chunk: RawChunk, config: DataConfig) -> Mask:
    """Where the column, which is the label or like one, says yes; a missing value says no."""
    values = chunk.frame[name]
    values = without_nulls(values.str.strip_chars() if values.dtype == pl.String else values, config.null_values)
    known = (values.fill_nan(None) if values.dtype.is_float() else values).is_not_null()
    some = values.filter(known)
    if not len(some):
        return np.zeros(len(values), np.bool_)
    filled = values.to_frame().select(pl.when(known).then(pl.col(name)).otherwise(pl.lit(some[0]))).to_series()
    positive = config.positive if name == config.label else None
    mend = f"A history's `where` takes a column of 0 and 1{', or the label' if name != config.label else ''}."
    labels = read_labels(filled.alias(name), chunk, positive, config.null_values, mend)
    return np.asarray((labels == 1) & known.to_numpy(), np.bool_)


class HistoryPart(ExtendedPart):
    """A part with the histories of the settings as columns of lists; one that is there already is taken as it is."""

    def __init__(self, part: Part, config: DataConfig, log: EventLog, number: int) -> None:
        self._made = [name for name in config.histories if name not in part.dtypes]
        self._log, self._number = log, number
        super().__init__(part, self._made)
        self.dtypes |= dict.fromkeys(self._made, pl.List(pl.UInt32))
        _check(part, self._made, config)

    def pieces(self, columns: Sequence[str], rows: int, cells: Collection[str] = ()) -> Iterator[Piece]:
        """The part's rows with their histories."""
        made = [name for name in columns if name in self._made]
        if not made:
            yield from self._part.pieces(columns, rows, cells)
            return
        stored = self._stored(columns)
        for piece in self._part.pieces(stored, rows, [name for name in cells if name in columns]):
            height = len(next(iter(piece.cells.values()))) if piece.cells else piece.frame.height
            numbers = np.arange(piece.first_row, piece.first_row + height)
            lists = (self._log.lists(name, self._number, numbers) for name in made)
            frame = pl.DataFrame([*piece.frame.get_columns(), *lists])  # the piece's may have no columns, so no height
            frame = frame.select(name for name in columns if name not in piece.cells)
            texts = {name: self._log.histories(name).texts for name in made}
            yield replace(piece, frame=frame, texts={**piece.texts, **texts})

    def _stored(self, columns: Sequence[str]) -> list[str]:
        return [name for name in columns if name not in self._made] or [next(iter(self._part.dtypes))]

    def _add(self, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """A sample says what a column is like: histories of other rows than those sampled will do."""
        numbers = np.linspace(0, self._log.num_rows(self._number) - 1, frame.height).astype(np.int64)
        made = (self._log.lists(name, self._number, numbers) for name in columns if name in self._made)
        return frame.with_columns(made).select(columns)


def _check(part: Part, made: Sequence[str], config: DataConfig) -> None:
    """See that the columns are there, and the time is known.

    Raises:
        ConfigError: it lists the columns that there are.
    """
    for name in made:
        history = config.parsed_histories[name]
        if config.time_column is None:
            raise ConfigError(
                f"the history {name!r} needs to know the time of each row",
                mend=f"Name its column with --time-column. {did_you_mean('timestamp', part.dtypes)}",
            )
        for column in (*history, config.time_column):
            if column is None:
                continue
            if column not in part.dtypes:
                raise ConfigError(
                    f"the history {name!r} needs the column {column!r}, which is not there",
                    file=part.name,
                    mend=f"Add it, or give the histories as lists in a column {name!r}. "
                    f"{did_you_mean(column, part.dtypes)}",
                )
            if isinstance(part.dtypes[column], pl.List | pl.Array):
                raise ConfigError(
                    f"the history {name!r} is made of one value a row, but {column!r} holds lists", file=part.name
                )
