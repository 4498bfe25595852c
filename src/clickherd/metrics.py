"""Scores of click predictions: ranking (auc, gauc), likelihood (logloss, ne), calibration (calibration, ece).

Shapes: `y_true` (N,) holds 0 and 1, `y_score` (N,) holds predictions, `groups` (N,) holds any ids. Sums run
in float64 or int64 whatever the input's type, and nothing loops over rows or groups.

Errors shared by all: DataError when there are no rows, when a label is neither 0 nor 1, or when a score needs
both classes and only one is there; ValueError when shapes differ, a prediction is NaN, or a probability is
outside [0, 1].
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


def auc(y_true: npt.ArrayLike, y_score: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a click outranks a non-click, a tie counting one half.

    `y_score` may be any real scores. Exact for ties: pairs are counted in integers (safe to 4·10⁹ rows).
    """
    clicked, score = _checked(y_true, y_score)
    _require_both(clicked, "AUC")
    twice_won, clicks, others = _pairs(clicked, score, None)
    return float(twice_won[0] / (2.0 * clicks[0] * others[0]))


def gauc(y_true: npt.ArrayLike, y_score: npt.ArrayLike, groups: npt.ArrayLike) -> float | None:
    """Grouped AUC (Zhou et al., KDD 2018, https://arxiv.org/abs/1706.06978, eq. 7).

        GAUC = Σ_u n_u·AUC_u / Σ_u n_u

    n_u is the number of rows of group u. Groups with one class only have no AUC and count in neither sum.

    Returns:
        The score, or None when no group holds both classes.
    """
    clicked, score = _checked(y_true, y_score)
    group = np.asarray(groups)
    if group.shape != clicked.shape:
        raise ValueError(f"groups has shape {group.shape}, y_true {clicked.shape}")
    if group.dtype.kind not in "iub":  # texts and objects sort slowly; their codes do not
        group = np.unique(group, return_inverse=True)[1]
    twice_won, clicks, others = _pairs(clicked, score, group)
    both = (clicks > 0) & (others > 0)
    if not both.any():
        return None
    twice_won, clicks, others = twice_won[both], clicks[both], others[both]
    return float(np.average(twice_won / (2.0 * clicks * others), weights=clicks + others))


def logloss(y_true: npt.ArrayLike, y_score: npt.ArrayLike) -> float:
    """Mean negative log-likelihood in nats, −mean(y·ln p + (1−y)·ln(1−p)).

    As in scikit-learn, p is held within [ε, 1−ε], ε being the machine epsilon of `y_score`'s own type
    (1.2·10⁻⁷ for float32, whose sigmoid reaches 1.0 at a logit of 17), so that the score stays finite. A
    prediction of exactly 0 or 1 that proves wrong truly has infinite loss; it is not hidden but counted in a
    RuntimeWarning.
    """
    clicked, score = _checked(y_true, y_score, probabilities=True)
    epsilon = np.finfo(score.dtype).eps
    certain_and_wrong = int(np.count_nonzero(score == np.where(clicked, 0.0, 1.0)))
    if certain_and_wrong:
        warnings.warn(
            f"{certain_and_wrong} of {len(score)} predictions are exactly 0 or 1 and wrong; "
            f"their infinite loss was cut to {-np.log(epsilon):.1f}",
            RuntimeWarning,
            stacklevel=2,
        )
    p = score.astype(np.float64)
    likelihood = np.where(clicked, p, 1.0 - p).clip(float(epsilon), 1.0 - float(epsilon))
    return float(-np.log(likelihood).mean())


def ne(y_true: npt.ArrayLike, y_score: npt.ArrayLike) -> float:
    """Normalised entropy (He et al., ADKDD 2014, eq. 1): logloss over the entropy of these rows' click rate.

    1 is as good as always predicting the click rate; lower is better.
    """
    clicked, score = _checked(y_true, y_score, probabilities=True)
    _require_both(clicked, "normalised entropy")
    return logloss(clicked, score) / _base_entropy(clicked)


def calibration(y_true: npt.ArrayLike, y_score: npt.ArrayLike) -> float:
    """Predicted clicks over clicks, Σp / Σy; 1 is calibrated, above 1 over-predicts."""
    clicked, score = _checked(y_true, y_score, probabilities=True)
    clicks = np.count_nonzero(clicked)
    if not clicks:
        raise DataError("calibration is undefined: no row has label 1", mend="Score rows that hold clicks.")
    return float(score.sum(dtype=np.float64) / clicks)


def ece(y_true: npt.ArrayLike, y_score: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over equal-frequency bins, Σ_b n_b/N · |mean p − mean y|.

    The bins part the sorted predictions into `bins` equal counts (adaptive bins: Nixon et al. 2019,
    https://arxiv.org/abs/1904.01685). Equal predictions always share a bin, so ties can make bins unequal or
    fewer, and the result does not depend on the order of the rows.
    """
    clicked, score = _checked(y_true, y_score, probabilities=True)
    if bins < 1:
        raise ValueError(f"bins = {bins}: at least 1 is needed")
    inner = np.arange(1, bins) * len(score) // bins
    edges = np.unique(np.partition(score, inner)[inner])
    bin_of_row = np.searchsorted(edges, score, side="right")
    predicted = np.bincount(bin_of_row, weights=score, minlength=len(edges) + 1)
    clicks = np.bincount(bin_of_row, weights=clicked, minlength=len(edges) + 1)
    return float(np.abs(predicted - clicks).sum() / len(score))


def scores(
    y_true: npt.ArrayLike, y_score: npt.ArrayLike, groups: npt.ArrayLike | None = None
) -> dict[str, float | None]:
    """All scores of predicted probabilities at once, by name.

    `gauc` is None without `groups`, or when no group holds both classes.
    """
    clicked, score = _checked(y_true, y_score, probabilities=True)
    _require_both(clicked, "AUC")
    loss = logloss(clicked, score)
    return {
        "auc": auc(clicked, score),
        "logloss": loss,
        "gauc": None if groups is None else gauc(clicked, score, groups),
        "ne": loss / _base_entropy(clicked),
        "calibration": calibration(clicked, score),
        "ece": ece(clicked, score),
    }


def _pairs(
    clicked: Bools, score: Floats, group: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Per group: twice the (click, non-click) pairs ranked rightly, a tie counting 1; clicks; non-clicks.

    Rows are sorted by group and score. A click wins against all non-clicks of its group before its block of
    equal scores, and ties with those within the block.
    """
    order = np.argsort(score) if group is None else np.lexsort((score, group))
    sorted_score = score[order]
    new_group = np.zeros(len(order), np.bool_)
    new_group[0] = True
    if group is not None:
        sorted_group = group[order]
        new_group[1:] = sorted_group[1:] != sorted_group[:-1]
    new_block = new_group.copy()
    new_block[1:] |= sorted_score[1:] != sorted_score[:-1]

    block_starts = np.flatnonzero(new_block)
    sorted_clicks = clicked[order].astype(np.int64)
    block_clicks = np.add.reduceat(sorted_clicks, block_starts)
    block_others = np.diff(block_starts, append=len(order)) - block_clicks

    first_blocks = np.flatnonzero(new_group[block_starts])
    clicks = np.add.reduceat(block_clicks, first_blocks)
    others = np.add.reduceat(block_others, first_blocks)
    blocks_per_group = np.diff(first_blocks, append=len(block_starts))
    others_before = np.cumsum(block_others) - block_others
    others_before -= np.repeat(others_before[first_blocks], blocks_per_group)
    twice_won = np.add.reduceat(block_clicks * (2 * others_before + block_others), first_blocks)
    return twice_won, clicks, others


def _base_entropy(clicked: Bools) -> float:
    rate = float(clicked.mean())
    return float(-(rate * np.log(rate) + (1.0 - rate) * np.log1p(-rate)))


def _checked(y_true: npt.ArrayLike, y_score: npt.ArrayLike, *, probabilities: bool = False) -> tuple[Bools, Floats]:
    """Labels as booleans and floating-point predictions, or an error that says which input is wrong."""
    label, score = np.asarray(y_true), np.asarray(y_score)
    if label.ndim != 1 or score.shape != label.shape:
        raise ValueError(f"y_true and y_score must be vectors of one length, got {label.shape} and {score.shape}")
    if not len(label):
        raise DataError("there are no rows to score", mend="Give a file or a split with at least one row.")
    if not np.issubdtype(score.dtype, np.floating):
        score = score.astype(np.float64)
    if label.dtype != np.bool_:
        wrong = (label != 0) & (label != 1)
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"a label is {label[row]!r}, neither 0 nor 1", row=row + 1, mend="Code a click as 1.")
        label = label == 1
    lowest, highest = float(score.min()), float(score.max())  # NaN if any is NaN
    if np.isnan(lowest):
        row = int(np.isnan(score).argmax())
        raise ValueError(f"the prediction of row {row + 1} is NaN; the model has diverged or was fed NaN")
    if probabilities and not (lowest >= 0.0 and highest <= 1.0):
        raise ValueError(f"predictions range over [{lowest:g}, {highest:g}]; probabilities lie in [0, 1]")
    return label, score


def _require_both(clicked: Bools, score_name: str) -> None:
    if clicked.all() or not clicked.any():
        raise DataError(
            f"{score_name} is undefined: all {len(clicked)} labels are {int(clicked[0])}",
            mend="Score rows that hold both clicks and non-clicks.",
        )
