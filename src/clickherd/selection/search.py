"""What the searches with gates have in common: a model is learned with its gates to the last epoch, and can be cut off.

FOLDER/
  under-way/        the checkpoint of a search that was interrupted, by its settings
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clickherd import checkpoint, machine
from clickherd.config import Config
from clickherd.data.features import FeatureSet
from clickherd.data.prepare import Prepared
from clickherd.errors import ConfigError
from clickherd.network import ClickModel
from clickherd.observer import Observer
from clickherd.runs import Announce, check_folder, make_folder, settings_key, train_prepared
from clickherd.selection.optfs import GateSettings
from clickherd.train import LearnerOf
from clickherd.training_state import Progress

FEWEST = 3  # epochs: in the first no gate moves, in the last those of OptFS are hard


def check_search(config: Config, folder: Path) -> None:
    """See that there is room for a search with gates, before any row is read.

    Raises:
        UserError: the folder holds other things, or settings do not go with gates.
    """
    check_folder(folder, ("select.json", "under-way"))
    if config.train.epochs < FEWEST:
        raise ConfigError(f"a search takes {FEWEST} epochs at least", mend="Give more with --epochs.")
    if config.compression:
        raise ConfigError("a search is for a whole table", mend="Leave the settings of compression out.")


def search(
    config: Config,
    prepared: Prepared,
    folder: Path,
    settings: GateSettings,
    learner_of: LearnerOf,
    announce: Announce,
    observer: Observer | None,
    should_stop: Callable[[], bool],
) -> tuple[ClickModel, Progress]:
    """Learn a model with gates to the last epoch; its checkpoint is under `folder` until `clear` takes it away.

    Raises:
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    to_the_end = searching(config)
    make_folder(folder)
    under_way = folder / "under-way" / search_key(to_the_end, settings)
    return train_prepared(to_the_end, prepared, under_way, announce, observer, should_stop, learner_of)


def clear(config: Config, settings: GateSettings, folder: Path) -> None:
    """Take the checkpoint of a finished search away."""
    under_way = folder / "under-way" / search_key(searching(config), settings)
    shutil.rmtree(under_way)
    if not any(under_way.parent.iterdir()):  # no other search was cut off here
        under_way.parent.rmdir()


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


def write(folder: Path, result: dict[str, Any], features: FeatureSet, title: str) -> None:
    """Write select.json and features.yaml, in the place of an earlier result's."""
    features.save(folder / "features.yaml", title)
    checkpoint.write_text(folder / "select.json", json.dumps(result, indent=1) + "\n")
    for left in ("select.svg", *(() if features.values else ("values.parquet",))):
        (folder / left).unlink(missing_ok=True)


def search_key(config: Config, settings: GateSettings) -> str:
    """What a search is known by."""
    of_search = settings.model_dump_json(exclude=set(settings.after_search))
    return hashlib.sha256(f"{settings_key(config)} {type(settings).__name__} {of_search}".encode()).hexdigest()[:16]


def searching(config: Config) -> Config:
    """The settings of the search: to the last epoch, where gates are hard, and with the weights as they are there."""
    train = config.train.model_copy(update={"patience": None, "calibration": "none"})
    optim = config.optim.model_copy(update={"averaging": None})
    return config.model_copy(update={"train": train, "optim": optim})
