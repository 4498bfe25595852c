"""OutRank's scores: hand-computed numbers, agreement with the definition written out, and what ranking is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.selection.contingency import Marks, conditional_entropy, entropy, joint, tally
from clickherd.selection.outrank import Pair, Relevance, pair, rank_3mr, relevance, single

LN2 = math.log(2)


def bits(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def marks(clicks: np.ndarray, noise: np.ndarray | None = None) -> Marks:
    late = (np.arange(len(clicks)) >= len(clicks) // 2).astype(np.uint8)
    return Marks(clicks, clicks if noise is None else noise, late)


def test_a_score_is_what_the_equation_gives_by_hand() -> None:
    """X = a a b b b b c, with clicks and shuffled clicks as below."""
    x = np.array([[0], [0], [1], [1], [1], [1], [2]], np.int32)
    clicks = bits(1, 1, 0, 0, 0, 1, 1)
    noise = bits(1, 0, 1, 1, 0, 0, 1)
    counts, sums = tally(x, marks(clicks, noise), 3)
    assert counts.tolist() == [2, 4, 1]
    assert sums[:, 0].tolist() == [2, 1, 1]
    assert sums[:, 1].tolist() == [1, 2, 1]
    h_four_sevenths = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))
    h_quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    found = relevance(counts, sums)
    assert found.information == pytest.approx(h_four_sevenths - 4 * h_quarter / 7)
    assert found.score == pytest.approx((2 * LN2 + 4 * LN2) / 7 - 4 * h_quarter / 7)
    assert found.noise == pytest.approx(1 / 7)  # two values seen twice or more


def test_a_pair_is_scored_as_one_feature_and_its_redundancy_as_two() -> None:
    """Exclusive or: neither feature tells anything, both together tell all; they know nothing of each other."""
    a = np.tile(np.array([0, 0, 1, 1], np.int32), 2_500)
    b = np.tile(np.array([0, 1, 0, 1], np.int32), 2_500)
    order = np.random.default_rng(1).permutation(len(a))
    a, b = a[order], b[order]
    of_both = Marks.of((a ^ b).astype(np.uint8), np.zeros(len(a), np.uint8))
    one, other = single("a", a, of_both), single("b", b, of_both)
    found = pair(one, other, of_both)
    assert (found.first, found.second) == ("a", "b")
    assert found.relation.score == pytest.approx(LN2, abs=1e-3)
    assert found.gain == pytest.approx(LN2, abs=2e-3)
    assert found.redundancy == pytest.approx(0, abs=2e-3)
    same = pair(one, one, of_both)
    assert same.redundancy == pytest.approx(LN2, abs=2e-3)


def test_3mr_puts_a_copy_last_and_a_partner_first() -> None:
    def of(first: str, second: str, redundancy: float, relation: float) -> Pair:
        return Pair(first, second, redundancy, Relevance(relation, relation, 0.01), 0.0, 0.0)

    scores = {"best": 0.5, "copy": 0.49, "other": 0.2, "partner": 0.1, "unpaired": 0.9}
    pairs = [
        of("best", "copy", 0.6, 0.5),
        of("best", "other", 0.0, 0.6),
        of("best", "partner", 0.0, 0.9),
        of("copy", "other", 0.0, 0.6),
        of("copy", "partner", 0.0, 0.9),
        of("other", "partner", 0.0, 0.2),
    ]
    # after best: copy .49 - .6 + .5, other .2 + .6, partner .1 + .9; then medians over best and partner:
    # copy .49 - .3 + .7 = .89, other .2 + (.6 + .2)/2 = .6
    assert rank_3mr(scores, pairs) == ["best", "partner", "copy", "other"]
    assert rank_3mr({}, []) == []


columns = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 5), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
    )
)


@given(columns)
@settings(max_examples=200, deadline=None)
def test_counts_and_sums_are_those_of_a_plain_loop(drawn: tuple[list[int], list[int], list[int]]) -> None:
    a, b, y = drawn
    n = len(a)
    ids = np.stack([np.array(a, np.int32), np.array(b, np.int32) + 6], axis=1)
    given_marks = Marks.of(np.array(y, np.uint8), (np.arange(n) % 3 == 0).astype(np.uint8))
    counts, sums = tally(ids, given_marks, 10)
    for i in range(10):
        rows = [r for r in range(n) if i in ids[r]]
        assert counts[i] == len(rows)
        expected = (
            sum(y[r] for r in rows),
            sum(int(given_marks.noise[r]) for r in rows),
            sum(r % 3 == 0 for r in rows),
            sum(r % 2 for r in rows),
        )
        assert tuple(sums[i]) == expected
    assert sorted(given_marks.noise) == sorted(y)
    numbers, distinct = joint(ids[:, 0], ids[:, 1] - 6, 4)
    together = dict(zip(zip(a, b, strict=True), numbers.tolist(), strict=True))
    assert distinct == len(together) == len(set(together.values()))
    assert numbers.tolist() == [together[one] for one in zip(a, b, strict=True)]
    assert set(numbers.tolist()) == set(range(distinct))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_entropies_are_those_of_the_definition(drawn: list[tuple[int, int]]) -> None:
    ones = np.array([one for one, _ in drawn], np.int64)
    counts = ones + np.array([other for _, other in drawn], np.int64)
    total = counts.sum()
    expected = sum(
        count / total * -sum(p * math.log(p) for p in (one / count, 1 - one / count) if p > 0)
        for one, count in zip(ones.tolist(), counts.tolist(), strict=True)
        if count
    )
    assert conditional_entropy(counts, ones) == pytest.approx(expected, abs=1e-12)
    shares = [count / total for count in counts.tolist() if count]
    assert entropy(counts) == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-12)


@pytest.mark.parametrize("cardinality", [2, 30, 1_000, 20_000])
def test_a_column_that_tells_nothing_scores_within_its_noise(cardinality: int) -> None:
    rng = np.random.default_rng(cardinality)
    n = 50_000
    x = rng.integers(0, cardinality, (n, 8)).astype(np.int32) + np.arange(8, dtype=np.int32) * cardinality
    counts, sums = tally(x, Marks.of((rng.random(n) < 0.2).astype(np.uint8), np.zeros(n, np.uint8)), 8 * cardinality)
    found = [relevance(c, s) for c, s in zip(np.split(counts, 8), np.split(sums, 8), strict=True)]
    most = 6 if cardinality == 2 else 4  # χ² of one degree of freedom has a long tail
    assert all(abs(one.above_noise) < most for one in found)
    assert abs(np.mean([one.above_noise for one in found])) < 1.5
    if cardinality >= 1_000:  # information as it is grows with the number of values
        assert all(one.information > 10 * one.noise for one in found)


def test_sorting_the_log_by_a_column_leaves_its_score_as_it_was() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 500, 40_000).astype(np.int32)
    clicks = (rng.random(len(x)) < rng.beta(1, 3, 500)[x]).astype(np.uint8)
    late = np.zeros(len(x), np.uint8)
    order = np.argsort(x, kind="stable")
    as_it_is = relevance(*tally(x[:, None], Marks.of(clicks, late), 500))
    in_order = relevance(*tally(x[order, None], Marks.of(clicks[order], late), 500))
    assert in_order.score == pytest.approx(as_it_is.score, rel=0.05)
