"""What the runners of gradient-boosted trees share: the same budget, the same columns, points by rounds.

All grow trees of up to 127 leaves at a learning rate of 0.1, for 300 rounds or until the budget of seconds is used up,
on numeric columns and categorical ids. The encoder numbers a field's ids by falling count, so where a trainer is given
them as numbers, their order means something. No validation rows and no early stopping: the rounds are the budget.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import measure
import numpy as np
import numpy.typing as npt

ROUNDS, LEAVES, LEARNING_RATE = 300, 127, 0.1


class Boosted(ABC):
    """The base of a runner: `train` notes the end of every round, `predict_after` scores with the first rounds."""

    def __init__(self, job: measure.Job, fields: measure.Fields) -> None:
        self.job, self.fields = job, fields
        self.began = 0.0
        self.ends: list[float] = []  # seconds from the start of fit to the end of each round
        self.settings: dict[str, Any] = {
            "budget": f"{ROUNDS} rounds or {job.budget:g} seconds",
            "trees": f"{LEAVES} leaves, learning rate {LEARNING_RATE}",
            "categorical": job.variant,
            "validation": "none",
        }

    @abstractmethod
    def train(self, rows: measure.Rows) -> None:
        """Build the trainer's own data set and add trees until `round_ended` says that it is enough."""

    @abstractmethod
    def predict_after(self, rounds: int, rows: measure.Rows) -> npt.NDArray[np.float64]:
        """Click probabilities by the first `rounds` trees, shape (N,)."""

    def prepare(self, rows: measure.Rows) -> measure.Rows:
        return rows

    def fit(self, prepared: measure.Rows) -> None:
        self.ends.clear()
        self.began = time.perf_counter()
        self.train(prepared)
        self.settings["rounds"] = len(self.ends)

    def predict(self, rows: measure.Rows) -> npt.NDArray[np.float64]:
        return self.predict_after(len(self.ends), rows)

    def curve(self, rows: measure.Rows, curve: measure.Curve) -> None:
        self.fit(rows)
        for rounds in points(len(self.ends), curve.points_per_epoch * curve.epochs):
            curve.add(rounds, self.predict_after(rounds, curve.test), self.ends[rounds - 1])

    def round_ended(self) -> bool:
        """Note the end of a round; whether there is budget for another."""
        self.ends.append(time.perf_counter() - self.began)
        return len(self.ends) < ROUNDS and self.ends[-1] < self.job.budget

    @property
    def names(self) -> list[str]:
        return [*self.fields.categorical, *self.fields.numeric]


def points(rounds: int, count: int) -> list[int]:
    """Numbers of rounds to be scored after: about `count` of them, evenly apart, the last one included."""
    return sorted({max(round(rounds * point / count), 1) for point in range(1, count + 1)}) if rounds else []


def matrix(rows: measure.Rows) -> npt.NDArray[np.float32]:
    """Ids and numeric columns side by side, (N, S + K). A float32 holds ids below 2^24 exactly."""
    assert rows.ids.max(initial=0) < 1 << 24
    return np.hstack([rows.ids.astype(np.float32), rows.numeric])
