"""What each way of making a part of a model smaller costs its predictions, one part at a time.

A part is the rows of a field or a dense layer. Its options are measured on a sample of rows by how far the predictions
move: the mean Kullback–Leibler divergence KL(p ‖ q) from the model's own p to those with that part alone made smaller,
q. It is the rise in log loss if p were the truth, needs no labels, and is free of their noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clickherd.compact.packing import rounded, row_bytes
from clickherd.compact.ranks import full_rank, reducible
from clickherd.compression.low_rank import Directions, project_linear
from clickherd.data.store import Batch, FieldLayout, Store
from clickherd.network import ClickModel
from clickherd.outputs import outputs_of

DIMS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SAMPLE = 10_000  # rows
TOLD_EVERY = 10.0  # seconds
SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)  # of a layer's outputs or inputs, whichever are fewer
LEAST = 1e-12  # probabilities closer to 0 and 1 are as good as these

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Option:
    """One way to hold a part: in `num_bytes`, at `loss` nats a row. Fields have `dim` and `bits`, layers `rank`.

    Of a layer, rank None is the layer as it is, its matrix in 16 bits as those of all.
    """

    num_bytes: int
    loss: float
    dim: int | None = None
    bits: int | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Part:
    """A field or a dense layer, and what could become of it; the first option is to leave it as it is.

    `whole_bytes` are those it takes in the whole model, where all numbers have 32 bits.
    """

    name: str
    is_field: bool
    directions: Directions
    whole_bytes: int
    options: list[Option] = field(default_factory=list)


def measure(
    model: ClickModel, batch: Batch, train: Store, *, told: Callable[[str], None] = lambda _: None
) -> list[Part]:
    """All parts of `model` with all their options. The model is the same afterwards.

    `batch` holds the rows to predict; what is kept of a field or layer is chosen by rows of `train`. `told` hears how
    far it is, now and then.
    """
    probe, layers = _Probe(model, batch), reducible(model.net)
    fields = [place for place, own in enumerate(model.layout.fields) if own.target is None]
    outputs = outputs_of(model, train.sample(SAMPLE, 0), layers) if layers else {}
    parts: list[Part] = []
    began = time.monotonic()
    for place in fields:
        parts.append(_field(probe, place, model.layout.fields[place], _occurrences(model, train, place)))
        if time.monotonic() - began > TOLD_EVERY:
            told(f"measured {len(parts)} of {len(fields) + len(layers)} parts")
            began = time.monotonic()
    return parts + [_layer(probe, name, linear, outputs.pop(name)) for name, linear in layers.items()]


def _occurrences(model: ClickModel, train: Store, place: int) -> Tensor:
    """How often each value of a field occurs, in sequences of its values too, shape (V,)."""
    name = model.layout.fields[place].name
    places = [k for k, other in enumerate(model.layout.fields) if name in (other.name, other.target)]
    return torch.from_numpy(np.sum([train.occurrences(k) for k in places], axis=0))


class _Probe:
    """Predictions of a sample, and how far they move."""

    def __init__(self, model: ClickModel, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.own = self._scores()

    def _scores(self) -> Scores:
        return np.clip(self.model.predict(self.batch), LEAST, 1 - LEAST)

    def loss(self) -> float:
        """Mean KL(p ‖ q) of the model as it was and as it is."""
        p, q = self.own, self._scores()
        return float(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))

    def ids(self, place: int) -> Tensor:
        """Those of a field that the sample holds, sequences of its values too."""
        layout, batch = self.model.layout, self.batch
        name, single = layout.fields[place].name, layout.num_single
        places = [k for k, other in enumerate(layout.fields) if name in (other.name, other.target)]
        found = [batch.ids[:, k] if k < single else batch.bags[k - single][0] for k in places]
        return torch.from_numpy(np.unique(np.concatenate(found))).long().to(self.model.device)


@torch.no_grad()
def _field(probe: _Probe, place: int, own: FieldLayout, counts_V: Tensor) -> Part:
    table, wide, width = probe.model.table.weight, probe.model.config.wide, probe.model.config.row_width
    first = int(wide)
    directions = Directions.of(table[own.offset : own.offset + own.size, first:], counts_V.to(table.device))
    part = Part(
        own.name,
        True,
        directions,
        own.size * 4 * (width + first),
        [Option(own.size * row_bytes(width, 32, wide=wide), 0.0, width, 32)],
    )
    ids_N = probe.ids(place)
    full = table[ids_N]
    for dim in [dim for dim in DIMS if dim < width] + [width]:
        z_NK = full[:, first:] if dim == width else (full[:, first:] - directions.mean) @ directions.top(dim)
        for bits in (4, 8, 16) if dim else (16,):
            kept_NK = rounded(z_NK, bits)
            if dim < width:
                kept_NK = kept_NK @ directions.top(dim).T + directions.mean
            table[ids_N] = torch.cat([full[:, :first].half().float(), kept_NK], dim=1)
            num_bytes = own.size * row_bytes(dim, bits, wide=wide) + (2 * width * (dim + 1) if dim < width else 0)
            part.options.append(Option(num_bytes, probe.loss(), dim, bits))
    table[ids_N] = full
    return part


@torch.no_grad()
def _layer(probe: _Probe, name: str, linear: nn.Linear, outputs_BN: Tensor) -> Part:
    wide, most = linear.in_features + linear.out_features, min(linear.in_features, linear.out_features)
    biases = linear.out_features if linear.bias is not None else 0
    directions = Directions.of(outputs_BN, centred=linear.bias is not None)
    as_it_is = Option(2 * linear.in_features * linear.out_features + 4 * biases, 0.0)
    part = Part(name, False, directions, 4 * (linear.in_features * linear.out_features + biases), [as_it_is])
    weight, bias = linear.weight.clone(), None if linear.bias is None else linear.bias.clone()
    for rank in sorted({max(1, round(most * share)) for share in SHARES}):
        if rank >= full_rank(linear):
            continue
        low_weight, low_bias = project_linear(linear, directions, rank)
        linear.weight.copy_(low_weight)
        if low_bias is not None:
            linear.bias.copy_(low_bias)
        num_bytes = 2 * rank * wide + (4 * (rank + biases) if biases else 0)
        part.options.append(Option(num_bytes, probe.loss(), rank=rank))
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return part
