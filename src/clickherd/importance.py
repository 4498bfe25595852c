"""Permutation importance: how much worse the scores get when one field's values are shuffled across rows.

Breiman, "Random Forests", Machine Learning 45 (2001), section 10. The model is not refitted, so a field whose
information another field repeats looks less important than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from clickherd import metrics
from clickherd.data.gather import take_bag
from clickherd.data.store import Batch, Layout

Predict = Callable[[Batch], npt.NDArray[np.floating]]
Order = npt.NDArray[np.int64]
Shuffle = Callable[[Order], Batch]


@dataclass(frozen=True)
class FieldImportance:
    """What shuffling one field costs. A field that the model does not use has about 0 in all three."""

    name: str
    auc_drop_mean: float
    auc_drop_std: float  # over the repeats; 0 for a single one
    logloss_rise_mean: float


def permutation_importance(
    predict: Predict, batch: Batch, layout: Layout, *, repeats: int = 3, seed: int = 0
) -> list[FieldImportance]:
    """Each field's importance on the labelled rows of `batch`, the largest drop in AUC first.

    `predict` maps a batch of B rows to B click probabilities and must leave the batch as it is. It is called
    1 + repeats · (fields + numeric columns) times. Every field meets the same `repeats` permutations, so that
    fields are compared on equal terms. The list is empty when the labels hold only one class: AUC is then undefined.

    Raises:
        ValueError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: at least one permutation is needed.")
    y_true = batch.labels
    if len(np.unique(y_true)) < 2:
        return []
    y_score = predict(batch)
    auc, logloss = metrics.auc(y_true, y_score), metrics.logloss(y_true, y_score)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(batch)) for _ in range(repeats)]

    found = []
    for name, shuffle in _shuffles(batch, layout):
        drops, rises = [], []
        for order in orders:
            y_score = predict(shuffle(order))
            drops.append(auc - metrics.auc(y_true, y_score))
            rises.append(metrics.logloss(y_true, y_score) - logloss)
        spread = float(np.std(drops, ddof=1)) if repeats > 1 else 0.0
        found.append(FieldImportance(name, float(np.mean(drops)), spread, float(np.mean(rises))))
    return sorted(found, key=lambda field: -field.auc_drop_mean)


def _shuffles(batch: Batch, layout: Layout) -> Iterator[tuple[str, Shuffle]]:
    """Every column's name, and what gives the batch with that column's values in another order of rows."""
    for position, field in enumerate(layout.fields):
        shuffle = partial(_bag, batch, position - layout.num_single) if field.multi else partial(_ids, batch, position)
        yield field.name, shuffle
    for column, name in enumerate(layout.numeric):
        yield name, partial(_numeric, batch, column)


def _ids(batch: Batch, column: int, order: Order) -> Batch:
    ids = batch.ids.copy()
    ids[:, column] = ids[order, column]
    return replace(batch, ids=ids)


def _bag(batch: Batch, index: int, order: Order) -> Batch:
    bags = list(batch.bags)
    bags[index] = take_bag(*bags[index], order)
    return replace(batch, bags=tuple(bags))


def _numeric(batch: Batch, column: int, order: Order) -> Batch:
    values = batch.numeric.copy()
    values[:, column] = values[order, column]
    return replace(batch, numeric=values)
