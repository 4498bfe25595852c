"""What drives a model, in a few lines: a small tree that tells groups of rows apart by what the model predicts.

A surrogate (Craven & Shavlik, NIPS 1995): a regression tree of a few leaves (CART, Breiman et al. 1984) is grown on the
model's log-odds of one half of the rows, and judged on the other half by the share of their variance that it explains.
Values of a column are put in order by their mean log-odds, drawn towards the mean of all rows as if `PRIOR` more rows
of it had that; so a split of values is a split of a line, and rare values do not make splits of their own.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clickherd.data.encode import Encoder
from clickherd.data.names import bucket_start, unscaled, value_name
from clickherd.data.store import FIRST_VALUE, Batch
from clickherd.importance import Predict

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor

LEAVES = 8
LEAST_SHARE, LEAST_GAIN = 0.02, 1e-3  # of the rows in a leaf, and of their variance that a split tells
PRIOR = 20  # rows
NAMED, TOPICS = 3, 20  # values that a line names; values of a multi-valued column that are looked at

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Rows that a leaf holds: their share, the mean of what is predicted and of what happened, and who they are."""

    share: float
    predicted: float
    clicked: float
    conditions: tuple[str, ...]


@dataclass(frozen=True)
class Drivers:
    """The groups, most clicks first, and the share of the log-odds' variance that they explain in rows held out."""

    groups: tuple[Group, ...]
    explained: float
    num_rows: int

    def lines(self) -> list[str]:
        """To read: at most a dozen lines."""
        head = (
            f"{len(self.groups)} groups of rows explain {max(self.explained, 0):.0%} of what the predictions (their "
            f"log-odds) differ by, in {self.num_rows:,} rows held out:"
        )
        rows = [
            f"  {group.predicted:6.1%} predicted, {group.clicked:6.1%} clicked, {group.share:4.0%} of the rows: "
            + (", ".join(group.conditions) or "all")
            for group in self.groups
        ]
        return [head, *rows]


@dataclass(frozen=True)
class _Column:
    """A column that the tree may split: its numbers, and what a split by them means."""

    name: str
    numbers: Floats  # (N,)
    order: tuple[tuple[float, str, int], ...] = ()  # of values: number, name, rows; empty for numbers
    starts: tuple[float, ...] = ()  # of buckets, ascending; what is missing, if anything, has a number below
    topic: str | None = None  # the value that rows have (1) or not (0)

    def says(self, above: float, up_to: float) -> list[str]:
        """In words: above < x ≤ up_to."""
        if self.order:
            return [f"{self.name} {_listed(self.order, above, up_to)}"]
        if self.topic is not None:
            return [f"{self.name} {'without' if up_to < math.inf else 'with'} {self.topic}"]
        if self.starts:
            return self._bucket(above, up_to)
        said = [f"{self.name} > {self._between(above)}"] if above > -math.inf else []
        return said + ([f"{self.name} ≤ {self._between(up_to)}"] if up_to < math.inf else [])

    def _bucket(self, above: float, up_to: float) -> list[str]:
        if up_to < self.starts[0]:
            return [f"{self.name} missing"]
        said = []
        if above > -math.inf:
            lowest = above < self.starts[0]
            said.append(f"{self.name} not missing" if lowest else f"{self.name} ≥ {self._start(above)}")
        if up_to < math.inf:
            gaps = above == -math.inf and (self.numbers < self.starts[0]).any()
            said.append(f"{self.name} < {self._start(up_to)}" + (" or missing" if gaps else ""))
        return said

    def _start(self, threshold: float) -> str:
        """Where the first bucket behind a threshold begins."""
        place = bisect.bisect_right(self.starts, threshold)
        before, after = self.starts[place - 1], self.starts[place + 1] if place + 1 < len(self.starts) else math.inf
        return _shortest(self.starts[place], lambda shown: before < shown < after)

    def _between(self, threshold: float) -> str:
        """A threshold, such that the same rows lie on either side of it."""
        low = self.numbers[self.numbers <= threshold].max(initial=-math.inf)
        high = self.numbers[self.numbers > threshold].min(initial=math.inf)
        return _shortest(threshold, lambda shown: low <= shown < high)


def _shortest(number: float, serves: Callable[[float], bool]) -> str:
    """The number with as many digits as it takes, four at least."""
    texts = (f"{number:.{digits}g}" for digits in range(4, 18))
    return next((text for text in texts if serves(float(text))), repr(number))


def drivers(predict: Predict, batch: Batch, encoder: Encoder, *, seed: int = 0) -> Drivers | None:
    """The groups of the rows of `batch`; None where they are too few, or all are predicted the same.

    `predict` maps a batch of B rows to B click probabilities.
    """
    from sklearn.tree import DecisionTreeRegressor

    y_score = np.clip(predict(batch), 1e-9, 1 - 1e-9)
    log_odds = np.log(y_score / (1 - y_score))
    order = np.random.default_rng(seed).permutation(len(batch))
    fitted, held = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    if len(fitted) < 2 / LEAST_SHARE or np.ptp(log_odds) < 1e-6:
        return None
    columns = list(_columns(batch, encoder, log_odds, fitted))
    X = np.stack([column.numbers for column in columns], axis=1)
    tree = DecisionTreeRegressor(
        max_leaf_nodes=LEAVES,
        min_samples_leaf=LEAST_SHARE,
        min_impurity_decrease=LEAST_GAIN * float(np.var(log_odds[fitted])),
        random_state=seed,
    )
    tree.fit(X[fitted], log_odds[fitted])
    off = log_odds[held] - tree.predict(X[held])
    explained = 1 - float(np.mean(off**2) / max(np.var(log_odds[held]), 1e-12))
    leaf = tree.apply(X[held])
    groups = []
    for number, conditions in _leaves(tree, columns):
        rows = held[leaf == number]
        if len(rows):
            clicked = float(np.mean(batch.labels[rows]))
            groups.append(Group(len(rows) / len(held), float(np.mean(y_score[rows])), clicked, tuple(conditions)))
    return Drivers(tuple(sorted(groups, key=lambda group: -group.predicted)), explained, len(held))


def _columns(batch: Batch, encoder: Encoder, log_odds: Floats, fitted: npt.NDArray[np.int64]) -> Iterator[_Column]:
    layout = encoder.layout
    for place, field in enumerate(layout.fields):
        encoding = encoder.embedded[field.name]
        if field.multi:
            yield from _topics(field.name, batch.bags[place - layout.num_single], field.offset, encoding)
            continue
        local = batch.ids[:, place] - field.offset
        counts = np.bincount(local[fitted], minlength=field.size)
        starts = [bucket_start(encoding, value) for value in range(FIRST_VALUE, field.size)]
        if starts and None not in starts:
            yield _buckets(field.name, local, [start for start in starts if start is not None])
            continue
        sums = np.bincount(local[fitted], weights=log_odds[fitted], minlength=field.size)
        means = (sums + PRIOR * np.mean(log_odds[fitted])) / (counts + PRIOR)
        met = np.flatnonzero(counts)
        order = tuple((float(means[v]), value_name(encoding, int(v)), int(counts[v])) for v in met)
        yield _Column(field.name, means[local], order)
    for place, name in enumerate(layout.numeric):
        yield _Column(name, unscaled(encoder.scaled[name], batch.numeric[:, place].astype(np.float64)))


def _buckets(name: str, local: npt.NDArray[np.int32], starts: list[float]) -> _Column:
    """Buckets of numbers, by where they begin; what is missing, or was never seen, comes below all of them."""
    least = min((start for start in starts if start > -math.inf), default=0.0)
    places = [max(start, least - 1) for start in starts]
    numbers = np.array([least - 2] * FIRST_VALUE + places)[local]
    return _Column(name, numbers, starts=tuple(sorted(places)))


def _topics(name: str, bag: tuple[Any, Any], offset: int, encoding: Any) -> Iterator[_Column]:
    """Whether a row has a value, for the most frequent values of a multi-valued column."""
    values, offsets = bag
    owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counts = np.bincount(values - offset)
    for local in np.argsort(-counts, kind="stable")[:TOPICS]:
        has = np.zeros(len(offsets) - 1)
        has[owners[values - offset == local]] = 1
        yield _Column(name, has, topic=value_name(encoding, int(local)))


def _leaves(tree: DecisionTreeRegressor, columns: list[_Column]) -> Iterator[tuple[int, list[str]]]:
    """Each leaf's number, and the conditions on the way to it, those on one column taken together."""
    grown = tree.tree_

    def walk(node: int, bounds: dict[int, tuple[float, float]]) -> Iterator[tuple[int, list[str]]]:
        if grown.children_left[node] < 0:
            yield node, [text for feature, span in bounds.items() for text in columns[feature].says(*span)]
            return
        feature, threshold = int(grown.feature[node]), float(grown.threshold[node])
        above, up_to = bounds.get(feature, (-math.inf, math.inf))
        yield from walk(int(grown.children_left[node]), {**bounds, feature: (above, min(up_to, threshold))})
        yield from walk(int(grown.children_right[node]), {**bounds, feature: (max(above, threshold), up_to)})

    yield from walk(0, {})


def _listed(order: tuple[tuple[float, str, int], ...], above: float, up_to: float) -> str:
    """The values between two thresholds by name, or those that are not, whichever are fewer rows."""
    inside = [one for one in order if above < one[0] <= up_to]
    outside = [one for one in order if not above < one[0] <= up_to]
    negated = sum(one[2] for one in outside) < sum(one[2] for one in inside)
    listed = sorted(outside if negated else inside, key=lambda one: -one[2])
    names = ", ".join(one[1] for one in listed[:NAMED])
    more = len(listed) - NAMED
    tail = f" or {more:,} more" if more > 0 else ""
    return f"{'not ' if negated else ''}{names}{tail}"
