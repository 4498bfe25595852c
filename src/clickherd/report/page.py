"""The page: numbers and charts of a run, put into the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from clickherd.report import ReportData, charts, verdict
from clickherd.report.curves import Calibration, Ranking
from clickherd.report.svg import percent

SCORES = ("auc", "logloss", "gauc", "ne", "calibration", "ece")
SCORE_NAMES = {
    "auc": "AUC",
    "logloss": "Logloss",
    "gauc": "GAUC",
    "ne": "NE",
    "calibration": "Calibration",
    "ece": "ECE",
}
TOP_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)


def render(data: ReportData) -> str:
    """The report as HTML text.

    Raises:
        ValueError: y_true and y_score differ in length.
    """
    if data.y_true.shape != data.y_score.shape:
        raise ValueError(f"y_true has shape {data.y_true.shape}, y_score {data.y_score.shape}: they must be alike.")
    finite = np.isfinite(data.y_score)
    dropped = int(len(finite) - finite.sum())
    judged = replace(data, y_true=data.y_true[finite], y_score=data.y_score[finite]) if dropped else data
    ranking = Ranking.of(judged.y_true, judged.y_score)
    bins = ranking.calibration(int(np.clip(ranking.num_rows // 50, 3, 20))) if ranking.num_rows else None

    here = Path(__file__).parent
    environment = templates(here)
    environment.filters.update(
        score=verdict.score, count=verdict.count, rate=verdict.rate, duration=verdict.duration, percent=percent
    )
    return environment.get_template("report.html.j2").render(
        data=data,
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        ranking=ranking,
        cards=verdict.cards(data, ranking),
        verdicts=verdict.verdicts(data, ranking, bins, dropped),
        sections=_sections(judged, ranking, bins),
        splits=_splits(data),
        epochs=_epochs(data.history),
        targets=list(_targets(ranking)),
        bins=[] if bins is None else list(_bins(bins)),
        columns=list(_columns(data.profile, data.unseen)),
        profile_rows=list(_profile_rows(data.profile)),
    )


def templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder: what is put into them is escaped, and a name that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _sections(data: ReportData, ranking: Ranking, bins: Calibration | None) -> dict[str, list[charts.Chart]]:
    """The charts of every section; those that the data cannot fill are left out."""
    best = data.summary.get("best_epoch")
    drawn = {
        "training": [
            charts.loss(data.history, data.losses, best),
            charts.validation_auc(data.history, best),
            charts.clipped(data.history, best),
        ],
        "ranking": [
            charts.roc(ranking),
            charts.precision_recall(ranking),
            charts.scores_by_class(data.y_true, data.y_score),
        ],
        "calibration": [None if bins is None else charts.calibration(bins, data.y_score)],
        "targeting": [charts.gain(ranking), charts.lift(ranking)],
        "fields": [charts.importance(data.importance)],
    }
    return {name: [chart for chart in found if chart is not None] for name, found in drawn.items()}


def _splits(data: ReportData) -> dict[str, Any]:
    """The table of scores by split: the scores that any split has, and a row for each split."""
    shown = [name for name in SCORES if any(scores.get(name) is not None for scores in data.scores.values())]
    rows = data.summary.get("rows") or {}
    return {
        "names": [SCORE_NAMES[name] for name in shown],
        "rows": [
            (split, rows.get(split), [scores.get(name) for name in shown]) for split, scores in data.scores.items()
        ],
    }


def _epochs(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of epochs, with those scores that the validation recorded."""
    shown = [name for name in SCORES if any((entry.get("valid") or {}).get(name) is not None for entry in history)]
    return {
        "names": [SCORE_NAMES[name] for name in shown],
        "rows": [{**entry, "scores": [(entry.get("valid") or {}).get(name) for name in shown]} for entry in history],
        "clipped": any(entry.get("clipped_fraction") is not None for entry in history),
    }


def _targets(ranking: Ranking) -> Iterator[dict[str, float]]:
    """What the best-scored shares of the rows hold."""
    if not ranking.both_classes:
        return
    for share in TOP_SHARES:
        if share * ranking.num_rows >= 1:
            found = float(ranking.gain(np.array([share]))[0])
            yield {
                "share": share,
                "cut": ranking.cut(share),
                "found": found,
                "lift": found / share,
            }


def _bins(bins: Calibration) -> Iterator[dict[str, Any]]:
    """Calibration bin by bin, the lowest scores first."""
    for i in range(len(bins.rows)):
        yield {
            "rows": bins.rows[i],
            "predicted": bins.predicted[i],
            "observed": bins.observed[i],
            "low": bins.low[i],
            "high": bins.high[i],
            "outside": bool(bins.outside[i]),
        }


def _profile_rows(profile: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """Split, its rows and its share of clicks."""
    rows, rates = profile.get("rows") or {}, profile.get("positive_rate") or {}
    for split in dict.fromkeys([*rows, *rates]):
        yield split, rows.get(split), rates.get(split)


def _columns(profile: Mapping[str, Any], unseen: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The columns of the profile in one form, whatever facts are there; columns known only as unseen come last."""
    columns = profile.get("columns") or {}
    named = columns.items() if isinstance(columns, Mapping) else [(c.get("name", ""), c) for c in columns]
    left = dict(unseen)
    for name, facts in named:
        yield {
            "name": name,
            "role": facts.get("role"),
            "note": facts.get("note"),
            "encoding": facts.get("encoding"),
            "distinct": facts.get("distinct"),
            "missing": facts.get("missing"),
            "vocabulary": facts.get("vocabulary"),
            "top": facts.get("top") or [],
            "unknown": facts.get("unknown") or {},
            "unseen": left.pop(name, None),
        }
    for name, number in left.items():
        yield {"name": name, "top": [], "unknown": {}, "unseen": number} | dict.fromkeys(
            ("role", "note", "encoding", "distinct", "missing", "vocabulary")
        )
