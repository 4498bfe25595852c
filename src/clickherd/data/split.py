"""Which split each row belongs to, decided as the rows stream by: nothing is shuffled or held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from clickherd.data.config import DataConfig
from clickherd.data.hashing import hash_rows
from clickherd.data.numeric import SampleCounter
from clickherd.data.schema import nearly_times
from clickherd.data.source import RawChunk, Source
from clickherd.data.values import read_instants
from clickherd.errors import DataError

TRAIN, VALID, TEST = 0, 1, 2
NAMES = ("train", "valid", "test")

Splits = npt.NDArray[np.uint8]

_TIME_SAMPLE = 1 << 20  # times that the cuts are taken from: exact up to so many rows


@dataclass(frozen=True)
class RandomSplit:
    """By a hash of the seed and the row's number: the same rows in every run, whatever the chunks."""

    valid_fraction: float
    test_fraction: float
    seed: int
    column: None = None  # that the decision rests on, besides the row's number

    def assign(self, chunk: RawChunk, first: int) -> Splits:
        """TRAIN, VALID or TEST for each row, shape (N,). `first` is the number of the chunk's first row, from 0."""
        uniform = (hash_rows(first, chunk.height, self.seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        test, valid = uniform < self.test_fraction, uniform < self.test_fraction + self.valid_fraction
        return np.where(test, TEST, np.where(valid, VALID, TRAIN)).astype(np.uint8)


@dataclass(frozen=True)
class TimeSplit:
    """The latest rows test, those before them validate. Rows of one instant stay together."""

    column: str
    valid_from: float
    test_from: float
    null_values: tuple[str, ...]

    def assign(self, chunk: RawChunk, first: int) -> Splits:
        """TRAIN, VALID or TEST for each row, shape (N,)."""
        del first
        times = read_instants(chunk.frame[self.column], chunk, self.null_values)
        return np.where(times >= self.test_from, TEST, np.where(times >= self.valid_from, VALID, TRAIN)).astype(
            np.uint8
        )


Splitter: TypeAlias = RandomSplit | TimeSplit


def plan_split(
    source: Source, config: DataConfig, time_column: str | None, *, valid_given: bool, test_given: bool, seed: int
) -> Splitter | None:
    """How the training source is divided; None when all its rows train.

    A given validation file leaves everything to training (so does `valid_fraction` 0 without test rows); a given test
    file alone has the validation rows taken from the source.

    Raises:
        DataError: split=time without a time column, or with times that cannot be read.
    """
    valid = 0.0 if valid_given else config.valid_fraction
    test = 0.0 if valid_given or test_given else config.test_fraction
    if valid + test == 0:
        return None
    if valid + test >= 1:
        raise DataError(
            f"valid_fraction {valid} and test_fraction {test} leave no training rows", mend="Make them smaller."
        )
    if config.split == "random":
        return RandomSplit(valid, test, seed)
    if time_column is None:
        raise _no_times(source, config)
    return _time_split(source, config, time_column, valid, test)


def _no_times(source: Source, config: DataConfig) -> DataError:
    needs = "split=time needs a column that tells the time"
    for name, odd in nearly_times(source, config).items():
        return DataError(
            f"{needs}; almost all values of this one are times, but {odd}",
            file=source.name,
            column=name,
            mend=f"Mend the rows, or leave them out; --time-column {name} tells where the first one is.",
        )
    return DataError(f"{needs}, and none was found", file=source.name, mend="Name it with --time-column COLUMN.")


def _time_split(source: Source, config: DataConfig, column: str, valid: float, test: float) -> TimeSplit:
    sampler, first = SampleCounter(_TIME_SAMPLE), 0
    for chunk in source.chunks([column]):
        times = read_instants(chunk.frame[column], chunk, config.null_values)
        sampler.add(times.astype(np.float64), first)
        first += len(times)
    sample = np.sort(sampler.sample())
    if not len(sample):
        raise DataError("there are no rows", file=source.name, mend="Check the file.")

    def cut(share: float) -> float:
        """The instant from which on about `share` of the rows lie; beyond all of them for 0."""
        position = len(sample) - round(share * len(sample))
        return float(sample[position]) if position < len(sample) else np.inf

    return TimeSplit(column, cut(valid + test), cut(test), config.null_values)
