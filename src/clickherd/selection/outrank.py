"""OutRank: which features tell something about clicks, beyond what chance makes a feature of as many values tell.

Škrlj and Mramor, "OutRank: Speeding up AutoML-based Model Search for Large Sparse Data sets with Cardinality-aware
Feature Ranking", RecSys 2023, https://arxiv.org/abs/2309.01552.

    score(X) = I(X; Y) - I(X; Y') = H(Y'|X) - H(Y|X)

Y' are labels that X knows nothing about: here those of all rows, shuffled once. In the published code a value of X
meets the labels that lie as many rows further on as the value has rows. So shifted, a log that is sorted by X has in Y'
what X tells, and Y' has another base rate than Y, since some labels are met twice and others by no value, which moves
the score by more than its noise (docs/decisions/0014).

    3MR: the next feature is the one with the largest
         score(f) - α · median over g of redundancy(f, g) + β · median over g of relation(f, g)

g are the features ranked before it, redundancy(f, g) = I(f; g) corrected as above, relation(f, g) = score of f and g
taken together. All are in nats per row. Values seen once say nothing, by either entropy.

By chance a score is off zero by about √(V - 1)/N, V values seen twice or more: 2N·I is then χ² with V - 1 degrees of
freedom (Wilks), and a score the difference of two of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from clickherd.selection.contingency import (
    CLICKS,
    NOISE,
    Counts,
    Ids,
    Marks,
    entropy,
    joint,
    mutual_information,
    shuffled,
    tally,
)

ALPHA = BETA = 1.0


@dataclass(frozen=True)
class Relevance:
    """What a feature tells about clicks, in nats per event."""

    score: float
    information: float  # I(X; Y) as it is, without the correction
    noise: float  # the standard deviation of a score of a feature that tells nothing

    @property
    def above_noise(self) -> float:
        """The score in standard deviations of the noise."""
        return self.score / self.noise if self.noise > 0 else 0.0


@dataclass(frozen=True)
class Pair:
    """What two features tell together, and of each other, in nats per row."""

    first: str
    second: str
    redundancy: float
    relation: Relevance
    gain: float  # of the relation over the scores of both
    noise: float  # the standard deviation of the gain of features that tell nothing

    @property
    def gain_above_noise(self) -> float:
        """The gain in standard deviations of the noise."""
        return self.gain / self.noise if self.noise > 0 else 0.0


def relevance(counts_V: Counts, sums_V4: Counts) -> Relevance:
    """The score of a feature from the counts of its values; see `contingency.tally`."""
    information = mutual_information(counts_V, sums_V4[:, CLICKS])
    by_chance = mutual_information(counts_V, sums_V4[:, NOISE])
    return Relevance(information - by_chance, information, noise_deviation(counts_V))


def noise_deviation(counts_V: Counts) -> float:
    """The standard deviation that a score has by chance."""
    return float(np.sqrt(max(int((counts_V > 1).sum()) - 1, 0)) / max(int(counts_V.sum()), 1))


@dataclass(frozen=True)
class Single:
    """A feature of one value a row, to be paired with others of the same rows."""

    name: str
    ids: Ids  # (N,), from 0 on
    num_ids: int
    alone: Relevance


def single(name: str, ids_N: Ids, marks: Marks) -> Single:
    """A feature and its score by itself; ids count from 0."""
    counts_V, sums_V4 = tally(ids_N[:, None], marks, int(ids_N.max()) + 1)
    return Single(name, ids_N, len(counts_V), relevance(counts_V, sums_V4))


def pair(a: Single, b: Single, marks: Marks) -> Pair:
    """How two features of the same rows relate."""
    both_N, number = joint(a.ids, b.ids, b.num_ids)
    relation = relevance(*tally(both_N[:, None], marks, number))
    by_chance_N, _ = joint(a.ids, shuffled(b.ids), b.num_ids)
    redundancy = entropy(np.bincount(by_chance_N)) - entropy(np.bincount(both_N))  # H(A), H(B) cancel out
    gain = relation.score - a.alone.score - b.alone.score
    noise = math.hypot(relation.noise, a.alone.noise, b.alone.noise)
    return Pair(a.name, b.name, redundancy, relation, gain, noise)


def rank_3mr(scores: Mapping[str, float], pairs: Iterable[Pair]) -> list[str]:
    """The features of the pairs by maximal relevance, minimal redundancy and maximal relation, the best first."""
    pairs = list(pairs)
    paired = {name for found in pairs for name in (found.first, found.second)}
    names = [name for name in scores if name in paired]
    place = {name: i for i, name in enumerate(names)}
    net = np.full((len(names), len(names), 2), np.nan)
    for found in pairs:
        i, j = place[found.first], place[found.second]
        net[i, j] = net[j, i] = (found.redundancy, found.relation.score)
    net = np.nan_to_num(net)
    score = np.array([scores[name] for name in names])
    ranked = [int(np.argmax(score))] if names else []
    while len(ranked) < len(names):
        left = np.setdiff1d(np.arange(len(names)), ranked)
        redundancy, relation = np.median(net[left][:, ranked], axis=1).T
        ranked.append(int(left[np.argmax(score[left] - ALPHA * redundancy + BETA * relation)]))
    return [names[i] for i in ranked]
