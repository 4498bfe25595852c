"""Scores against scikit-learn, small answers known by hand, and the errors."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss, roc_auc_score

from clickherd import metrics
from clickherd.errors import DataError

COARSE = st.integers(0, 8).map(lambda i: i / 8)  # exact in float32, many ties, includes 0 and 1
FINE = st.floats(1e-6, 1 - 1e-6)


@st.composite
def predictions(draw, values=COARSE | FINE, min_rows=2):
    n = draw(st.integers(min_rows, 60))
    label = draw(hnp.arrays(np.int8, n, elements=st.integers(0, 1)))
    label[:2] = (0, 1)
    score = draw(hnp.arrays(np.float64, n, elements=values))
    group = draw(hnp.arrays(np.uint64, n, elements=st.integers(0, 4) | st.just(2**64 - 1)))
    return label, score, group


@given(predictions())
def test_auc_is_scikit_learns_and_exact_with_ties(rows):
    label, score, _ = rows
    assert metrics.auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-14)


@given(predictions(values=st.floats(-1e6, 1e6)))
def test_auc_takes_any_real_scores_and_depends_on_their_order_only(rows):
    label, score, _ = rows
    rank = np.unique(score, return_inverse=True)[1]
    assert metrics.auc(label, score) == metrics.auc(label, rank)


@given(predictions(values=FINE))
def test_logloss_is_scikit_learns(rows):
    label, score, _ = rows
    assert metrics.logloss(label, score) == pytest.approx(log_loss(label, score), rel=1e-12)


@given(predictions())
def test_logloss_cuts_certain_errors_like_scikit_learn_and_says_so(rows):
    label, score, _ = rows
    wrong = int(((score == 0) & (label == 1)).sum() + ((score == 1) & (label == 0)).sum())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = metrics.logloss(label, score)
    assert got == pytest.approx(log_loss(label, score), rel=1e-12)
    assert math.isfinite(got)
    assert len(caught) == bool(wrong)
    if wrong:
        assert f"{wrong} of {len(label)} predictions" in str(caught[0].message)


def test_logloss_of_float32_uses_the_epsilon_of_float32():
    with pytest.warns(RuntimeWarning, match="1 of 2"):
        got = metrics.logloss([1, 0], np.array([0, 0], np.float32))
    assert got == pytest.approx(-math.log(np.finfo(np.float32).eps) / 2, rel=1e-6)


@given(predictions())
def test_gauc_is_the_row_weighted_mean_of_group_aucs(rows):
    label, score, group = rows
    total, weight = 0.0, 0
    for g in np.unique(group):
        mine = group == g
        if len(np.unique(label[mine])) == 2:
            total += mine.sum() * roc_auc_score(label[mine], score[mine])
            weight += mine.sum()
    want = total / weight if weight else None
    got = metrics.gauc(label, score, group)
    assert (got is None and want is None) or got == pytest.approx(want, abs=1e-13)
    as_texts = metrics.gauc(label, score, group.astype(str))  # groups are then summed in another order
    assert (as_texts is None and got is None) or as_texts == pytest.approx(got, abs=1e-13)


def test_gauc_by_hand():
    # a: right order (AUC 1, 2 rows); b: a tie (AUC 1/2, 3 rows of which one click); c: one class, skipped
    label = [0, 1, 1, 0, 0, 1, 1]
    score = [0.1, 0.2, 0.5, 0.5, 0.5, 0.9, 0.1]
    group = ["a", "a", "b", "b", "b", "c", "c"]
    assert metrics.gauc(label, score, group) == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    assert metrics.gauc([1, 0], [0.1, 0.2], [1, 2]) is None


def test_one_group_gives_the_auc():
    rng = np.random.default_rng(0)
    label, score = rng.integers(0, 2, 1000), rng.random(1000).round(2)
    assert metrics.gauc(label, score, np.zeros(1000, np.int32)) == pytest.approx(metrics.auc(label, score), abs=1e-15)


def test_ne_is_one_for_the_click_rate_and_by_hand():
    label = np.array([1, 0, 0, 0])
    assert metrics.ne(label, np.full(4, 0.25)) == pytest.approx(1)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert metrics.ne(label, np.full(4, 0.5)) == pytest.approx(math.log(2) / entropy)


def test_calibration_sums_float32_without_losing_digits():
    label = np.array([1] * 1000 + [0] * 2_000_000)
    score = np.full(len(label), 1e-3, np.float32)
    assert metrics.calibration(label, score) == pytest.approx(2.001, rel=1e-6)


def test_ece_by_hand():
    label = np.array([0, 0, 1, 1])
    score = np.array([0.1, 0.3, 0.6, 0.8])
    assert metrics.ece(label, score, bins=2) == pytest.approx((0.2 + 0.3) / 2)
    assert metrics.ece(label, score, bins=1) == pytest.approx(abs(0.45 - 0.5))
    assert metrics.ece(label, np.full(4, 0.5)) == 0  # one tie, one bin


@given(predictions(), st.integers(1, 20), st.randoms(use_true_random=False))
def test_ece_ignores_row_order_and_is_bounded(rows, bins, random):
    label, score, _ = rows
    order = list(range(len(label)))
    random.shuffle(order)
    got = metrics.ece(label, score, bins)
    assert got == pytest.approx(metrics.ece(label[order], score[order], bins), abs=1e-12)
    assert abs(score.mean() - label.mean()) - 1e-12 <= got <= 1


def test_ece_of_true_probabilities_is_small():
    rng = np.random.default_rng(1)
    p = rng.beta(1, 3, 200_000)
    label = rng.random(len(p)) < p
    assert metrics.ece(label, p) < 0.005
    assert metrics.ece(label, p**2) > 0.05


def test_scores_holds_every_score():
    rng = np.random.default_rng(2)
    p = rng.random(500).astype(np.float32)
    label = (rng.random(500) < p).astype(np.float32)
    got = metrics.scores(label, p, np.arange(500) % 7)
    assert list(got) == ["auc", "logloss", "gauc", "ne", "calibration", "ece"]
    assert got["auc"] == metrics.auc(label, p)
    assert got["ne"] == pytest.approx(metrics.ne(label, p))
    assert got["gauc"] == metrics.gauc(label, p, np.arange(500) % 7)
    assert all(isinstance(value, float) for value in got.values())
    assert metrics.scores(label, p)["gauc"] is None


@pytest.mark.parametrize("score", [metrics.auc, metrics.ne, metrics.scores])
def test_one_class_is_the_datas_fault(score):
    with pytest.raises(DataError, match="undefined: all 2 labels are 0"):
        score([0, 0], [0.1, 0.2])


def test_calibration_without_clicks_is_the_datas_fault():
    with pytest.raises(DataError, match="no row has label 1"):
        metrics.calibration([0, 0], [0.1, 0.2])


@pytest.mark.parametrize("score", [metrics.auc, metrics.logloss, metrics.ece, metrics.calibration, metrics.scores])
def test_bad_input_is_named(score):
    with pytest.raises(DataError, match="no rows"):
        score([], [])
    with pytest.raises(ValueError, match=r"one length, got \(2,\) and \(3,\)"):
        score([0, 1], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match=r"neither 0 nor 1 \(row 2\)"):
        score([0, 2], [0.1, 0.2])
    with pytest.raises(DataError, match="neither 0 nor 1"):
        score([0, float("nan")], [0.1, 0.2])
    with pytest.raises(ValueError, match="row 2 is NaN"):
        score([0, 1], [0.1, float("nan")])


@pytest.mark.parametrize("score", [metrics.logloss, metrics.ece, metrics.calibration, metrics.ne, metrics.scores])
def test_logits_are_not_taken_for_probabilities(score):
    with pytest.raises(ValueError, match=r"\[-1.5, 0.2\]; probabilities lie in"):
        score([0, 1], [-1.5, 0.2])


def test_group_shape_is_checked():
    with pytest.raises(ValueError, match="groups has shape"):
        metrics.gauc([0, 1], [0.1, 0.2], [1])
