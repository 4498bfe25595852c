"""The report of a run, from its settings, rows and scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clickherd import machine
from clickherd.config import Config, dump_yaml
from clickherd.data.prepare import Prepared, single_parts
from clickherd.data.store import Store
from clickherd.evaluate import Scored, evaluate, score
from clickherd.importance import permutation_importance
from clickherd.network import ClickModel
from clickherd.surrogate import drivers

IMPORTANCE_ROWS = 10_000  # enough to rank fields; more would cost longer than training on small logs
NAMED = 10  # columns that a note names at most


def write_report(
    config: Config,
    prepared: Prepared,
    model: ClickModel,
    history: list[dict[str, Any]],
    result: dict[str, Any],
    judged: dict[str, Scored],
    folder: Path,
) -> Path:
    """Write report.html; permutation importance is measured on a sample of the judged rows."""
    from clickherd.report import ReportData
    from clickherd.report import write_report as render

    stores = {"train": prepared.train, "valid": prepared.valid, "test": prepared.test}
    judged_on = next((name for name in ("test", "valid") if name in judged), "train")
    store = stores[judged_on]
    assert store is not None
    scored = judged.get(judged_on) or evaluate(model, store)
    sample = store.sample(IMPORTANCE_ROWS, config.train.seed)
    path = folder / "report.html"
    render(
        path,
        ReportData(
            title=folder.name,
            run=str(folder),
            model=config.model.name,
            config_yaml=dump_yaml(config),
            scores={name: split.scores for name, split in judged.items()},
            history=history,
            losses=[(step, loss) for record in history for step, loss in record["running_loss"]],
            y_true=scored.y_true,
            y_score=scored.y_score,
            judged_on=judged_on,
            importance=permutation_importance(model.predict, sample, model.layout, seed=config.train.seed),
            profile=prepared.profile,
            unseen=_unseen(prepared.profile, judged_on),
            summary=result,
            best_possible=best_possible(store),
            notes=list(_notes(config, prepared, result)),
            machine=machine.describe(),
            drivers=drivers(model.predict, sample, prepared.encoder, seed=config.train.seed),
        ),
    )
    return path


def _unseen(profile: dict[str, Any], split: str) -> dict[str, int]:
    """How many values of the split are unknown, for the columns that have such values."""
    return {c["name"]: c["unseen"][split] for c in profile["columns"] if c["unseen"].get(split)}


def _notes(config: Config, prepared: Prepared, result: dict[str, Any]) -> Iterator[str]:
    """What happened in the run that its numbers do not tell."""
    if result["epochs"] < config.train.epochs and result["best_epoch"]:
        patience = f"{config.train.patience} epochs" if config.train.patience != 1 else "one epoch"
        yield (
            f"Training stopped after epoch {result['epochs']} of at most {config.train.epochs}: "
            f"no better validation score for {patience}."
        )
    if config.train.calibration != "none":
        yield (
            f"Probabilities are calibrated ({config.train.calibration}), as learned on the validation rows; the curves "
            "by epoch show them as they were before."
        )
    left_out: dict[str, list[str]] = {}
    for column in prepared.encoder.schema.columns:
        if column.role in ("ignored", "timestamp"):
            left_out.setdefault(column.note, []).append(column.name)
    for why, names in left_out.items():
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        yield f"Not used as features: {', '.join(names[:NAMED])}{more} ({why})."
    yield from (f"{warning}." for warning in single_parts(prepared.profile, config.data))


def best_possible(store: Store) -> dict[str, float] | None:
    """What the true click probabilities score on these rows; None where they are not known."""
    if not len(store.truth) or store.labels.min() == store.labels.max():
        return None
    return {name: value for name, value in score(store.labels, store.truth).items() if value is not None}
