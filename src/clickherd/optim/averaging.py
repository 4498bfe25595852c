"""The average of the weights along the way, which is what a large batch at high rates is scored and kept by.

Polynomial-decay averaging, Shamir & Zhang, ICML 2013 (https://arxiv.org/abs/1212.1824), section 4:

    w̄_k = (1 − (η+1)/(k+η)) w̄_{k−1} + (η+1)/(k+η) w_k

w̄_k leans on about the last 1/(η+1) of the way, however long it is: there is no horizon to choose. Training goes on
from w_k as if there were no average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

CHUNK = 1 << 20  # rows that change places at a time


class WeightAverage:
    """The average w̄ of some tensors, which keep their places. Whole numbers are not averaged: the last ones count."""

    def __init__(self, tensors: Mapping[str, Tensor], eta: float) -> None:
        self.eta = eta
        self._pairs = {name: (tensor.detach(), torch.zeros_like(tensor)) for name, tensor in tensors.items()}

    def update(self, k: int) -> None:
        """Take in the weights as they are, for the `k`-th time, counted from 1."""
        share = (self.eta + 1) / (k + self.eta)
        for live, average in self._pairs.values():
            if live.is_floating_point():
                average.lerp_(live, share)
            else:
                average.copy_(live)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages stand where the weights stood, until the end of the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for pair in self._pairs.values():
            if not pair[0].numel():
                continue
            live, average = (tensor.view(-1, *tensor.shape[1:]) for tensor in pair)
            for start in range(0, len(live), CHUNK):
                part = slice(start, start + CHUNK)
                kept = live[part].clone()
                live[part], average[part] = average[part], kept

    def tensors(self) -> dict[str, Tensor]:
        """The averages, for a checkpoint."""
        return {name: average for name, (_, average) in self._pairs.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, (_, average) in self._pairs.items():
            average.copy_(tensors[name])
