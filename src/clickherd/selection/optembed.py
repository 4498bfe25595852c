"""OptEmbed: which values are worth a row of the table, and how many numbers the rows of each field are worth.

Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction", CIKM 2022,
https://arxiv.org/abs/2208.04482. A supernet is learned with a threshold for each field and prefixes of rows drawn at
random; an evolutionary search (`evolution`) then looks for the lengths that the supernet scores best with:

    ẽ_i = u_f + s(‖e_i‖₁ − t_f)·(e_i − u_f),    s(x) = 1[x > 0]
    ∂s/∂x := 2 − 4|x| for |x| ≤ 0.4,    0.4 for 0.4 < |x| ≤ 1,    else 0
    L + α Σ_f exp(−t_f)
    row of example b and field f, as the network sees it: the first d_bf numbers, d_bf ~ U{1, …, D}

Beside the paper: what a closed value leaves is the row u_f of the field's unknown id, as in `optfs`, since that is what
the value has when the model is trained anew; α is stated as ρ/N, N training rows; a prefix is drawn for values of
sequences, too. The linear weight of a value goes with its row and does not count in the norm.

Shapes: V ids, W columns of the table, G fields with a threshold, B rows, F fields, D embedding width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from clickherd.compact.decoder import DecodedModel, Decoding
from clickherd.config import Config
from clickherd.data.store import Layout
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.models import CTRModel
from clickherd.network import ClickModel
from clickherd.optim.cowclip import CowClip
from clickherd.optim.scaling import Hyperparameters
from clickherd.selection.optfs import GateAdam, GatedRows, GatedTable, GateSettings

NEAR, FAR, TAIL = 0.4, 1.0, 0.4  # where the step's slope is steep, where it ends, and what it is in between


class OptEmbedConfig(GateSettings):
    """Settings of the search; the evolution's are the paper's."""

    after_search: ClassVar[tuple[str, ...]] = ("share", "generations", "mutated", "crossed", "mutation")
    penalty: float = 2.0  # ρ
    reach: float = 1.0  # that a threshold moves at most
    share: float = 0.5  # of the table's numbers, at most
    generations: int = 30
    mutated: int = 10  # in each generation
    crossed: int = 10
    mutation: float = 0.1  # of a field's length


def step_slope(x: Tensor) -> Tensor:
    """The long-tailed derivative that the step has on the way back."""
    far = x.abs()
    return torch.where(far <= NEAR, 2 - 4 * far, torch.where(far <= FAR, TAIL, 0.0))


class ThresholdTable(GatedTable):
    """A table whose rows reach the model if they are longer than their field's threshold."""

    def __init__(self, table: EmbeddingTable, layout: Layout, gated: Collection[str]) -> None:
        fields = [field for field in layout.fields if field.name in gated]
        self.field_V = torch.zeros(len(table.weight), dtype=torch.long, device=table.weight.device)
        for number, field in enumerate(fields):
            self.field_V[field.offset : field.offset + field.size] = number
        self.first = int(table.wide)
        thresholds_G = torch.zeros(len(fields), device=table.weight.device)
        super().__init__(table, layout, gated, 0.0, "unknown", gates=thresholds_G)
        self.initial = 1.0
        self.refresh()

    def beyond(self) -> Tensor:
        """‖e_i‖₁ − t_f, shape (V,)."""
        return self.weight[:, self.first :].abs().sum(dim=1) - self.gates[self.field_V]

    def openness(self) -> Tensor:
        """Which rows reach the model, as ones and zeros, shape (V,)."""
        return torch.where(self.is_gated_V, (self.beyond() > 0).float(), 1.0)

    @property
    def kept(self) -> Tensor:
        """Which ids stay, shape (V,)."""
        return self.openness() > 0

    def threshold_gradient(self, of_step_V: Tensor, alpha: float) -> Tensor:
        """The gradient of the thresholds (G,), for that of s(x) times its slope."""
        sums_G = torch.zeros_like(self.gates)
        sums_G.index_add_(0, self.field_V, of_step_V)
        return -sums_G - alpha * (-self.gates).exp()


class ThresholdRows(GatedRows):
    """The optimiser of rows and thresholds."""

    table: ThresholdTable

    def __init__(
        self, of: CowClip, table: ThresholdTable, config: OptEmbedConfig, alpha: float, steps: int, epochs: int
    ) -> None:
        super().__init__(of, table)
        self.alpha = alpha
        self.gates = GateAdam(table, self.config, config, steps, epochs)

    def step(self, hyper: Hyperparameters) -> Tensor:
        """Update thresholds and rows; returns the numbers of rows touched and clipped, shape (2,)."""
        table = self.table
        of_step_V = self.of_openness() * step_slope(table.beyond()) * table.is_gated_V
        grad_G = table.threshold_gradient(of_step_V, self.alpha)
        self.pass_on()
        own_VD = table.weight[:, table.first :]
        self.grad_VW[:, table.first :] += of_step_V.unsqueeze(1) * own_VD.sign()
        tally = CowClip.step(self, hyper)
        self.gates.step(grad_G, self.num_steps)
        table.refresh()
        return tally

    def tensors(self) -> dict[str, Tensor]:
        """The state between two batches, for a checkpoint."""
        return super().tensors() | self.gates.tensors()

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        self.gates.load_tensors(tensors)
        super().load_tensors(tensors, num_steps)


class Prefixes(Decoding):
    """Rows cut short: at random while training, then by `set_lengths`."""

    draws = True  # numbers at random, in an order that threads side by side would not keep

    def __init__(self, num_fields: int, width: int) -> None:
        super().__init__()
        self.num_fields, self.width = num_fields, width
        self.register_buffer("lengths_F", torch.full((num_fields,), width), persistent=False)

    def set_lengths(self, lengths: Sequence[int]) -> None:
        """Cut the rows of each field to so many numbers."""
        assert isinstance(self.lengths_F, Tensor)
        self.lengths_F.copy_(torch.tensor(lengths))

    def forward(self, rows_BFD: Tensor) -> Tensor:
        """The rows of all fields, zero beyond their lengths."""
        return rows_BFD * self._used(rows_BFD, slice(None))

    def decode(self, rows_ND: Tensor, place: int) -> Tensor:
        """Rows of values of the field at `place`, zero beyond their lengths."""
        return rows_ND * self._used(rows_ND, place)

    def _used(self, rows: Tensor, fields: slice | int) -> Tensor:
        assert isinstance(self.lengths_F, Tensor)
        if self.training:
            lengths = torch.randint(1, self.width + 1, rows.shape[:-1], device=rows.device)
        else:
            lengths = self.lengths_F[fields].expand(rows.shape[:-1])
        return torch.arange(self.width, device=rows.device) < lengths.unsqueeze(-1)


class OptEmbedLearner(Learner):
    """A supernet and its optimisers."""

    keeps_last = True  # those that go with the thresholds
    embedding: ThresholdRows

    def __init__(
        self,
        model: ClickModel,
        config: Config,
        batch_size: int,
        settings: OptEmbedConfig,
        num_rows: int,
        gated: Collection[str],
    ) -> None:
        model.table = table = ThresholdTable(model.table, model.layout, gated)
        assert isinstance(model.net, CTRModel)
        model.net = DecodedModel(model.net, Prefixes(model.num_fields, model.row_width)).to(model.device)
        super().__init__(model, config, batch_size)
        steps = -(-num_rows // batch_size)
        alpha = settings.penalty / num_rows
        self.embedding = ThresholdRows(self.embedding, table, settings, alpha, steps, config.train.epochs)

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int, source: str) -> None:
        """The inverse of `tensors`."""
        super().load_tensors(tensors, num_steps, source)
        self.embedding.table.refresh()
