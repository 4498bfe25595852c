"""`clickherd select --method optembed`: the values that are worth a row, and how many numbers a row of each field is.

FOLDER/
  select.json       the result, as `--json` prints it
  report.md         the table, by column
  features.yaml     columns, values and numbers a row, for `clickherd train --features`
  values.parquet    the values that are kept
  under-way/        the checkpoint of a search that was interrupted, by its settings
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd import metrics
from clickherd.compact.decoder import DecodedModel
from clickherd.config import Config
from clickherd.data.features import Dims, FeatureSet
from clickherd.data.prepare import Prepared, quiet
from clickherd.data.store import FIRST_VALUE, Batch
from clickherd.errors import ConfigError, Interrupted
from clickherd.network import ClickModel
from clickherd.observer import Observer
from clickherd.runs import Announce, check_validation, ready
from clickherd.selection.evolution import Lengths, Space, evolve
from clickherd.selection.optembed import OptEmbedConfig, OptEmbedLearner, Prefixes, ThresholdTable
from clickherd.selection.search import FEWEST, check_search, clear, search, searched, write
from clickherd.selection.values import fields_with_values, kept_of_field, save_values

EPOCHS, TOLD_EVERY = FEWEST, 10  # generations
SAMPLE = 20_000  # validation rows: half to choose lengths by, half to tell what they score


def select_sizes(
    config: Config,
    settings: OptEmbedConfig,
    folder: Path,
    *,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Search values and lengths and leave the result in `folder`; returns the content of select.json.

    Raises:
        UserError: settings or data are at fault, or no value is worth its row.
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    check_search(config, folder)
    if config.model.row_width < 2:
        raise ConfigError(f"the rows of {config.model.name} hold a number at most", mend="Choose another --model.")
    if config.model.row_width != config.model.embedding_dim:
        raise ConfigError(
            f"the rows of {config.model.name} hold several embeddings, of which none is a prefix",
            mend="Choose another --model.",
        )
    config, prepared = ready(config, announce)
    check_validation(prepared, "auc")
    assert prepared.valid is not None
    sample = prepared.valid.sample(SAMPLE, config.train.seed)
    halves = sample.slice(0, len(sample) // 2), sample.slice(len(sample) // 2, len(sample))
    if any(len(np.unique(half.labels)) < 2 for half in halves):
        raise ConfigError(
            "too few validation rows to search with: all of a half clicked, or none did",
            mend="Give more with --valid, or set data.valid_fraction.",
        )
    gated = fields_with_values(prepared)
    learner_of = partial(OptEmbedLearner, settings=settings, num_rows=len(prepared.train), gated=gated)
    model, progress = search(config, prepared, folder, settings, learner_of, announce, observer, should_stop)
    assert isinstance(model.table, ThresholdTable)
    kept = model.table.kept.cpu().numpy()

    def stopped() -> None:
        if should_stop():
            raise Interrupted(folder)

    lengths, points = _lengths(model, halves, kept, settings, config.train.seed, announce, stopped)
    layout = prepared.encoder.layout
    fields = [
        kept_of_field(prepared, place, kept, gated) | {"numbers": lengths[field.target or field.name]}
        for place, field in enumerate(layout.fields)
    ]
    fields.sort(key=lambda field: -field["score"])
    if not any(field["kept"] for field in fields):
        raise ConfigError("no value is worth its row", mend="Lower --penalty.")
    number, of = (sum(field[name] for field in fields if field["gated"]) for name in ("kept_values", "values"))
    result: dict[str, Any] = {
        "method": "optembed",
        **searched(config, prepared, settings, progress, folder),
        "values": of,
        "kept_values": number,
        "kept_share": number / max(of, 1),
        "numbers_share": points["numbers"] / points["of"],
        "supernet": points,
        "features": fields,
        "kept": [field["name"] for field in fields if field["kept"]] + list(layout.numeric),
    }
    _write(result, config, prepared, kept, folder)
    clear(config, settings, folder)
    return result


def _lengths(
    model: ClickModel,
    halves: tuple[Batch, Batch],
    kept: npt.NDArray[np.bool_],
    settings: OptEmbedConfig,
    seed: int,
    announce: Announce,
    stopped: Callable[[], None],
) -> tuple[dict[str, int], dict[str, Any]]:
    """How many numbers each field's rows are to hold, and what the supernet scores with them and with all.

    Lengths are chosen on the first of the `halves`; the scores that are told are those of the second.

    Raises:
        ConfigError: a number a row is more than there may be.
    """
    assert isinstance(model.net, DecodedModel)
    prefixes = model.net.decoder
    assert isinstance(prefixes, Prefixes)
    own = [field for field in model.layout.fields if field.target is None]
    names = [field.name for field in own]
    rows = [_rows_of(kept[field.offset : field.offset + field.size]) for field in own]
    whole = sum(field.size for field in own) * model.row_width
    space = Space(rows, model.row_width, settings.share * whole)
    if space.is_empty:
        raise ConfigError(
            f"a number for each of {sum(rows):,} rows is more than {settings.share:g} of the table's {whole:,}",
            mend="Raise --budget or --penalty.",
        )
    places = [names.index(field.target or field.name) for field in model.layout.fields[: prefixes.num_fields]]

    def score(lengths: Lengths, half: int = 0) -> float:
        stopped()
        prefixes.set_lengths([lengths[place] for place in places])
        return metrics.auc(halves[half].labels, model.predict(halves[half]))

    def told(generation: int, best: float) -> None:
        if (generation + 1) % TOLD_EVERY == 0:
            announce(f"generation {generation + 1}: validation AUC {best:.4f}")

    announce(f"searching the numbers a row of {len(own)} fields, on {len(halves[0]):,} validation rows")
    found = evolve(
        space,
        score,
        np.random.default_rng(seed),
        generations=settings.generations,
        mutated=settings.mutated,
        crossed=settings.crossed,
        mutation=settings.mutation,
        after=told,
    )
    _, lengths = found[0]
    scores = {"auc": score(lengths, 1), "auc_of_all": score(tuple([model.row_width] * len(own)), 1)}
    facts = {"numbers": space.numbers(lengths), "of": whole, **scores, "scored": len(found)}
    return dict(zip(names, lengths, strict=True)), facts


def _rows_of(kept: npt.NDArray[np.bool_]) -> int:
    """Rows of a field in the model that is trained anew: none where it has no value left, and is left out."""
    return int(kept.sum()) if kept[FIRST_VALUE:].any() else 0


def _write(
    result: dict[str, Any], config: Config, prepared: Prepared, kept: npt.NDArray[np.bool_], folder: Path
) -> None:
    from clickherd.report.selection import write_sizes

    save_values(folder / "values.parquet", prepared, kept)
    width = config.model.row_width
    shorter = {
        field["name"]: field["numbers"]
        for field in result["features"]
        if field["kept"] and field["numbers"] < width and field["name"] not in config.data.targets
    }
    dims = Dims(width, shorter) if shorter else None
    features = FeatureSet.of(result["kept"], config.data, "values.parquet", dims)
    write(folder, result, features, f"what is worth its rows to a {config.model.name} of {config.data.label}")
    write_sizes(folder, result)
