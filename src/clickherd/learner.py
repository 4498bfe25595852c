"""How one batch changes the weights, and what the next one depends on.

A batch is the sum of its micro-batches: a cache-sized slice of rows goes through the network at a time, gradients add
up to those of the whole batch, and both optimisers step once per batch. But for the rows' own ids and numbers, memory
does not grow with the batch. On a CPU several micro-batches are under way at a time; their gradients are added in
order, so that a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd import mup
from clickherd.config import Config
from clickherd.device_store import Epoch
from clickherd.errors import ConfigError
from clickherd.graphs import Graphed
from clickherd.int8_average import Int8Average
from clickherd.masking import Mask
from clickherd.network import ClickModel, TensorBatch, micro_batches
from clickherd.optim.adam import KerasAdam
from clickherd.optim.averaging import WeightAverage
from clickherd.optim.cowclip import CowClip, CowClipConfig, lag_for
from clickherd.optim.int8 import Int8CowClip
from clickherd.optim.scaling import Hyperparameters, scaled
from clickherd.runtime import precision_on
from clickherd.threads import get_threads
from clickherd.workers import Workers

MICRO_BATCH, MIN_MICRO_BATCH = 1024, 128  # rows, on a CPU


@dataclass(frozen=True)
class Gradients:
    """What a micro-batch adds to its batch: its share of the mean loss, and of the gradients."""

    loss: torch.Tensor  # BCE of the prediction, without what some models add to it in training
    rows: torch.Tensor  # (B, F, D)
    wide: torch.Tensor | None  # (B,)
    sequences: list[torch.Tensor]  # (N, D) of each sequence that the network takes value by value
    dense: list[torch.Tensor]  # of the network's weights, in their order


class Learner:
    """A model and its two optimisers. `keeps_last`: the last weights count, whether or not others scored better."""

    keeps_last = False

    def __init__(self, model: ClickModel, config: Config, batch_size: int) -> None:
        optim = config.optim
        model.unpack()
        self.model = model
        self.batch_size = batch_size  # of a full batch; the hyper-parameters belong to it
        self.hyper = scaled(optim, batch_size)
        threads = get_threads() if _runs_in_parallel(model) else 1
        self.micro_batch_size = config.train.micro_batch_size or micro_batch_size_for(model, batch_size, threads)
        precision = precision_on(model.device.type, config.train.precision)
        self.bf16 = precision == "bf16"
        self.mask = Mask(config.train.mask, model.layout)
        betas = (self.hyper.beta1, optim.betas[1])
        shares = mup.rates(model, optim.mup_base)
        self.dense = KerasAdam(model.net.parameters(), betas=betas, epsilon=optim.epsilon, shares=shares)
        per_value = model.places.config.lookups if model.places is not None else 1
        lookups = batch_size * len(model.layout.fields) * per_value
        kind = CowClip if config.compression.trained_bits is None else Int8CowClip
        if kind is Int8CowClip and 2 * self.hyper.l2 > self.hyper.clip and optim.regularize == "table":
            raise ConfigError(
                f"λ {self.hyper.l2:g} alone is more than the clip {self.hyper.clip:g} lets through: rows that no batch "
                "touches would be clipped, and those in 8 bits are not looked at",
                mend="Lower optim.l2, or leave compression.trained_bits out.",
            )
        self.embedding = kind(
            model.table,
            CowClipConfig(optim.zeta, betas, optim.epsilon, optim.regularize == "batch"),
            lag_for(len(model.table.weight), lookups, model.device.type),
        )
        # Rows in few bits are unpacked for a whole batch: it has to be there, also on a GPU.
        self._whole = model.device.type == "cpu" or isinstance(self.embedding, Int8CowClip)
        self.workers = Workers(min(threads, -(-batch_size // self.micro_batch_size)))
        self._width = model.table.weight.shape[1] - int(model.table.wide)
        self._graphed: Graphed | None = None
        if model.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            if config.train.cuda_graphs and not self._whole:
                self._graphed = Graphed(self.add_gradients)

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Train on rows [start, stop) as one batch at the given rates, with the `workers` if they are at work.

        Returns the mean BCE of the predictions and, shape (2,), the numbers of table rows touched and clipped. Both
        are on the device, and nothing here waits for it.
        """
        self.model.net.train()
        self.dense.zero_grad()
        size, loss_sum = stop - start, torch.zeros((), device=self.model.device)
        bounds = micro_batches(size, self.micro_batch_size)
        if not self._whole:
            for first, last in bounds:
                batch = self._ready(rows.take(start + first, start + last))
                loss_sum += (self._graphed or self.add_gradients)(batch, size)
        else:
            whole = self._ready(rows.take(start, stop))
            batches = [whole.slice(first, last) for first, last in bounds]
            computed = self.workers.map(partial(self.gradients, batch_size=size), batches)
            for batch, gradients in zip(batches, computed, strict=True):
                loss_sum += self._add(batch, gradients)
        for weight, l2 in self.model.net.l2_terms():
            assert weight.grad is not None
            weight.grad.add_(weight.detach(), alpha=2 * l2)
        self.dense.update(hyper.learning_rate)
        return loss_sum, self.embedding.step(hyper)

    def _ready(self, batch: TensorBatch) -> TensorBatch:
        """The rows with their ids masked, once those of the table are up to date."""
        batch = self.model.with_sequences(batch)
        self.mask.apply(batch.ids, batch.bags + batch.sequences)
        batch = self.model.located(batch)
        values = tuple((self._rows(k, values), ends) for k, (values, ends) in enumerate(batch.sequences))
        ids, bags = self.embedding.touch(batch.ids, batch.bags + values)
        if self.model.places is not None:
            return batch
        first = len(batch.bags)
        return TensorBatch(ids, bags[:first], batch.numeric, batch.labels, bags[first:])

    def _rows(self, sequence: int, values_N: torch.Tensor) -> torch.Tensor:
        """The rows of the table that the values of a sequence have, one after the other."""
        return self.model.rows_of_values(values_N, sequence).flatten()

    def gradients(self, batch: TensorBatch, batch_size: int, *, centred: bool = True) -> Gradients:
        """Forward and backward of a micro-batch; changes nothing.

        Where the rule takes a share of what a field's rows have in common off their gradients, `centred` gives those.
        """
        model = self.model
        rows_BFD, wide_B = model.table.gather(batch.ids, batch.bags)
        sequences = model.gather_sequences(batch)
        leaves = [rows_BFD, *sequences, *([wide_B] if model.table.wide else [])]
        leaves = [tensor.requires_grad_() for tensor in leaves] + list(model.net.parameters())
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            inputs = model.inputs(batch, rows_BFD, wide_B, sequences)
            logits = [logits_B.float() for logits_B in model.net.branches(*inputs)]
        loss = binary_cross_entropy_with_logits(logits[0], batch.labels, reduction="sum") / batch_size
        auxiliary = model.net.auxiliary_loss(logits, batch.labels)
        total = loss if auxiliary is None else loss + auxiliary / batch_size
        grad_rows_BFD, *others = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        grad_sequences = [others.pop(0) for _ in sequences]
        grad_wide_B = others.pop(0) if model.table.wide else None
        if centred and self.hyper.common < 1:  # the mean of the micro-batch, as an estimate of the batch's
            less = 1 - self.hyper.common
            grad_rows_BFD = grad_rows_BFD - less * grad_rows_BFD.mean(dim=0)
            grad_wide_B = grad_wide_B - less * grad_wide_B.mean() if grad_wide_B is not None else None
        return Gradients(loss.detach(), grad_rows_BFD, grad_wide_B, grad_sequences, others)

    def _add(self, batch: TensorBatch, gradients: Gradients) -> torch.Tensor:
        """Add all gradients to those of the batch so far; returns the share of the loss."""
        self.dense.accumulate(gradients.dense)
        self.add_rows(batch, gradients)
        return gradients.loss

    def add_rows(self, batch: TensorBatch, gradients: Gradients) -> None:
        """Add the gradients of the table's rows to those of the batch so far."""
        self.embedding.accumulate(batch.ids, batch.bags, gradients.rows, gradients.wide)
        for k, (values, _) in enumerate(batch.sequences):
            rows_N = self._rows(k, values)
            self.embedding.accumulate_values(rows_N, gradients.sequences[k].reshape(len(rows_N), self._width))

    def add_gradients(self, batch: TensorBatch, batch_size: int) -> torch.Tensor:
        """Forward and backward of a micro-batch, added to the gradients of the batch; returns its share of the loss."""
        return self._add(batch, self.gradients(batch, batch_size))

    def settle(self) -> None:
        """Bring the whole table up to date, before anything but the next batch reads it."""
        self.embedding.settle()
        if isinstance(self.embedding, Int8CowClip):
            self.model.hold(self.embedding.rows.codes, self.embedding.rows.scales, self.embedding.linear[0])

    def average(self, eta: float) -> WeightAverage | Int8Average:
        """An average of the weights, which begins."""
        if isinstance(self.embedding, Int8CowClip):
            return Int8Average(self.embedding, self.model, eta)
        return WeightAverage(self.model.tensors(), eta)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the next batch depends on, for a checkpoint: weights, optimisers, random numbers."""
        self.settle()
        tensors = self.model.tensors() | {"rng": torch.get_rng_state()}
        tensors |= {f"embedding.{name}": t for name, t in self.embedding.tensors().items()}
        tensors |= {f"dense.{name}": t for name, t in self.dense.tensors().items()}
        if self.model.device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self.model.device)
        return tensors

    def load_tensors(self, tensors: dict[str, torch.Tensor], num_steps: int, source: str) -> None:
        """The inverse of `tensors`, after `num_steps` batches. Takes the tensors out of the dict as it goes.

        Raises:
            RunError: the weights do not fit the model; `source` is the file that is named.
        """
        torch.set_rng_state(tensors.pop("rng"))
        if "cuda_rng" in tensors:
            torch.cuda.set_rng_state(tensors.pop("cuda_rng"), self.model.device)
        self.embedding.load_tensors(take_part(tensors, "embedding."), num_steps)
        self.dense.load_tensors(take_part(tensors, "dense."), num_steps)
        self.model.load_tensors(tensors, source)


def _runs_in_parallel(model: ClickModel) -> bool:
    """Whether micro-batches may go through the network side by side: it keeps no statistics and draws no numbers."""
    keeps = any(buffer.is_floating_point() for buffer in model.net.buffers())  # others are places, and do not change
    draws = any(isinstance(module, nn.Dropout) or getattr(module, "draws", False) for module in model.net.modules())
    return model.device.type == "cpu" and not keeps and not draws


def micro_batch_size_for(model: ClickModel, batch_size: int, threads: int) -> int:
    """Rows at a time: what fits a CPU's cache, or by a high estimate a quarter of a GPU's free memory.

    Two threads have something to do at least, if there are so many; more for small batches would change the sums, and
    so the weights, from machine to machine.
    """
    if model.device.type == "cpu":
        shared = threads > 1 and batch_size < 2 * MICRO_BATCH
        return max(MIN_MICRO_BATCH, -(-batch_size // 2)) if shared else MICRO_BATCH
    inputs = len(model.layout.fields) * model.row_width + len(model.layout.numeric)
    units = sum(weight.shape[0] for weight in model.net.parameters() if weight.dim() == 2)
    numbers = 8 * (inputs + units)  # values, gradients, and what operators keep for the way back: of an MLP
    if model.config.sequences:
        numbers *= sum(field.max_length or 0 for field in model.layout.sequences)
    else:
        numbers = max(numbers, 3 * kept_per_row(model))  # of what keeps more than its units
    bytes_per_row = 4 * numbers
    num_rows = torch.cuda.mem_get_info(model.device)[0] // 4 // bytes_per_row
    return max(MICRO_BATCH, 1 << (int(num_rows).bit_length() - 1))


def kept_per_row(model: ClickModel) -> int:
    """Numbers that the network's forward pass keeps of each row for the way back, a number twice if kept twice."""
    kept = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    def of_rows(num_rows: int) -> int:
        nonlocal kept
        kept = 0
        fields, device = len(model.layout.fields), model.device
        rows_BFD = torch.zeros(num_rows, fields, model.row_width, device=device, requires_grad=True)
        numeric_BK = torch.zeros(num_rows, len(model.layout.numeric), device=device)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model.net(rows_BFD, torch.zeros(num_rows, device=device), numeric_BK)
        return kept

    training = model.net.training
    model.net.eval()  # so that no averages move and no random numbers are drawn
    per_row = (of_rows(16) - of_rows(8)) // 8  # weights are kept too, but not more of them for more rows
    model.net.train(training)
    return per_row


def take_part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take the tensors under `prefix` out of `tensors`."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
