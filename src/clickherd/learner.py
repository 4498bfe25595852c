"""How one batch changes the weights, and what the next one depends on.

A batch is the sum of its micro-batches: a cache-sized slice of rows goes through the network at a time, gradients add
up to those of the whole batch, and both optimisers step once per batch. Memory does not grow with the batch.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.config import Config
from clickherd.device_store import Epoch
from clickherd.graphs import Graphed
from clickherd.masking import Mask
from clickherd.network import ClickModel, TensorBatch, micro_batches
from clickherd.optim.adam import KerasAdam
from clickherd.optim.cowclip import CowClip, CowClipConfig, lag_for
from clickherd.optim.scaling import Hyperparameters, scaled

MICRO_BATCH = 2048  # rows, on a CPU


class Learner:
    """A model and its two optimisers."""

    def __init__(self, model: ClickModel, config: Config, batch_size: int) -> None:
        optim = config.optim
        self.model = model
        self.batch_size = batch_size  # of a full batch; the hyper-parameters belong to it
        self.hyper = scaled(optim, batch_size)
        self.micro_batch_size = config.train.micro_batch_size or micro_batch_size_for(model)
        self.bf16 = config.train.precision == "bf16"
        self.mask = Mask(config.train.mask, model.layout)
        self.dense = KerasAdam(model.net.parameters(), betas=optim.betas, epsilon=optim.epsilon)
        lookups = batch_size * len(model.layout.fields)
        self.embedding = CowClip(
            model.table,
            CowClipConfig(optim.zeta, optim.betas, optim.epsilon, optim.regularize == "batch"),
            lag_for(model.layout.num_ids, lookups),
        )
        self._graphed: Graphed | None = None
        if model.device.type == "cuda":
            torch.set_float32_matmul_precision("high" if config.train.precision == "tf32" else "highest")
            if config.train.cuda_graphs:
                self._graphed = Graphed(self.add_gradients)

    def step(self, rows: Epoch, start: int, stop: int, hyper: Hyperparameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Train on rows [start, stop) as one batch at the given rates.

        Returns the mean loss and, shape (2,), the numbers of table rows touched and clipped. Both are on the device,
        and nothing here waits for it.
        """
        self.model.net.train()
        self.dense.zero_grad(set_to_none=False)
        loss_sum = torch.zeros((), device=self.model.device)
        for first, last in micro_batches(stop - start, self.micro_batch_size):
            batch = rows.take(start + first, start + last)
            self.mask.apply(batch.ids, batch.bags)
            self.embedding.touch(batch.ids, batch.bags)
            loss_sum += (self._graphed or self.add_gradients)(batch, stop - start)
        for weight, l2 in self.model.net.l2_terms():
            assert weight.grad is not None
            weight.grad.add_(weight.detach(), alpha=2 * l2)
        self.dense.update(hyper.learning_rate)
        return loss_sum, self.embedding.step(hyper)

    def add_gradients(self, batch: TensorBatch, batch_size: int) -> torch.Tensor:
        """Forward and backward of a micro-batch; returns its share of the batch's mean loss."""
        model = self.model
        rows_BFD, wide_B = model.table.gather(batch.ids, batch.bags)
        rows_BFD.requires_grad_()
        wide_B.requires_grad_(model.table.wide)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            logits_B = model.net(rows_BFD, wide_B, batch.numeric).float()
        loss = binary_cross_entropy_with_logits(logits_B, batch.labels, reduction="sum") / batch_size
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        grad_rows_BFD = torch.zeros_like(rows_BFD) if rows_BFD.grad is None else rows_BFD.grad
        self.embedding.accumulate(batch.ids, batch.bags, grad_rows_BFD, wide_B.grad)
        return loss.detach()

    def settle(self) -> None:
        """Bring the whole table up to date, before anything but the next batch reads it."""
        self.embedding.settle()

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
        self.embedding.load_tensors(_take_part(tensors, "embedding."), num_steps)
        self.dense.load_tensors(_take_part(tensors, "dense."), num_steps)
        self.model.load_tensors(tensors, source)


def micro_batch_size_for(model: ClickModel) -> int:
    """Rows at a time: what fits a CPU's cache, or by a high estimate a quarter of a GPU's free memory."""
    if model.device.type == "cpu":
        return MICRO_BATCH
    inputs = len(model.layout.fields) * model.config.embedding_dim + len(model.layout.numeric)
    units = sum(weight.shape[0] for weight in model.net.parameters() if weight.dim() == 2)
    bytes_per_row = 4 * 8 * (inputs + units)  # values, gradients, and what operators keep for the way back
    num_rows = torch.cuda.mem_get_info(model.device)[0] // 4 // bytes_per_row
    return max(MICRO_BATCH, 1 << (int(num_rows).bit_length() - 1))


def _take_part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take the tensors under `prefix` out of `tensors`."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
