"""The numbers behind the charts, all read off one sort of the scores. Equal scores are one step: no order is made up.

Shapes: N rows, T distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


@dataclass(frozen=True)
class Ranking:
    """Rows by falling score, added up: entry t counts the rows that have one of the t highest distinct scores.

    Shapes: all (T + 1,), the first entry 0.
    """

    rows: Floats
    clicks: Floats
    score_sum: Floats
    variance_sum: Floats  # Σ p(1 - p), the variance of the number of clicks if the scores are right
    scores: Floats  # the score itself, infinite for entry 0

    @classmethod
    def of(cls, y_true: npt.NDArray[np.floating], y_score: npt.NDArray[np.floating]) -> Ranking:
        """From labels 0 or 1, shape (N,), and finite scores, shape (N,)."""
        order = np.argsort(-y_score, kind="stable")
        score = y_score[order].astype(np.float64)
        ends = np.append(np.flatnonzero(np.diff(score)), len(score) - 1) if len(score) else np.empty(0, np.int64)

        def added_up(values: npt.NDArray[np.floating]) -> Floats:
            return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)[ends]])

        rows = np.concatenate([[0.0], ends + 1.0])
        return cls(
            rows,
            added_up(y_true[order]),
            added_up(score),
            added_up(score * (1 - score)),
            np.concatenate([[np.inf], score[ends]]),
        )

    @property
    def num_rows(self) -> int:
        """All rows N."""
        return int(self.rows[-1])

    @property
    def num_clicks(self) -> int:
        """Rows whose label is 1."""
        return int(self.clicks[-1])

    @property
    def both_classes(self) -> bool:
        """Whether there are clicks and non-clicks; without both there is nothing to rank."""
        return 0 < self.num_clicks < self.num_rows

    @property
    def click_rate(self) -> float:
        """Share of rows with a click."""
        return self.num_clicks / self.num_rows

    @cached_property
    def roc(self) -> tuple[Floats, Floats]:
        """False and true positive rates, from (0, 0) to (1, 1)."""
        misses = self.rows - self.clicks
        return misses / misses[-1], self.clicks / self.clicks[-1]

    @cached_property
    def auc(self) -> float:
        """Area under the ROC curve; ties count half."""
        x, y = self.roc
        return float(np.trapezoid(y, x))

    @property
    def auc_error(self) -> float:
        """Standard error of the AUC (Hanley and McNeil, Radiology 143, 1982, eq. 1)."""
        a, pos, neg = self.auc, self.num_clicks, self.num_rows - self.num_clicks
        q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
        variance = (a * (1 - a) + (pos - 1) * (q1 - a * a) + (neg - 1) * (q2 - a * a)) / (pos * neg)
        return float(np.sqrt(max(variance, 0.0)))

    @cached_property
    def precision_recall(self) -> tuple[Floats, Floats]:
        """Recall and precision at every distinct score, shape (T,)."""
        return self.clicks[1:] / self.clicks[-1], self.clicks[1:] / self.rows[1:]

    @property
    def average_precision(self) -> float:
        """Σ (R_t - R_{t-1}) P_t."""
        recall, precision = self.precision_recall
        return float(np.sum(np.diff(recall, prepend=0.0) * precision))

    def gain(self, shares: Floats) -> Floats:
        """Share of all clicks among the given shares of rows with the highest scores.

        A cut through equal scores takes clicks in proportion, which is the mean over all orders of the ties.
        """
        return np.interp(shares * self.num_rows, self.rows, self.clicks) / self.num_clicks

    def cut(self, share: float) -> float:
        """The lowest score among the given share of rows with the highest scores."""
        return float(self.scores[np.searchsorted(self.rows, share * self.num_rows)])

    def calibration(self, bins: int) -> Calibration:
        """At most `bins` bins with about equally many rows, by rising score. Equal scores share a bin."""
        cuts = np.unique(np.searchsorted(self.rows, np.linspace(0, self.num_rows, bins + 1)))
        rows, clicks, scores = (np.diff(a[cuts])[::-1] for a in (self.rows, self.clicks, self.score_sum))
        low, high = wilson(clicks, rows)
        return Calibration(rows, clicks, scores / rows, clicks / rows, low, high)


@dataclass(frozen=True)
class Calibration:
    """Predicted against observed click rates, one entry per bin, with the 95% Wilson interval of the observed one."""

    rows: Floats
    clicks: Floats
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats

    @property
    def outside(self) -> npt.NDArray[np.bool_]:
        """Bins whose prediction the interval excludes and that miss by more than 5%, so that it matters too."""
        far = np.abs(self.predicted - self.observed) > 0.05 * np.maximum(self.predicted, self.observed)
        return far & ((self.predicted < self.low) | (self.predicted > self.high))


def wilson(clicks: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """The 95% Wilson score interval of a rate (Wilson, JASA 22, 1927)."""
    rate, z2 = clicks / rows, Z95 * Z95
    centre = (rate + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z95 * np.sqrt(rate * (1 - rate) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    low, high = np.where(clicks == 0, 0.0, centre - half), np.where(clicks == rows, 1.0, centre + half)
    return low, high


def thin(x: Floats, y: Floats, limit: int) -> tuple[Floats, Floats]:
    """At most `limit` of the curve's own points, the ends among them, evenly along its drawn length."""
    if len(x) <= limit:
        return x, y
    width, height = np.ptp(x) or 1.0, np.ptp(y) or 1.0
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x) / width, np.diff(y) / height))])
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], limit)).clip(0, len(x) - 1))
    keep[-1] = len(x) - 1
    return x[keep], y[keep]


def thin_evenly(x: Floats, y: Floats, limit: int) -> tuple[Floats, Floats]:
    """At most `limit` of the curve's own points, evenly along x. For curves that jitter."""
    if len(x) <= limit:
        return x, y
    keep = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], limit)).clip(0, len(x) - 1))
    keep[-1] = len(x) - 1
    return x[keep], y[keep]
