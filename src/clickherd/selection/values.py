"""`clickherd select --method optfs`: the values that are worth a row of the embedding table.

FOLDER/
  select.json       the result, as `--json` prints it
  report.md         the table, by column
  features.yaml     the columns of which any value is kept, for `clickherd train --features`
  values.parquet    the values that are kept
  under-way/        the checkpoint of a search that was interrupted, by its settings
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd import checkpoint, machine
from clickherd.config import Config
from clickherd.data.features import FeatureSet
from clickherd.data.kept import kind_of, save_kept, values_of
from clickherd.data.prepare import Prepared, quiet
from clickherd.data.store import FIRST_VALUE
from clickherd.errors import ConfigError
from clickherd.observer import Observer
from clickherd.runs import Announce, check_folder, make_folder, ready, settings_key, train_prepared
from clickherd.selection.optfs import GatedLearner, GatedTable, GateSettings, OptFSConfig
from clickherd.train import LearnerOf
from clickherd.training_state import Progress

EPOCHS, FEWEST = 15, 3  # epochs of the paper's search; with fewer than three no gate moves before it is hard


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
    layout, embedded = prepared.encoder.layout, prepared.encoder.embedded
    gated = {f.name for f in layout.fields if f.target is None and kind_of(embedded[f.name]) is not None}
    if not gated:
        raise ConfigError(
            "no column has values that could be left out: all are real-valued, hashed or cut by quantiles",
            mend="Look at --role and data.numeric, or use --method outrank.",
        )
    learner_of = partial(GatedLearner, settings=settings, num_rows=len(prepared.train), gated=gated)
    table, progress = search(config, prepared, folder, settings, learner_of, announce, observer, should_stop)
    kept = table.kept.cpu().numpy()
    fields = [_field(prepared, place, kept, gated) for place in range(len(layout.fields))]
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
    return result


def check_search(config: Config, folder: Path) -> None:
    """See that there is room for a search with gates, before any row is read.

    Raises:
        UserError: the folder holds other things, or settings do not go with gates.
    """
    check_folder(folder, ("select.json", "under-way"))
    if config.train.epochs < FEWEST:
        raise ConfigError(f"a search with gates takes {FEWEST} epochs at least", mend="Give more with --epochs.")
    if config.compression:
        raise ConfigError("gates are for a whole table", mend="Leave the settings of compression out.")


def search(
    config: Config,
    prepared: Prepared,
    folder: Path,
    settings: GateSettings,
    learner_of: LearnerOf,
    announce: Announce,
    observer: Observer | None,
    should_stop: Callable[[], bool],
) -> tuple[GatedTable, Progress]:
    """Learn a model with gates to the last epoch; its checkpoint is under `folder` until then.

    Raises:
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    to_the_end = searching(config)
    make_folder(folder)
    under_way = folder / "under-way" / search_key(to_the_end, settings)
    model, progress = train_prepared(to_the_end, prepared, under_way, announce, observer, should_stop, learner_of)
    shutil.rmtree(under_way)
    if not any(under_way.parent.iterdir()):  # no other search was cut off here
        under_way.parent.rmdir()
    assert isinstance(model.table, GatedTable)
    return model.table, progress


def searched(
    config: Config, prepared: Prepared, settings: GateSettings, progress: Progress, folder: Path
) -> dict[str, Any]:
    """What the results of all searches with gates say of the search."""
    return {
        "rows": {"train": len(prepared.train)},
        "model": config.model.name,
        "settings": settings.model_dump(),
        "epochs": progress.epoch,
        "valid": progress.history[-1]["valid"],
        "seconds": {"encode": round(prepared.seconds, 3), "select": round(progress.seconds, 3)},
        "machine": f"{machine.describe()}, threads: {config.train.threads}, {config.train.device}",
        "out": str(folder),
    }


def search_key(config: Config, settings: GateSettings) -> str:
    """What a search is known by."""
    return hashlib.sha256(
        f"{settings_key(config)} {type(settings).__name__} {settings.model_dump_json()}".encode()
    ).hexdigest()[:16]


def searching(config: Config) -> Config:
    """The settings of the search: to the last epoch, where gates are hard, and with the weights as they are there."""
    train = config.train.model_copy(update={"patience": None, "calibration": "none"})
    optim = config.optim.model_copy(update={"averaging": None})
    return config.model_copy(update={"train": train, "optim": optim})


def _field(prepared: Prepared, position: int, kept: npt.NDArray[np.bool_], gated: Collection[str]) -> dict[str, Any]:
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

    values: dict[str, tuple[str, pl.Series]] = {}
    for field in prepared.encoder.layout.fields:
        encoding = prepared.encoder.embedded[field.name]
        own, kind = values_of(encoding), kind_of(encoding)
        if own is not None and kind is not None and field.target is None:
            stays = pl.Series(kept[field.offset + FIRST_VALUE : field.offset + field.size])
            values[field.name] = kind, own.filter(stays)
    save_kept(folder / "values.parquet", values)
    FeatureSet.of(result["kept"], config.data, "values.parquet").save(
        folder / "features.yaml", f"what is worth its rows to a {config.model.name} of {config.data.label}"
    )
    checkpoint.write_text(folder / "select.json", json.dumps(result, indent=1) + "\n")
    write_values(folder, result)
    (folder / "select.svg").unlink(missing_ok=True)  # of an earlier ranking
