"""`clickherd select --method optfs`: the values that are worth a row of the embedding table.

FOLDER/
  select.json       the result, as `--json` prints it
  report.md         the table, by column
  features.yaml     the columns of which any value is kept, for `clickherd train --features`
  values.parquet    the values that are kept
  under-way/        the checkpoint of a search that was interrupted, by its settings
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.config import Config
from clickherd.data.features import FeatureSet
from clickherd.data.kept import kind_of, save_kept, values_of
from clickherd.data.prepare import Prepared, quiet
from clickherd.data.store import FIRST_VALUE
from clickherd.errors import ConfigError
from clickherd.observer import Observer
from clickherd.runs import Announce, ready
from clickherd.selection.optfs import GatedLearner, GatedTable, OptFSConfig
from clickherd.selection.search import check_search, clear, search, searched, write

EPOCHS = 15  # of the paper's search


def select_values(
    config: Config,
    settings: OptFSConfig,
    folder: Path,
    *,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Search the values to keep and leave the result in `folder`; returns the content of select.json.

    Raises:
        UserError: settings or data are at fault, or no value is worth its row.
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    check_search(config, folder)
    config, prepared = ready(config, announce)
    gated = fields_with_values(prepared)
    learner_of = partial(GatedLearner, settings=settings, num_rows=len(prepared.train), gated=gated)
    model, progress = search(config, prepared, folder, settings, learner_of, announce, observer, should_stop)
    assert isinstance(model.table, GatedTable)
    kept = model.table.kept.cpu().numpy()
    fields = [kept_of_field(prepared, place, kept, gated) for place in range(len(prepared.encoder.layout.fields))]
    fields.sort(key=lambda field: -field["score"])
    number, of = (sum(field[name] for field in fields if field["gated"]) for name in ("kept_values", "values"))
    result: dict[str, Any] = {
        "method": "optfs",
        **searched(config, prepared, settings, progress, folder),
        "values": of,
        "kept_values": number,
        "kept_share": number / max(of, 1),
        "features": fields,
        "kept": [field["name"] for field in fields if field["kept"]] + list(prepared.encoder.layout.numeric),
    }
    if not result["kept"]:
        raise ConfigError("no value is worth its row", mend="Lower --penalty.")
    _write(result, config, prepared, kept, folder)
    clear(config, settings, folder)
    return result


def fields_with_values(prepared: Prepared) -> set[str]:
    """The fields of which values can be left out.

    Raises:
        ConfigError: there is none.
    """
    embedded = prepared.encoder.embedded
    found = {
        field.name
        for field in prepared.encoder.layout.fields
        if field.target is None and kind_of(embedded[field.name]) is not None
    }
    if not found:
        raise ConfigError(
            "no column has values that could be left out: all are real-valued, hashed or cut by quantiles",
            mend="Look at --role and data.numeric, or use --method outrank.",
        )
    return found


def kept_of_field(
    prepared: Prepared, position: int, kept: npt.NDArray[np.bool_], gated: Collection[str]
) -> dict[str, Any]:
    """What is kept of a field; its score is the share of its occurrences in the training rows that is."""
    field = prepared.encoder.layout.fields[position]
    counts = prepared.train.occurrences(position)[FIRST_VALUE:]
    own = kept[field.offset + FIRST_VALUE : field.offset + field.size]
    return {
        "name": field.name,
        "score": float(counts[own].sum() / max(counts.sum(), 1)),
        "values": len(own),
        "kept_values": int(own.sum()),
        "gated": field.name in gated,
        "kept": bool(own.any()),
    }


def _write(
    result: dict[str, Any], config: Config, prepared: Prepared, kept: npt.NDArray[np.bool_], folder: Path
) -> None:
    from clickherd.report.selection import write_values

    save_values(folder / "values.parquet", prepared, kept)
    features = FeatureSet.of(result["kept"], config.data, "values.parquet")
    write(folder, result, features, f"what is worth its rows to a {config.model.name} of {config.data.label}")
    write_values(folder, result)


def save_values(path: Path, prepared: Prepared, kept: npt.NDArray[np.bool_]) -> None:
    """Write the values that keep an id of their own; `kept` says so of every id of the table."""
    values: dict[str, tuple[str, pl.Series]] = {}
    for field in prepared.encoder.layout.fields:
        encoding = prepared.encoder.embedded[field.name]
        own, kind = values_of(encoding), kind_of(encoding)
        if own is not None and kind is not None and field.target is None:
            stays = pl.Series(kept[field.offset + FIRST_VALUE : field.offset + field.size])
            values[field.name] = kind, own.filter(stays)
    save_kept(path, values)
