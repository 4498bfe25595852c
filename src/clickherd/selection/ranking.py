"""`clickherd select` by counting: every column scored, its oddities told, the columns worth training on written down.

    FOLDER/
      select.json      the result, as `--json` prints it
      report.md        the table, with select.svg
      features.yaml    the columns that are kept, for `clickherd train --features`

Only the training rows are looked at: what is chosen on the others could no longer be judged by them.
"""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd import checkpoint, machine
from clickherd.config import Config
from clickherd.data.features import FeatureSet
from clickherd.data.fit import split_chunks
from clickherd.data.names import value_name
from clickherd.data.parallel import in_parallel
from clickherd.data.prepare import Prepared, quiet
from clickherd.data.source import open_source
from clickherd.data.split import TRAIN, plan_split
from clickherd.data.values import read_instants
from clickherd.errors import ConfigError, DataError
from clickherd.runs import Announce, check_folder, make_folder, prepare_sources
from clickherd.runtime import use_threads
from clickherd.selection.columns import local_ids, tallies
from clickherd.selection.contingency import Bits, Marks, entropy
from clickherd.selection.oddities import Oddities, oddities
from clickherd.selection.outrank import Pair, Relevance, pair, rank_3mr, relevance, single

ABOVE_NOISE, PAIR_ABOVE_NOISE = 3.0, 5.0  # standard deviations from which on a feature, one of many pairs, is kept


@dataclass(frozen=True)
class Ranking:
    """What is asked for."""

    keep: int | None = None  # features at most; None: all that are above the noise
    paired: int = 64  # features, the best by themselves, of which every two are looked at together
    pair_rows: int = 200_000  # that pairs are counted on, at most


def rank_features(config: Config, ranking: Ranking, folder: Path, *, announce: Announce = quiet) -> dict[str, Any]:
    """Score the columns on the training rows and leave the result in `folder`; returns the content of select.json.

    Raises:
        UserError: settings or data are at fault, or the folder holds other things.
    """
    check_folder(folder, ("select.json",))
    threads = use_threads(config.train.threads)
    prepared = prepare_sources(config, announce)
    began = time.perf_counter()
    late, order = later_half(config, prepared, announce)
    marks = Marks.of(np.asarray(prepared.train.labels).astype(np.uint8), late)
    found: dict[str, tuple[Relevance, Oddities]] = {}
    for name, counts_V, sums_V4 in tallies(prepared.train, marks):
        told = oddities(
            counts_V, sums_V4, partial(value_name, prepared.encoder.embedded.get(name)), by_time=order is not None
        )
        found[name] = relevance(counts_V, sums_V4), told
    best = sorted(found, key=lambda name: -found[name][0].score)
    announce(f"scored {len(best)} columns of {len(prepared.train):,} rows in {time.perf_counter() - began:.1f} s")
    pairs = find_pairs(prepared, marks, best[: ranking.paired], ranking.pair_rows)
    if pairs:
        announce(f"looked at {len(pairs):,} pairs of columns")
    kept = _kept(best, found, pairs, ranking)
    by_3mr = rank_3mr({name: found[name][0].score for name in best}, pairs)
    place = {name: number for number, name in enumerate(by_3mr, start=1)}
    clicks = int(marks.clicks.sum())
    label_entropy = entropy(np.array([clicks, len(late) - clicks]))
    rows = {"train": len(prepared.train)} | {
        name: len(store) for name, store in (("valid", prepared.valid), ("test", prepared.test)) if store is not None
    }
    result: dict[str, Any] = {
        "method": "outrank",
        "rows": rows,
        "label_entropy": label_entropy,
        "order": order,
        "features": [_record(name, *found[name], label_entropy, place, name in kept) for name in best],
        "pairs": [_pair_record(one) for one in pairs],
        "kept": [name for name in best if name in kept],
        "seconds": {"encode": round(prepared.seconds, 3), "select": round(time.perf_counter() - began, 3)},
        "machine": f"{machine.describe()}, {threads} threads",
        "out": str(folder),
    }
    _write(result, config, folder)
    if not kept:
        raise ConfigError(
            f"no column tells more about the label than chance would have it; see {folder / 'report.md'}",
            mend="Check the label and the columns' roles, give more rows, or name how many to keep with --keep.",
        )
    return result


def later_half(config: Config, prepared: Prepared, announce: Announce) -> tuple[Bits, str | None]:
    """Whether each training row is of the later half, and the time column that says so.

    Rows of one instant stay together. By the rows' places, and None, where there is no such column, where it holds
    values that are no times, or one instant only.
    """
    rows, column = len(prepared.train), prepared.encoder.schema.time_column
    if column is not None:
        try:
            times = _times(config, column)
        except DataError as error:
            announce(f"the later half is told by the order of the rows, not by {column}: {error.what}")
        else:
            assert len(times) == rows
            middle = np.partition(times, rows // 2)[rows // 2]
            late = min((times >= middle, times > middle), key=lambda found: abs(int(found.sum()) - rows / 2))
            if 0 < late.sum() < rows:
                return late.astype(np.uint8), column
            announce(f"the later half is told by the order of the rows: all have the same {column}")
    return (np.arange(rows) >= rows // 2).astype(np.uint8), None


def _times(config: Config, column: str) -> npt.NDArray[np.int64]:
    """Of the training rows, in their order.

    Raises:
        DataError: a value that is no time.
    """
    given = config.source
    source = open_source(list(given.data), config.data)
    splitter = plan_split(
        source,
        config.data,
        column,
        valid_given=bool(given.valid),
        test_given=bool(given.test),
        seed=config.train.seed,
    )
    parts = []
    for chunk, _, splits in split_chunks(source, [column], splitter):
        times = read_instants(chunk.frame[column], chunk, config.data.null_values)
        parts.append(times if splits is None else times[splits == TRAIN])
    return np.concatenate(parts)


def find_pairs(prepared: Prepared, marks: Marks, names: list[str], most: int) -> list[Pair]:
    """Every two of the named columns that have one value a row, the largest gain first."""
    store = prepared.train
    rows = np.arange(len(store))
    if len(store) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(store), most, replace=False))
    part = marks.take(rows)
    singles = in_parallel([partial(single, name, ids, part) for name, ids in local_ids(store, rows) if name in names])
    found = in_parallel([partial(pair, a, b, part) for a, b in itertools.combinations(singles, 2)])
    return sorted(found, key=lambda one: -one.gain)


def _kept(
    best: list[str], found: dict[str, tuple[Relevance, Oddities]], pairs: list[Pair], ranking: Ranking
) -> set[str]:
    """The columns that tell something, by themselves or together with another one."""
    if ranking.keep is not None:
        return set(best[: ranking.keep])
    kept = {name for name in best if found[name][0].above_noise > ABOVE_NOISE}
    for one in pairs:
        if one.gain_above_noise > PAIR_ABOVE_NOISE:
            kept |= {one.first, one.second}
    return kept


def _record(
    name: str, told: Relevance, odd: Oddities, label_entropy: float, place: dict[str, int], kept: bool
) -> dict[str, Any]:
    return {
        "name": name,
        "score": told.score,
        "share": told.score / label_entropy,
        "above_noise": told.above_noise,
        "mutual_information": told.information,
        "rank_3mr": place.get(name),
        "kept": kept,
        **asdict(odd),
    }


def _pair_record(one: Pair) -> dict[str, Any]:
    return {
        "features": [one.first, one.second],
        "score": one.relation.score,
        "gain": one.gain,
        "gain_above_noise": one.gain_above_noise,
        "redundancy": one.redundancy,
    }


def _write(result: dict[str, Any], config: Config, folder: Path) -> None:
    from clickherd.report.selection import write_selection

    make_folder(folder)
    checkpoint.write_text(folder / "select.json", json.dumps(result, indent=1) + "\n")
    features = folder / "features.yaml"
    if result["kept"]:
        title = f"the columns that tell something about {config.data.label}, best first"
        FeatureSet.of(result["kept"], config.data).save(features, title)
    else:
        features.unlink(missing_ok=True)  # of an earlier result, and so are values
    (folder / "values.parquet").unlink(missing_ok=True)
    write_selection(folder, result)
