"""OptFS: a gate for every value of every field, learned with the model, closed where a value is not worth its row.

Lyu et al., "Optimizing Feature Set for Click-Through Rate Prediction", WWW 2023, https://arxiv.org/abs/2301.10909.

    ẽ_i = g(i)·e_i            g(i) = σ(τ g_i)/σ(g⁰)                        (eqs. 8 and 9: learning by continuation)
    ẽ_i = u + g(i)·(e_i − u)            with `closed` = unknown, u being the row of the field's unknown id
    τ = τ_T^(t/(T - 1))       in epoch t of T, from 0
    L + λ Σ_i σ(τ g_i)        over all values                              (eq. 11)
    kept: g_i > 0

Every g_i starts at g⁰ = ½. The linear weight of a value is gated with its row. Beside the paper:

- λ is stated as ρ/N, N training rows: a value stays if it takes at least ρ nats off the log loss of all rows together.
  The paper's 5e-9 on Criteo's 36.7M rows is ρ = 0.18. What "unknown" and "missing" have for an id is never gated.
- The gates' rate is stated as how far a gate can go in the whole search, which does not depend on the batch size.
- Gates stay as they are in the first epoch: rows start so near zero that λ alone would move their gates.
- A value whose gate is closed becomes "unknown" when the model is trained anew: an embedding that the field's closed
  values share, where the paper has zero. The model then needs no gates, and every other command takes it as it is. So
  that the search asks what it will be answered, gates close towards that embedding; `closed` = zero is the paper's.
- Under the rule `root` gates see the rows' gradients as the rows do: with a share of what a field has in common.

Shapes: V ids, W columns of the table.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import ClassVar, Literal

import torch
from torch import Tensor

from clickherd.config import Config
from clickherd.data.store import FIRST_VALUE, UNKNOWN, Layout
from clickherd.kernels import AdamStep, Bags
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.optim.cowclip import CowClip, CowClipConfig
from clickherd.optim.scaling import Hyperparameters
from clickherd.settings import Settings


class GateSettings(Settings):
    """What searches with gates have in common; `after_search` names what plays no part until a model is learned."""

    after_search: ClassVar[tuple[str, ...]] = ()
    penalty: float
    reach: float = 3.0  # about as far as a gate moves at most in the whole search
    still_epochs: int = 1  # before gates move


class OptFSConfig(GateSettings):
    """Settings of the search; the paper's but for λ and the gates' rate, which it has per data set."""

    penalty: float = 0.2  # ρ
    final_temperature: float = 200.0  # τ_T
    initial_gate: float = 0.5  # g⁰
    closed: Literal["unknown", "zero"] = "unknown"  # what a closed gate leaves of a row


class GatedTable(EmbeddingTable):
    """A table whose rows reach the model through their gates."""

    def __init__(
        self,
        table: EmbeddingTable,
        layout: Layout,
        gated: Collection[str],
        initial_gate: float,
        closed: str,
        gates: Tensor | None = None,
    ) -> None:
        self.wide, self.is_settled, self.weight = table.wide, True, table.weight
        self.initial = 1 / (1 + math.exp(-initial_gate))  # σ(g⁰)
        self.temperature = 1.0
        shape, device = (len(self.weight),), self.weight.device
        self.gates = torch.full(shape, initial_gate, device=device) if gates is None else gates
        self.is_gated_V = torch.zeros(shape, dtype=torch.bool, device=device)
        self.unknown_V = torch.zeros(shape, dtype=torch.long, device=device) if closed == "unknown" else None
        for field in layout.fields:
            if field.name in gated:
                self.is_gated_V[field.offset + FIRST_VALUE : field.offset + field.size] = True
            if self.unknown_V is not None:
                self.unknown_V[field.offset : field.offset + field.size] = field.offset + UNKNOWN
        self.gated_VW = torch.empty_like(self.weight)
        self.refresh()

    @property
    def kept(self) -> Tensor:
        """Which ids stay, shape (V,)."""
        return (self.gates > 0) | ~self.is_gated_V

    def openness(self) -> Tensor:
        """σ(τ g) of every id, shape (V,); σ(g⁰) where there is no gate."""
        return torch.where(self.is_gated_V, (self.temperature * self.gates).sigmoid(), self.initial)

    def gate_gradient(self, of_open_V: Tensor, l0: float) -> Tensor:
        """The gradient of the gates, for that of the loss with respect to how open they are and λ, `l0`."""
        open_V = self.openness()
        return (of_open_V + l0) * self.temperature * open_V * (1 - open_V) * self.is_gated_V

    def refresh(self) -> None:
        """Bring the gated rows up to date."""
        share_V1 = (self.openness() / self.initial).unsqueeze(1)
        torch.mul(self.beyond_closed(), share_V1, out=self.gated_VW)
        if self.unknown_V is not None:
            self.gated_VW += self.weight[self.unknown_V]

    def beyond_closed(self) -> Tensor:
        """What each row has beyond that of a closed gate, shape (V, W)."""
        return self.weight if self.unknown_V is None else self.weight - self.weight[self.unknown_V]

    def gather(self, ids_BS: Tensor, bags: Bags = ()) -> tuple[Tensor, Tensor]:
        """Gated rows (B, F, D) and the sum over fields of the gated linear weights (B,)."""
        return self.kernels.gather(self.gated_VW, ids_BS, bags, self.wide)


class GateAdam:
    """Adam of the gates, which stay as they are in the first epochs and go about `reach` in the others, at most."""

    def __init__(
        self, table: GatedTable, of_rows: CowClipConfig, settings: GateSettings, steps_per_epoch: int, epochs: int
    ) -> None:
        self.table, self.betas, self.epsilon = table, of_rows.betas, of_rows.epsilon
        self.first_step = min(settings.still_epochs, epochs - 1) * steps_per_epoch
        self.rate = settings.reach / (steps_per_epoch * epochs - self.first_step)
        self.moments = [torch.zeros_like(table.gates) for _ in range(2)]

    def step(self, grad: Tensor, num_steps: int) -> None:
        """Move the gates, in a step of which this is the number, from 1."""
        if num_steps > self.first_step:
            mean, square = self.moments
            adam = AdamStep(num_steps - self.first_step, self.rate, 0.0, math.inf, 0.0, *self.betas, self.epsilon)
            self.table.kernels.adam([self.table.gates], [mean], [square], [grad], adam)

    def tensors(self) -> dict[str, Tensor]:
        """The gates and their moments, for a checkpoint."""
        mean, square = self.moments
        return {"gate": self.table.gates, "gate.exp_avg": mean, "gate.exp_avg_sq": square}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])


class GatedRows(CowClip):
    """The optimiser of rows that reach the model through gates: the batch's gradient is that of the gated rows."""

    table: GatedTable

    def __init__(self, of: CowClip, table: GatedTable) -> None:
        super().__init__(table, of.config)

    def step(self, hyper: Hyperparameters) -> Tensor:
        """Update the rows; returns the numbers of rows touched and clipped, shape (2,)."""
        self.pass_on()
        return super().step(hyper)

    def pass_on(self) -> None:
        """Make of the batch's gradient of the gated rows that of the rows, of which the unknown ones are part."""
        table = self.table
        share_V1 = (table.openness() / table.initial).unsqueeze(1)
        of_unknown_VW = self.grad_VW * (1 - share_V1)
        self.grad_VW *= share_V1
        if table.unknown_V is not None:
            self.grad_VW.index_add_(0, table.unknown_V, of_unknown_VW)
            self._count_unknown(table.unknown_V, 1 - share_V1.squeeze(1))

    def of_openness(self) -> Tensor:
        """The batch's gradient of how open each id's way is, shape (V,)."""
        return (self.grad_VW * self.table.beyond_closed()).sum(dim=1) / self.table.initial

    def _count_unknown(self, unknown_V: Tensor, closed_V: Tensor) -> None:
        """Let the unknown rows count as in the batch: to a kernel, a row without a count has no gradient.

        They occur with every value as often as its gate is closed, and at least once where a value of the field does.
        """
        counts_V = self.counts_V.clone()
        as_often_V = (counts_V * closed_V.clamp(min=0)).round().to(counts_V.dtype)
        self.counts_V.index_add_(0, unknown_V, as_often_V)
        met = unknown_V[counts_V > 0]
        self.counts_V[met] = self.counts_V[met].clamp(min=1)


class GatedClip(GatedRows):
    """The optimiser of rows and of a gate for each: the batch's gradient of the gated rows gives that of both."""

    def __init__(
        self, of: CowClip, table: GatedTable, config: OptFSConfig, l0: float, steps_per_epoch: int, epochs: int
    ) -> None:
        super().__init__(of, table)
        self.l0, self.settings, self.steps_per_epoch, self.epochs = l0, config, steps_per_epoch, epochs
        self.gates = GateAdam(table, self.config, config, steps_per_epoch, epochs)

    def step(self, hyper: Hyperparameters) -> Tensor:
        """Update gates and rows; returns the numbers of rows touched and clipped, shape (2,)."""
        grad_V = self.table.gate_gradient(self.of_openness(), self.l0)
        tally = super().step(hyper)
        self.gates.step(grad_V, self.num_steps)
        self.warm()
        return tally

    def warm(self) -> None:
        """Set the temperature of the epoch that the next step is of, and the rows that go with it."""
        epoch = min(self.num_steps // self.steps_per_epoch, self.epochs - 1)
        self.table.temperature = self.settings.final_temperature ** (epoch / max(self.epochs - 1, 1))
        self.table.refresh()

    def tensors(self) -> dict[str, Tensor]:
        """The state between two batches, for a checkpoint."""
        return super().tensors() | self.gates.tensors()

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        self.gates.load_tensors(tensors)
        super().load_tensors(tensors, num_steps)


class GatedLearner(Learner):
    """A model whose table is gated, and its optimisers."""

    keeps_last = True  # those that go with the gates
    embedding: GatedClip

    def __init__(
        self,
        model: ClickModel,
        config: Config,
        batch_size: int,
        settings: OptFSConfig,
        num_rows: int,
        gated: Collection[str],
    ) -> None:
        initial, closed = settings.initial_gate, settings.closed
        model.table = table = GatedTable(model.table, model.layout, gated, initial, closed)
        super().__init__(model, config, batch_size)
        steps = -(-num_rows // batch_size)
        self.embedding = GatedClip(
            self.embedding, table, settings, settings.penalty / num_rows, steps, config.train.epochs
        )

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int, source: str) -> None:
        """The inverse of `tensors`."""
        super().load_tensors(tensors, num_steps, source)
        self.embedding.warm()
