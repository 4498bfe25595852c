"""`clickherd select --method gates`: the columns that are worth having, by gates learned with the model.

FOLDER/
  select.json       the result, as `--json` prints it
  report.md         the table, by column
  features.yaml     the columns whose gates are open, for `clickherd train --features`
  under-way/        the checkpoint of a search that was interrupted, by its settings
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clickherd import checkpoint
from clickherd.config import Config
from clickherd.data.features import FeatureSet
from clickherd.data.prepare import quiet
from clickherd.errors import ConfigError
from clickherd.observer import Observer
from clickherd.runs import Announce, ready
from clickherd.selection.gating import FieldGatedTable, FieldGatesConfig, FieldGatesLearner
from clickherd.selection.search import FEWEST, check_search, clear, search, searched

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

    Kept are the columns of which at least half of the gates are open, or the `keep` best by the mean of σ(θ).

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
    scores, shares = table.gates.sigmoid().mean(dim=0).tolist(), table.open_fields().tolist()
    fields = [
        {"name": field.name, "score": score, "open": share, "values": field.size, "kept": share >= 0.5}
        for field, score, share in zip(table.fields, scores, shares, strict=True)
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
    FeatureSet.of(result["kept"], config.data).save(folder / "features.yaml", title)
    checkpoint.write_text(folder / "select.json", json.dumps(result, indent=1) + "\n")
    write_fields(folder, result)
    for left in ("select.svg", "values.parquet"):  # of an earlier result by another method
        (folder / left).unlink(missing_ok=True)
