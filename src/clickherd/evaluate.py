"""Predictions over a store, streamed, and their scores over all rows at once (never per batch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd import metrics
from clickherd.data.store import Store
from clickherd.errors import ConfigError
from clickherd.network import ClickModel

CHUNK = 65_536


@dataclass(frozen=True)
class Scored:
    """True labels and predicted probabilities of a set of rows, and what they score."""

    y_true: npt.NDArray[np.float32]
    y_score: npt.NDArray[np.float64]
    scores: dict[str, float | None]


def evaluate(model: ClickModel, store: Store) -> Scored:
    """Score every row of `store`."""
    parts = [model.predict(batch) for batch in store.batches(CHUNK)]
    y_score = np.concatenate(parts) if parts else np.empty(0)
    y_true = np.asarray(store.labels)
    groups = np.asarray(store.groups) if len(store.groups) else None
    return Scored(y_true, y_score, score(y_true, y_score, groups))


def score(
    y_true: npt.NDArray[Any], y_score: npt.NDArray[Any], groups: npt.NDArray[Any] | None = None
) -> dict[str, float | None]:
    """All metrics; None where one is undefined: AUC, GAUC and NE of a single class, calibration without clicks."""
    if len(y_true) and y_true.min() != y_true.max():
        return metrics.scores(y_true, y_score, groups)
    some = len(y_true) > 0
    return {
        "auc": None,
        "logloss": metrics.logloss(y_true, y_score) if some else None,
        "gauc": None,
        "ne": None,
        "calibration": metrics.calibration(y_true, y_score) if some and y_true.max() == 1 else None,
        "ece": metrics.ece(y_true, y_score) if some else None,
    }


def monitored(scores: dict[str, float | None], monitor: str) -> float | None:
    """The validation score to maximise: `monitor`, negated where less is better; None without validation rows.

    Raises:
        ConfigError: the score to watch is GAUC, and no group holds both clicks and non-clicks.
    """
    if not scores:
        return None
    value = scores[monitor]
    if monitor == "gauc" and value is None:
        raise ConfigError(
            "train.monitor = gauc, but no group of validation rows has both clicks and non-clicks",
            mend="Name the grouping column with --set data.group=COLUMN, or monitor auc or logloss.",
        )
    if value is None:  # one class only among the validation rows: AUC is undefined, the loss is not
        monitor, value = "logloss", scores["logloss"]
    assert value is not None
    return value if monitor in ("auc", "gauc") else -value
