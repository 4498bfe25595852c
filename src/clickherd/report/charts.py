"""The charts of a report, one function each. It gives None when the data hold nothing to draw, such as one epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from clickherd.importance import FieldImportance
from clickherd.report.curves import Calibration, Floats, Ranking, thin, thin_evenly
from clickherd.report.svg import FIRST, GRID, INK, MUTED, PAPER, PERCENT, SECOND, draw, name_axes, percent

CURVE_POINTS = 700
MOST_BARS = 24


@dataclass(frozen=True)
class Chart:
    """A drawn chart, its title and its key (class of the mark, and text)."""

    title: str
    svg: Markup
    key: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class ScoreAxis:
    """How scores are laid out: evenly, or by order of magnitude when most of them are small."""

    low: float
    high: float
    log: bool
    edges: Floats = field(repr=False)  # of the histogram's bars

    @classmethod
    def of(cls, y_score: npt.NDArray[np.floating], bars: int = 40) -> ScoreAxis:
        """The axis that suits these scores, shape (N,)."""
        low, median, high = (float(q) for q in np.quantile(y_score, (0.001, 0.5, 1)))
        if high - low < 1e-3 * max(high, 1e-6):  # all alike
            low, high = 0.5 * low, 1.5 * high
        if median < 0.15 and high > 4 * median:
            low, high = max(low, 1e-6), max(high, 1e-5)
            return cls(low / 1.2, min(high * 1.2, 1.0), True, np.geomspace(low, high, bars + 1))
        low, high = (low, high) if high > low else (0.0, 1.0)
        pad = 0.03 * (high - low)
        return cls(max(low - pad, 0.0), min(high + pad, 1.0), False, np.linspace(low, high, bars + 1))

    def counts(self, y_score: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Rows per bar; scores below the first bar, one in a thousand, count with it."""
        return np.histogram(y_score.clip(self.edges[0], self.edges[-1]), self.edges)[0]

    def apply(self, axes: Axes, which: str) -> None:
        """Set up the axis `which` ("x" or "y") of a chart."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        (axes.set_xlim if which == "x" else axes.set_ylim)(self.low, self.high)
        if self.log:
            (axes.set_xscale if which == "x" else axes.set_yscale)("log")
            steps: tuple[int, ...] = (1, 3) if self.high / self.low < 3000 else (1,)
            if self.high / self.low < 12:
                steps = (1, 2, 5)
            ticks = [s * 10.0**e for e in range(-6, 1) for s in steps]
            axis.set_major_locator(FixedLocator([t for t in ticks if self.low <= t <= self.high]))
            axis.set_minor_locator(NullLocator())
        else:
            axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(PERCENT)


def loss(history: Sequence[dict[str, Any]], losses: Sequence[tuple[int, float]], best: int | None) -> Chart | None:
    """Training loss within and by epoch, and validation logloss."""
    train, valid = _by_epoch(history, "train_loss"), _by_epoch(history, "valid", "logloss")
    epochs = np.union1d(train[0], valid[0])
    steps = np.asarray(losses, np.float64).reshape(-1, 2)
    steps = steps[np.isfinite(steps).all(axis=1)]
    if not len(epochs) or (len(epochs) == 1 and len(steps) < 2):
        return None

    def paint(axes: Axes) -> None:
        seen = [train[1], valid[1]]
        if len(steps) > 1:
            groups = np.array_split(steps, min(len(steps), 300))
            x, y = np.array([group.mean(axis=0) for group in groups]).T
            x = epochs[0] - 1 + x * (epochs[-1] - epochs[0] + 1) / steps[:, 0].max()
            axes.plot(x, y, color=MUTED, linewidth=1, alpha=0.7)
            seen.append(y[y <= np.quantile(y, 0.95)])
        _marked(axes, *train, FIRST)
        _marked(axes, *valid, SECOND)
        _epoch_axis(axes, epochs, best, start=epochs[0] - 1 if len(steps) > 1 else None)
        _room(axes, np.concatenate(seen))
        name_axes(axes, "epoch", "loss")

    key = [("first", "training"), ("second", "validation")]
    if len(steps) > 1:
        key.insert(1, ("muted", "within epochs"))
    label = f"Loss by epoch: training {_told(train)}; validation logloss {_told(valid)}."
    return Chart("Loss", draw(paint, label), key)


def validation_auc(history: Sequence[dict[str, Any]], best: int | None) -> Chart | None:
    """Validation AUC by epoch."""
    epochs, auc = _by_epoch(history, "valid", "auc")
    if len(epochs) < 2:
        return None

    def paint(axes: Axes) -> None:
        _marked(axes, epochs, auc, SECOND)
        _epoch_axis(axes, epochs, best)
        _room(axes, auc, least=0.002)
        name_axes(axes, "epoch", "AUC")

    return Chart(
        "Validation AUC", draw(paint, f"Validation AUC by epoch: {_told((epochs, auc))}."), [("second", "validation")]
    )


def clipped(history: Sequence[dict[str, Any]], best: int | None) -> Chart | None:
    """Share of embedding rows whose gradient CowClip scaled down."""
    epochs, share = _by_epoch(history, "clipped_fraction")
    if len(epochs) < 2 or not share.any():  # the table of epochs says that none was
        return None

    def paint(axes: Axes) -> None:
        _marked(axes, epochs, share, FIRST)
        _epoch_axis(axes, epochs, best)
        axes.set_ylim(0, min(1.05, max(1.25 * float(share.max()), 0.01)))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        name_axes(axes, "epoch", "embedding rows clipped")

    return Chart(
        "Clipped gradients",
        draw(paint, f"Share of embedding rows clipped: {_told((epochs, share))}."),
        [("first", "training")],
    )


def roc(ranking: Ranking) -> Chart | None:
    """Receiver operating characteristic."""
    if not ranking.both_classes:
        return None
    x, y = thin(*ranking.roc, CURVE_POINTS)

    def paint(axes: Axes) -> None:
        axes.fill_between(x, x, y, color=FIRST, alpha=0.1, linewidth=0)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(x, y, color=FIRST)
        _shares(axes)
        name_axes(axes, "share of non-clicks above the cut", "share of clicks above the cut")

    key = [("first", f"model, AUC {ranking.auc:.4f}"), ("dashed", "guessing, 0.5")]
    return Chart("ROC", draw(paint, f"ROC curve, area {ranking.auc:.4f}; guessing has 0.5."), key)


def precision_recall(ranking: Ranking) -> Chart | None:
    """Precision by recall, with the base rate that guessing gives."""
    if not ranking.both_classes:
        return None
    recall, precision = ranking.precision_recall
    x, y = thin_evenly(recall, precision, CURVE_POINTS)
    rate = ranking.click_rate
    settled = precision[recall >= min(0.02, float(recall[-1]))]  # the first few rows alone swing between 0 and 1
    top = min(1.03, max(1.3 * float(settled.max()), 2 * rate))

    def paint(axes: Axes) -> None:
        axes.axhline(rate, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(x, y, color=FIRST)
        _shares(axes)
        axes.set_ylim(0, top)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        name_axes(axes, "recall: share of clicks found", "precision: click rate among them")

    ap = ranking.average_precision
    key = [("first", f"average precision {ap:.3f}"), ("dashed", f"base rate {percent(rate, 3)}")]
    label = f"Precision by recall, average precision {ap:.4f}; the base rate is {rate:.4f}."
    return Chart("Precision and recall", draw(paint, label), key)


def scores_by_class(y_true: npt.NDArray[np.floating], y_score: npt.NDArray[np.floating]) -> Chart | None:
    """Histogram of the scores, apart for clicks and non-clicks, each adding up to 100%."""
    if not len(y_score):
        return None
    scale = ScoreAxis.of(y_score)
    clicks = y_true > 0.5
    classes = [(FIRST, y_score[~clicks]), (SECOND, y_score[clicks])]

    def paint(axes: Axes) -> None:
        for colour, scores in classes:
            if len(scores):
                share = scale.counts(scores) / len(scores)
                axes.stairs(share, scale.edges, fill=True, color=colour, alpha=0.18)
                axes.stairs(share, scale.edges, color=colour, linewidth=1.5)
        scale.apply(axes, "x")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PERCENT)
        name_axes(axes, f"predicted click rate{', log scale' if scale.log else ''}", "share of the class")

    medians = [f"median {np.median(scores):.4g}" if len(scores) else "no rows" for _, scores in classes]
    label = f"Histogram of predicted click rates: non-clicks {medians[0]}, clicks {medians[1]}."
    return Chart("Scores by class", draw(paint, label), [("first", "non-clicks"), ("second", "clicks")])


def calibration(bins: Calibration, y_score: npt.NDArray[np.floating]) -> Chart | None:
    """Observed by predicted click rate with 95% Wilson intervals; the scores' histogram below."""
    if not len(y_score):
        return None
    scale = ScoreAxis.of(y_score)
    floor = scale.low if scale.log else 0.0

    def paint(axes: Axes, below: Axes) -> None:
        x, y, outside = bins.predicted, bins.observed, bins.outside
        top = max(float(np.minimum(bins.high, 3 * y + scale.high).max()), scale.high)
        high = min(1.0, 1.05 * top)
        axes.plot([floor, 1], [floor, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for colour, which in ((FIRST, ~outside), (SECOND, outside)):
            axes.vlines(x[which], bins.low[which].clip(min=floor), bins.high[which], color=colour, linewidth=1.4)
            seen = which & (y >= floor) & (y <= high)
            if seen.any():  # matplotlib lays out an empty unclipped line as if it lay at the origin
                axes.plot(x[seen], y[seen], "o", color=colour, markersize=5.5, markeredgecolor=PAPER, clip_on=False)
        ScoreAxis(floor, high, scale.log, scale.edges).apply(axes, "y")
        axes.set_title("↑ observed click rate", loc="left")
        below.stairs(scale.counts(y_score) / len(y_score), scale.edges, fill=True, color=FIRST, alpha=0.45)
        scale.apply(below, "x")
        below.yaxis.set_major_locator(MaxNLocator(2))
        below.yaxis.set_major_formatter(PERCENT)
        name_axes(below, f"predicted click rate{', log scale' if scale.log else ''}", "rows")

    key = [("first", "bin of rows, 95% interval"), ("dashed", "perfect")]
    if bins.outside.any():
        key.insert(1, ("second", "interval misses the prediction"))
    label = f"Observed against predicted click rate in {len(bins.rows)} bins; {int(bins.outside.sum())} lie off."
    return Chart("Observed and predicted click rate", draw(paint, label, height=7.1, panels=(3.2, 1)), key)


def gain(ranking: Ranking) -> Chart | None:
    """Cumulative gain: share of clicks by share of rows taken."""
    if not ranking.both_classes:
        return None
    x, y = thin(ranking.rows / ranking.num_rows, ranking.clicks / ranking.num_clicks, CURVE_POINTS)
    tenth = float(ranking.gain(np.array([0.1]))[0])

    def paint(axes: Axes) -> None:
        axes.plot([0, ranking.click_rate, 1], [0, 1, 1], color=MUTED, linewidth=1)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(x, y, color=FIRST)
        axes.plot([0.1], [tenth], "o", color=FIRST, markersize=6, markeredgecolor=PAPER)
        _shares(axes)
        name_axes(axes, "share of rows, best scores first", "share of clicks found")

    key = [("first", "model"), ("muted", "perfect order"), ("dashed", "guessing")]
    label = f"Cumulative gain: the tenth of rows with the best scores holds {100 * tenth:.0f}% of the clicks."
    return Chart("Cumulative gain", draw(paint, label), key)


def lift(ranking: Ranking) -> Chart | None:
    """Click rate of each tenth of the rows, as a multiple of the average."""
    if not ranking.both_classes:
        return None
    lifts = 10 * np.diff(ranking.gain(np.linspace(0, 1, 11)))

    def paint(axes: Axes) -> None:
        bars = axes.bar(np.arange(1, 11), lifts, width=0.72, color=FIRST)
        axes.bar_label(bars, [f"{value:#.2g}".rstrip(".") for value in lifts], padding=3, color=INK)
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, 1.14 * max(float(lifts.max()), 1.0))
        axes.set_xticks(np.arange(1, 11))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.grid(visible=False, axis="x")
        name_axes(axes, "tenths of the rows, best scores first", "lift: click rate over the average")

    told = ", ".join(f"{value:.2f}" for value in lifts)
    return Chart("Lift", draw(paint, f"Lift by tenth of the rows, best scores first: {told}."), [("dashed", "average")])


def importance(fields: Sequence[FieldImportance]) -> Chart | None:
    """Drop in AUC when a field is shuffled, the most important field on top."""
    shown = list(fields[:MOST_BARS])
    if not shown:
        return None
    drops = np.array([f.auc_drop_mean for f in shown])
    spread = np.array([f.auc_drop_std for f in shown])
    names = [f.name if len(f.name) <= 20 else f"{f.name[:19]}…" for f in shown]

    def paint(axes: Axes) -> None:
        y = np.arange(len(shown))
        axes.barh(y, drops, height=0.66, color=FIRST, alpha=0.85)
        axes.errorbar(drops, y, xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=2.5)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_yticks(y, names, color=INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(visible=False, axis="y")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("drop in AUC →", loc="right")

    told = ", ".join(f"{f.name} {f.auc_drop_mean:.4f}" for f in shown[:5])
    height = 0.75 + 0.36 * len(shown)
    return Chart(
        "Drop in AUC when shuffled", draw(paint, f"Permutation importance, drop in AUC: {told}.", height=height)
    )


def _by_epoch(history: Sequence[dict[str, Any]], *keys: str) -> tuple[Floats, Floats]:
    """Epochs that have the value under `keys`, and the values."""
    points = []
    for entry in history:
        value: Any = entry
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and np.isfinite(value):
            points.append((entry["epoch"], value))
    epochs, values = np.asarray(points, np.float64).reshape(-1, 2).T
    return epochs, values


def _told(series: tuple[Floats, Floats]) -> str:
    """A series in words, for the chart's label."""
    epochs, values = series
    if not len(epochs):
        return "not recorded"
    return f"{values[0]:.4f} after epoch {epochs[0]:.0f}, {values[-1]:.4f} after epoch {epochs[-1]:.0f}"


def _marked(axes: Axes, x: Floats, y: Floats, colour: str) -> None:
    axes.plot(x, y, color=colour, marker="o", markersize=5 if len(x) <= 30 else 0, markeredgecolor=PAPER)


def _epoch_axis(axes: Axes, epochs: Floats, best: int | None, start: float | None = None) -> None:
    first = epochs[0] if start is None else start
    pad = 0.06 * (epochs[-1] - first)
    axes.set_xlim(first - (pad if start is None else 0), epochs[-1] + pad)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(visible=False, axis="x")
    if best is not None and len(epochs) > 1 and epochs[0] <= best <= epochs[-1]:
        axes.axvline(best, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        right = best > (first + epochs[-1]) / 2
        axes.annotate(
            "best epoch",
            (best, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if right else 5, -1),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
        )


def _room(axes: Axes, values: Floats, least: float = 0.0) -> None:
    """y limits around the values, with room on top for the mark of the best epoch."""
    low, high = float(values.min()), float(values.max())
    span = max(high - low, least, 1e-3 * abs(high), 1e-9)
    axes.set_ylim(low - 0.12 * span, high + 0.25 * span)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _shares(axes: Axes) -> None:
    """Both axes from 0 to 100%."""
    for axis, limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        limits(0, 1.015)
        axis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
        axis.set_major_formatter(PERCENT)
    axes.grid(color=GRID)
