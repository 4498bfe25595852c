"""The report of a run: one HTML file that needs no network and no script."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd.importance import FieldImportance
from clickherd.surrogate import Drivers


@dataclass(frozen=True)
class ReportData:
    """What a report is made of. Empty lists, dicts and None leave their part out."""

    title: str
    run: str  # the run folder, as shown
    model: str
    config_yaml: str
    scores: dict[str, dict[str, float | None]]  # split → auc, logloss, gauc, ne, calibration, ece
    history: list[dict[str, Any]]  # metrics.jsonl: per epoch, scores, speed, time; clipped_fraction None: no clip
    losses: list[tuple[int, float]]  # (step, running training loss)
    y_true: npt.NDArray[np.floating]  # (N,) 0 or 1
    y_score: npt.NDArray[np.floating]  # (N,) predicted click probabilities
    judged_on: str  # the split that y_true and y_score come from
    importance: list[FieldImportance]
    profile: dict[str, Any]  # what `clickherd data describe` found
    unseen: dict[str, int]  # column → values of the judged rows that training saw too seldom to know
    summary: dict[str, Any]  # metrics.json
    best_possible: dict[str, float] | None  # auc and logloss of the true click probabilities, where they are known
    notes: list[str]  # what a reader should know of the run: columns left out, early stopping
    machine: str
    drivers: Drivers | None = None


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file. It appears whole or not at all, and is the same for the same data.

    Raises:
        OSError: the file cannot be written.
    """
    from clickherd.report.page import render

    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(render(data), encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


__all__ = ["FieldImportance", "ReportData", "write_report"]
