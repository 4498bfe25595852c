"""The cases: FuxiCTR's counterpart of each model, and where each of our weights goes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clickherd.models import MODELS, CTRModel, ModelConfig

FIELDS = {f"field_{i}": size for i, size in enumerate([7, 11, 3, 20, 5, 2, 13])}  # name → number of ids
EMBEDDING_DIM = 4
HIDDEN = [16, 8]
HISTORY, TARGET, LENGTH = "history", "field_3", 5  # a sequence of the target's ids, for models that take one
State = dict[str, Tensor]


class Weights:
    """Our weights by name, and a note of which have been asked for."""

    def __init__(self, net: Mapping[str, Tensor], table: Tensor, config: ModelConfig) -> None:
        self._net = {name: tensor for name, tensor in net.items() if tensor.numel()}
        self._table, self._wide, self._width = table.double(), int(config.wide), config.embedding_dim
        self.unused = {*self._net, *(f"table column {i}" for i in range(table.shape[1]))}
        self.count = table.numel() + sum(t.numel() for t in self._net.values() if t.is_floating_point())

    def __getitem__(self, name: str) -> Tensor:
        """A weight of the network."""
        self.unused.discard(name)
        return self._net[name]

    def has(self, ours: str) -> bool:
        """Whether there is anything under a name."""
        return any(name.startswith(f"{ours}.") for name in self._net)

    def under(self, ours: str, theirs: str) -> State:
        """Everything under a name, under another one."""
        names = [name for name in self._net if name.startswith(f"{ours}.")]
        assert names, ours
        return {theirs + name.removeprefix(ours): self[name] for name in names}

    def embedding(self, theirs: str, part: int = 0) -> State:
        """Embeddings of width D under FuxiCTR's name of the layer; the part'th where a row of ours holds several."""
        return self._columns(theirs, self._wide + part * self._width, self._width)

    def linear(self, theirs: str) -> State:
        """Linear weights of the ids, under FuxiCTR's name of its logistic regression."""
        return self._columns(f"{theirs}.embedding_layer", 0, 1)

    def _columns(self, theirs: str, first: int, count: int) -> State:
        self.unused -= {f"table column {i}" for i in range(first, first + count)}
        fields = self._table[:, first : first + count].split(list(FIELDS.values()))
        names = [f"{theirs}.embedding_layer.embedding_layers.{field}.weight" for field in FIELDS]
        return dict(zip(names, fields, strict=True))


@dataclass(frozen=True)
class Case:
    """One network of ours beside one of theirs."""

    model: str
    config: ModelConfig
    told: dict[str, Any]  # those settings of ours that make the form
    peer: str  # its class
    source: str  # the file, in the model zoo
    options: dict[str, Any]  # of the class
    adapter: Callable[[Weights], State]
    remark: str
    sequence: bool  # whether the rows have a history
    build: Callable[[Any], nn.Module] | None  # from the file's module, where it is not of FuxiCTR's kind
    prepare: Callable[[CTRModel], None]  # what is done to ours before its weights are copied


CASES: list[Case] = []
Adapter = Callable[[Weights], State]


def case(
    model: str,
    source: str,
    options: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    form: Mapping[str, Any] | None = None,
    remark: str = "",
    sequence: bool = False,
    peer: str = "",
    build: Callable[[Any], nn.Module] | None = None,
    prepare: Callable[[CTRModel], None] = lambda _: None,
) -> Callable[[Adapter], Adapter]:
    """Register a comparison: `settings` only make the network small, `form` makes it what FuxiCTR's is."""
    kind, form = MODELS[model], dict(form or {})
    small: dict[str, Any] = {"embedding_dim": 0 if model == "lr" else EMBEDDING_DIM}
    if "mlp" in kind.model_fields and "mlp" not in form:
        small["mlp"] = {"hidden_units": HIDDEN}
    config = kind.model_validate(small | dict(settings or {}) | form)
    name = peer or source.rsplit("/", 1)[-1].removesuffix(".py")

    def register(adapter: Adapter) -> Adapter:
        CASES.append(Case(model, config, form, name, source, dict(options), adapter, remark, sequence, build, prepare))
        return adapter

    return register


def zeros(count: int) -> Tensor:
    """A bias that FuxiCTR has and the paper has not."""
    return torch.zeros(count, dtype=torch.float64)
