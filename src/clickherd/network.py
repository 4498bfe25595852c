"""A network together with its embedding table: encoded rows in, click probabilities out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clickherd.data.store import Batch, Layout
from clickherd.errors import RunError
from clickherd.kernels import Bags
from clickherd.layers.embedding import EmbeddingTable
from clickherd.models import ModelConfig
from clickherd.threads import get_threads
from clickherd.workers import Workers


@dataclass(frozen=True)
class TensorBatch:
    """A micro-batch on the model's device; shapes as in `data.store.Batch`."""

    ids: Tensor
    bags: Bags
    numeric: Tensor
    labels: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> TensorBatch:
        """The batch's arrays as tensors: on the CPU they share memory, to a GPU they go without waiting for it."""

        def tensor(array: npt.NDArray[Any]) -> Tensor:
            here = torch.from_numpy(array)
            return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here

        bags = tuple((tensor(values), tensor(offsets)) for values, offsets in batch.bags)
        return cls(tensor(batch.ids), bags, tensor(batch.numeric), tensor(batch.labels))

    def slice(self, start: int, stop: int) -> TensorBatch:
        """Rows [start, stop), sharing memory. With multi-valued fields it waits for a GPU."""
        bags = []
        for values, offsets in self.bags:
            begin, end = int(offsets[start]), int(offsets[stop])
            bags.append((values[begin:end], offsets[start : stop + 1] - begin))
        ids, numeric, labels = (column[start:stop] for column in (self.ids, self.numeric, self.labels))
        return TensorBatch(ids, tuple(bags), numeric, labels)


class ClickModel:
    """The dense network `net` and the embedding table `table` that feeds it."""

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        *,
        init_std: float = 1e-2,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.layout, self.device = config, layout, torch.device(device)
        self.net = config.build_for(tuple(field.name for field in layout.fields), len(layout.numeric)).to(self.device)
        self.table = EmbeddingTable(
            layout.num_ids, config.row_width, wide=config.wide, init_std=init_std, device=self.device
        )

    @property
    def num_parameters(self) -> int:
        """Weights in the table and in the network."""
        return self.table.weight.numel() + sum(p.numel() for p in self.net.parameters())

    def predict(self, batch: Batch) -> npt.NDArray[np.float64]:
        """Click probabilities, shape (B,). On a CPU each thread takes 1,024 rows at a time, a GPU 65,536."""
        size = 1024 if self.device.type == "cpu" else 65_536
        assert self.table.is_settled
        self.net.eval()
        parts = (batch.slice(start, stop) for start, stop in micro_batches(len(batch), size))
        threads = get_threads() if self.device.type == "cpu" else 1
        with Workers(min(threads, -(-len(batch) // size))) as workers:
            return np.concatenate([np.empty(0), *workers.map(self._predict, parts)])

    @torch.inference_mode()
    def _predict(self, batch: Batch) -> npt.NDArray[np.float64]:
        part = TensorBatch.of(batch, self.device)
        rows_BFD, wide_B = self.table.gather(part.ids, part.bags)
        logits_B: Tensor = self.net(rows_BFD, wide_B, part.numeric)
        return logits_B.double().sigmoid().cpu().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        assert self.table.is_settled
        return {"table": self.table.weight, **{f"net.{name}": t for name, t in self.net.state_dict().items()}}

    def load_tensors(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take over weights; every name and shape must fit.

        Raises:
            RunError: a name or a shape differs; both sides are named.
        """
        own = self.tensors()
        for name in sorted(own.keys() ^ tensors.keys()):
            side = "the model, not in the file" if name in own else "the file, not in the model"
            raise RunError(f"the weights do not fit the model: {name!r} is in {side}", file=source)
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                raise RunError(
                    f"the weights do not fit the model: {name!r} has shape {tuple(tensors[name].shape)} in the file "
                    f"and {tuple(tensor.shape)} in the model",
                    file=source,
                )
            tensor.copy_(tensors[name])


def micro_batches(num_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of slices of at most `size` rows and nearly equal length: no last slice of a row or two."""
    parts = max(1, -(-num_rows // size))
    bounds = [num_rows * i // parts for i in range(parts + 1)]
    yield from ((a, b) for a, b in itertools.pairwise(bounds) if a < b)
