"""`clickherd select --method gates`: the columns that are worth having, by gates learned beside a model.

FOLDER/
  select.json       the result, as `--json` prints it
  report.md         the table, by column
  features.yaml     the columns whose gates are open, for `clickherd train --features`
  under-way/        the checkpoint of a search that was interrupted, by its settings
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clickherd.config import Config
from clickherd.data.features import FeatureSet
from clickherd.data.prepare import quiet
from clickherd.errors import ConfigError
from clickherd.observer import Observer
from clickherd.runs import Announce, ready
from clickherd.selection.gating import FieldGatedTable, FieldGatesConfig, FieldGatesLearner
from clickherd.selection.search import FEWEST, check_search, clear, search, searched, write

EPOCHS = FEWEST  # of the search: later on a model may learn rows by heart, and no column is worth as much


def select_fields(
    config: Config,
    settings: FieldGatesConfig,
    folder: Path,
    *,
    keep: int | None = None,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Search the columns to keep and leave the result in `folder`; returns the content of select.json.

    Kept are the columns whose gates are open at least as often as closed, or the `keep` that are most often open.

    Raises:
        UserError: settings or data are at fault, or no column is worth its penalty.
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    check_search(config, folder)
    config, prepared = ready(config, announce)
    gated = [field.name for field in prepared.encoder.layout.fields if field.target is None]
    if not gated:
        raise ConfigError("no column has an embedding", mend="Look at --role, or use --method outrank.")
    if prepared.valid is None:
        raise ConfigError(
            "gates over columns learn from validation rows, and there are none",
            mend="Name some with --valid, or set data.valid_fraction.",
        )
    learner_of = partial(
        FieldGatesLearner, settings=settings, num_rows=len(prepared.train), valid=prepared.valid, gated=gated
    )
    model, progress = search(config, prepared, folder, settings, learner_of, announce, observer, should_stop)
    table = model.table
    assert isinstance(table, FieldGatedTable)
    fields = [
        {"name": field.name, "score": score, "values": field.size, "kept": score >= 0.5}
        for field, score in zip(table.fields, table.gates.sigmoid().tolist(), strict=True)
    ]
    fields.sort(key=lambda field: -field["score"])
    if keep is not None:
        for place, field in enumerate(fields):
            field["kept"] = place < keep
    result: dict[str, Any] = {
        "method": "gates",
        **searched(config, prepared, settings, progress, folder),
        "features": fields,
        "kept": [field["name"] for field in fields if field["kept"]] + list(prepared.encoder.layout.numeric),
    }
    if not result["kept"]:
        raise ConfigError("no column is worth its penalty", mend="Lower --penalty, or give --keep.")
    _write(result, config, folder)
    clear(config, settings, folder)
    return result


def _write(result: dict[str, Any], config: Config, folder: Path) -> None:
    from clickherd.report.selection import write_fields

    title = f"the columns worth having to a {config.model.name} of {config.data.label}, best first"
    write(folder, result, FeatureSet.of(result["kept"], config.data), title)
    write_fields(folder, result)
