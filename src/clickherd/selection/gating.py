"""Gates over fields: one binary gate for each column, or an ensemble of them, learned beside the model.

After the abstract of https://arxiv.org/abs/2112.03487: one layer of differentiable binary gates explores too little, an
ensemble of layers more. The equations are ours:

    b_kf = 1[θ_f + ε_kf > 0],    o_f = 1/K Σ_k b_kf             ε ~ Logistic(0, 1), drawn for every batch
    ẽ_f = u_f + o_f·(e_f − u_f)                                 u_f: the row of the field's unknown id
    ∂o_f/∂θ_f := σ(θ_f)(1 − σ(θ_f))                             the slope of P(b_kf = 1) = σ(θ_f)
    min_θ  1/M Σ_m BCE_m + ρ/N Σ_f o_f                          over the M validation rows; N training rows
    kept: σ(θ_f) ≥ ½                                            ρ: nats that a field has to be worth

The K gates of a field have one number θ_f. Each with a number of its own would get the same gradient at every step, as
the loss depends on their mean alone.

- The loss of the gates is that of rows which the model does not learn from. On the training rows the slope of a field
  that is open tells how much its rows have still to grow, which is nothing for a useful field that is learned, and most
  for ids that are being learned by heart.
- Gates are drawn, so that a field is met open and closed, and between. The slope at o = 1 alone says nothing of a
  closed field; the mean of the slopes on the way from closed to open is what the field is worth.

Shapes: V ids, W columns of the table, K layers, G fields with a gate.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clickherd.config import Config
from clickherd.data.store import UNKNOWN, Layout, Store
from clickherd.device_store import Epoch
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.network import ClickModel, TensorBatch, micro_batches
from clickherd.optim.scaling import Hyperparameters
from clickherd.selection.optfs import GateAdam, GatedRows, GatedTable, GateSettings

LEAST = 256  # validation rows that the gates learn from in a step, if there are so many


class FieldGatesConfig(GateSettings):
    """Settings of the search."""

    penalty: float = 5.0  # ρ
    layers: int = 8  # K


class FieldGatedTable(GatedTable):
    """A table whose rows reach the model through the gates of their field."""

    def __init__(self, table: EmbeddingTable, layout: Layout, gated: Collection[str], layers: int) -> None:
        self.fields = [field for field in layout.fields if field.name in gated]
        device = table.weight.device
        self.field_V = torch.zeros(len(table.weight), dtype=torch.long, device=device)
        for number, field in enumerate(self.fields):
            self.field_V[field.offset : field.offset + field.size] = number
        gates_G = torch.zeros(len(self.fields), device=device)  # as often open as closed
        self.is_open_KG = torch.ones(layers, len(self.fields), dtype=torch.bool, device=device)
        super().__init__(table, layout, gated, 0.0, "unknown", gates=gates_G)
        self.initial = 1.0
        for field in layout.fields:  # without the field, its "missing" tells nothing either
            if field.name in gated:
                self.is_gated_V[field.offset : field.offset + field.size] = True
                self.is_gated_V[field.offset + UNKNOWN] = False
        self.decide()

    def draw(self) -> None:
        """Open each gate with its probability."""
        uniform_KG = torch.rand(self.is_open_KG.shape, device=self.gates.device)
        self.is_open_KG = uniform_KG < self.gates.sigmoid()
        self.refresh()

    def decide(self) -> None:
        """Open the gates of the fields that are kept."""
        self.is_open_KG = (self.gates >= 0).expand_as(self.is_open_KG)
        self.refresh()

    def open_fields(self) -> Tensor:
        """o_f, the share of its gates that are open, shape (G,)."""
        return self.is_open_KG.float().mean(dim=0)

    def openness(self) -> Tensor:
        """How open the way of each id is, shape (V,); 1 where there is no gate."""
        return torch.where(self.is_gated_V, self.open_fields()[self.field_V], 1.0)

    @property
    def kept(self) -> Tensor:
        """Which ids have an open gate, shape (V,)."""
        return self.openness() > 0

    def gate_gradient(self, of_open_V: Tensor, l0: float) -> Tensor:
        """That of θ, shape (G,)."""
        sums_G = torch.zeros_like(self.gates)
        sums_G.index_add_(0, self.field_V, of_open_V * self.is_gated_V)
        shares = self.gates.sigmoid()
        return (sums_G + l0) * shares * (1 - shares)


class FieldGatesLearner(Learner):
    """A model that learns from the training rows, and gates that learn from the validation rows."""

    keeps_last = True  # those that go with the gates
    embedding: GatedRows

    def __init__(
        self,
        model: ClickModel,
        config: Config,
        batch_size: int,
        settings: FieldGatesConfig,
        num_rows: int,
        valid: Store,
        gated: Collection[str],
    ) -> None:
        model.table = self.table = FieldGatedTable(model.table, model.layout, gated, settings.layers)
        super().__init__(model, config, batch_size)
        self.embedding = GatedRows(self.embedding, self.table)
        self.steps_per_epoch = -(-num_rows // batch_size)
        self.l0, self.valid, self.seed = settings.penalty / num_rows, valid, config.train.seed
        self.num_valid = max(-(-len(valid) // self.steps_per_epoch), min(len(valid), LEAST))  # in a batch
        self._order: tuple[int, npt.NDArray[np.int64]] = -1, np.empty(0, np.int64)
        self.gates = GateAdam(self.table, self.embedding.config, settings, self.steps_per_epoch, config.train.epochs)

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[Tensor, Tensor]:
        """Draw gates; let them learn from a share of the validation rows, and the model from its batch."""
        self.table.draw()
        moves = self.embedding.num_steps >= self.gates.first_step
        grad_G = self._of_gates() if moves else torch.zeros_like(self.table.gates)
        results = super().step(rows, start, stop, hyper)
        self.gates.step(grad_G, self.embedding.num_steps)
        return results

    def _of_gates(self) -> Tensor:
        """The gradient of θ for the gates as drawn, shape (G,), on the next validation rows: all in an epoch."""
        self.model.net.eval()
        batch = self.model.with_sequences(TensorBatch.of(self.valid.take(self._next_rows()), self.model.device))
        bounds = micro_batches(self.num_valid, self.micro_batch_size)
        batches = [batch.slice(first, last) for first, last in bounds]
        computed = self.workers.map(partial(self.gradients, batch_size=self.num_valid, centred=False), batches)
        for part, gradients in zip(batches, computed, strict=True):
            self.add_rows(part, gradients)
        of_open_V = self.embedding.of_openness()
        self.embedding.grad_VW.zero_()
        self.embedding.counts_V.zero_()
        return self.table.gate_gradient(of_open_V, self.l0)

    def _next_rows(self) -> npt.NDArray[np.int64]:
        epoch, step = divmod(self.embedding.num_steps, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.valid))
        first = step * self.num_valid
        return self._order[1].take(np.arange(first, first + self.num_valid), mode="wrap")

    def settle(self) -> None:
        """With the gates as they are to be judged."""
        super().settle()
        self.table.decide()

    def tensors(self) -> dict[str, Tensor]:
        """The state between two batches, for a checkpoint."""
        return super().tensors() | self.gates.tensors()

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int, source: str) -> None:
        """The inverse of `tensors`."""
        self.gates.load_tensors({name: tensors.pop(name) for name in self.gates.tensors()})
        super().load_tensors(tensors, num_steps, source)
        self.table.decide()
