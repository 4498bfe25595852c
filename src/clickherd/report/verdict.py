"""What the numbers of a run mean, in sentences, and the headline figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clickherd.report import ReportData
from clickherd.report.curves import Z95, Calibration, Ranking

FEW_CLICKS = 100  # below, every curve is mostly chance
SPACE = "\u00a0"  # keeps a number and its unit on one line
TOLERANCE = 0.03  # an average prediction this near to the click rate needs no mending


@dataclass(frozen=True)
class Verdict:
    """One finding. `level` says whether it is good, plain information, or something to act on."""

    level: Literal["good", "info", "warn"]
    text: str


@dataclass(frozen=True)
class Card:
    """One headline figure; `share` from 0 to 1 draws a meter."""

    name: str
    value: str
    note: str
    share: float | None = None


def rate(value: float) -> str:
    """A share with three significant digits: 0.03217 as 3.22%."""
    text = f"{100 * value:#.3g}" if value else "0"
    return f"{text.rstrip('.')}%"


def score(value: float | None, digits: int = 4) -> str:
    """A score, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """A whole number with its thousands parted."""
    return "–" if value is None else f"{value:,.0f}"


def short(value: float) -> str:
    """A large number in three digits: 1.24 M."""
    for size, threshold, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e3, 1e4, "k")):
        if value >= threshold:
            return f"{float(f'{value / size:.3g}'):g}{SPACE}{letter}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """1.84 as 1.8 s, 192 as 3 min 12 s, 7320 as 2 h 2 min."""
    if seconds < 59.5:
        return f"{seconds:.1f}{SPACE}s" if seconds < 10 else f"{seconds:.0f}{SPACE}s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {left}{SPACE}s" if left else f"{minutes}{SPACE}min"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def cards(data: ReportData, ranking: Ranking) -> list[Card]:
    """The headline figures."""
    return [*_score_cards(data, ranking), *_speed_cards(data.summary)]


def _score_cards(data: ReportData, ranking: Ranking) -> Iterator[Card]:
    scores, best = data.scores.get(data.judged_on, {}), data.best_possible or {}
    auc, logloss, split = scores.get("auc"), scores.get("logloss"), data.judged_on.capitalize()
    if ranking.both_classes:
        auc, error = ranking.auc if auc is None else auc, Z95 * ranking.auc_error
        if "auc" in best:
            yield Card(f"{split} AUC", score(auc), *_reach(auc, 0.5, best["auc"], "guessing’s 0.5"))
        else:
            interval = f"{max(auc - error, 0.0):.3f} to {min(auc + error, 1.0):.3f}"
            yield Card(f"{split} AUC", score(auc), f"95% interval {interval}; guessing has 0.5")
    if ranking.both_classes and logloss is not None:
        entropy = _entropy(ranking.click_rate)
        if "logloss" in best:
            start = f"the base rate’s {entropy:.4f}"
            yield Card(f"{split} logloss", score(logloss), *_reach(logloss, entropy, best["logloss"], start))
        else:
            below = 1 - logloss / entropy
            side = "below" if below >= 0 else "above"
            yield Card(
                f"{split} logloss", score(logloss), f"{abs(100 * below):.1f}% {side} always predicting the base rate"
            )
    if ranking.num_clicks:
        predicted = ranking.score_sum[-1] / ranking.num_rows
        note = f"predicted {rate(predicted)} on average, observed {rate(ranking.click_rate)}"
        yield Card("Calibration", f"{ranking.score_sum[-1] / ranking.num_clicks:.3f}", note)


def _reach(value: float, start: float, best: float, start_name: str) -> tuple[str, float]:
    share = (value - start) / (best - start) if best != start else 1.0
    text = f"{100 * share:.0f}% of the way from {start_name} to the best reachable, {best:.4f}"
    return text, min(max(share, 0.0), 1.0)


def _speed_cards(summary: Mapping[str, Any]) -> Iterator[Card]:
    seconds, rows, epochs = summary.get("seconds") or {}, summary.get("rows") or {}, summary.get("epochs")
    speed = summary.get("samples_per_second")
    if speed is not None:
        notes = [f"batches of {count(summary['batch_size'])}"] if summary.get("batch_size") else []
        if summary.get("peak_rss_mib"):
            notes.append(f"peak memory {summary['peak_rss_mib'] / 1024:.1f}{SPACE}GiB")
        yield Card("Rows per second", short(speed), ", ".join(notes))
    if seconds.get("train") is not None:
        notes = []
        if epochs and rows.get("train"):
            notes.append(f"{epochs} epoch{'s' if epochs != 1 else ''} of {short(rows['train'])} rows")
        for key, what in (("encode", "encoding"), ("evaluate", "scoring")):
            if seconds.get(key) is not None:
                notes.append(f"{what} {duration(seconds[key])}")
        yield Card("Training time", duration(seconds["train"]), ", ".join(notes))


def verdicts(data: ReportData, ranking: Ranking, bins: Calibration | None, dropped: int) -> list[Verdict]:
    """Findings in the order in which a reader wants them. `dropped` rows had no finite score."""
    found = [*_sample(data, ranking, dropped)]
    if ranking.both_classes:
        found += _ranking(data, ranking)
    if ranking.num_clicks:
        found += _calibration(ranking, bins)
    found += _training(data)
    if ranking.both_classes and data.importance:
        found += _fields(data, ranking)
    return found


def _sample(data: ReportData, ranking: Ranking, dropped: int) -> Iterator[Verdict]:
    rows, split = count(ranking.num_rows), data.judged_on
    if dropped:
        whole = f"{count(dropped)} of {count(len(data.y_score))} {split} rows have no finite score"
        yield Verdict("warn", f"{whole}: training diverged or a numeric column holds infinities. They are left out.")
    if not ranking.num_rows:
        yield Verdict("warn", "No rows were scored, so this report shows only how training went.")
    elif not ranking.both_classes:
        which = "every one has" if ranking.num_clicks else "none has"
        yield Verdict("warn", f"Of the {rows} {split} rows {which} a click, so ranking cannot be judged.")
    elif ranking.num_clicks < FEW_CLICKS:
        clicks = "a single click" if ranking.num_clicks == 1 else f"{ranking.num_clicks} clicks"
        yield Verdict("warn", f"There are only {rows} {split} rows with {clicks}: the curves below are mostly chance.")


def _ranking(data: ReportData, ranking: Ranking) -> Iterator[Verdict]:
    if ranking.scores[1] == ranking.scores[-1]:
        same = f"All rows have the same score, {rate(ranking.scores[1])}"
        yield Verdict("warn", f"{same}: the model has learned no more than a base rate.")
        return
    auc, error = ranking.auc, Z95 * ranking.auc_error
    wins = (
        f"A random click outranks a random non-click {100 * auc:.1f}% of the time (AUC {auc:.4f} ±{SPACE}{error:.4f})."
    )
    if auc - error > 0.5:
        yield Verdict("info", wins)
    else:
        yield Verdict("warn", f"{wins} That is not clearly better than guessing.")
    caught = float(ranking.gain(np.array([0.1]))[0])
    tenth = f"The tenth of rows with the best scores holds {100 * caught:.0f}% of all clicks"
    yield Verdict("info", f"{tenth}, {10 * caught:.1f} times the average.")
    valid = data.scores.get("valid", {}).get("auc")
    if data.judged_on == "test" and valid is not None and abs(valid - auc) > max(0.005, 3 * ranking.auc_error):
        gap = f"Test AUC is {abs(valid - auc):.4f} {'below' if auc < valid else 'above'} validation AUC"
        yield Verdict("warn", f"{gap}, more than chance explains: the two splits differ.")


def _calibration(ranking: Ranking, bins: Calibration | None) -> Iterator[Verdict]:
    assert bins is not None  # there are clicks, so there are rows
    predicted, num_bins, misses = float(ranking.score_sum[-1]), len(bins.rows), int(bins.outside.sum())
    off = predicted / ranking.num_clicks - 1
    noise = Z95 * math.sqrt(float(ranking.variance_sum[-1])) / ranking.num_clicks
    rates = f"predicted {rate(predicted / ranking.num_rows)}, observed {rate(ranking.click_rate)}"
    if abs(off) > max(TOLERANCE, noise):
        verb = "Over-predicts" if off > 0 else "Under-predicts"
        by = f"by {abs(100 * off):.{0 if abs(off) >= 0.1 else 1}f}%" if off < 1 else f"{off + 1:.1f} times over"
        yield Verdict("warn", f"{verb} {by} on average ({rates}). Bids computed from these scores are off by as much.")
    elif misses > max(1, 0.2 * num_bins):
        top, seen = bins.predicted[-1], bins.observed[-1]
        by = f" by {abs(100 * (top / seen - 1)):.0f}%" if seen else ""
        text = f"Calibrated on average ({rates}) but not throughout: {misses} of {num_bins} bins are off"
        yield Verdict("warn", f"{text}, and the highest scores are too {'high' if top > seen else 'low'}{by}.")
    elif abs(off) > TOLERANCE:
        yield Verdict("info", f"Predictions agree with the click rate as far as so few clicks can tell ({rates}).")
    else:
        yield Verdict("good", f"Well calibrated: {rates} on average, and {num_bins - misses} of {num_bins} bins agree.")


def _training(data: ReportData) -> Iterator[Verdict]:
    best = data.summary.get("best_epoch")
    if best is None or len(data.history) < 2:
        return
    last = max(entry["epoch"] for entry in data.history)
    if best >= last:
        yield Verdict("info", f"The last epoch, {last}, was the best one: more epochs may still help.")
    else:
        yield Verdict("good", f"Epoch {best} of {last} was the best one, and its weights are the ones kept.")


def _fields(data: ReportData, ranking: Ranking) -> Iterator[Verdict]:
    top = data.importance[0]
    if ranking.auc > 0.9 and top.auc_drop_mean > 0.7 * (ranking.auc - 0.5):
        much = f"Almost all of the AUC comes from {top.name}"
        yield Verdict("warn", f"{much}. Check that it is known before the click and is not a trace of it.")
    idle = [field.name for field in data.importance if max(field.logloss_rise_mean, field.auc_drop_mean) <= 0]
    if idle:
        names = ", ".join(idle[:3]) + (f" and {len(idle) - 3} more" if len(idle) > 3 else "")
        yield Verdict("info", f"Shuffling does no harm for {len(idle)} of {len(data.importance)} fields: {names}.")


def _entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log1p(-p)
