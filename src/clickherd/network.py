"""A network together with its embedding table: encoded rows in, click probabilities out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clickherd.calibration import Calibration
from clickherd.compact import packing
from clickherd.compact.config import CompressionConfig
from clickherd.compact.decoder import DecodedModel, Decoder
from clickherd.compact.ranks import reduce_layers
from clickherd.compact.unified import Places
from clickherd.data.store import MISSING, Batch, Layout
from clickherd.errors import ConfigError, RunError
from clickherd.kernels import Bags, PackedRows, kernels_for
from clickherd.layers.embedding import EmbeddingTable
from clickherd.layers.sequences import SequenceRows
from clickherd.models import CTRModel, ModelConfig
from clickherd.models.base import SequenceModelConfig
from clickherd.threads import get_threads
from clickherd.workers import Workers


@dataclass(frozen=True)
class TensorBatch:
    """A micro-batch on the model's device; shapes as in `data.store.Batch`.

    `sequences` are those that the model takes value by value; unlike bags, they may be empty.
    """

    ids: Tensor
    bags: Bags
    numeric: Tensor
    labels: Tensor
    sequences: Bags = ()

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
        bags, sequences = (
            tuple(_slice_bag(*bag, start, stop) for bag in ragged) for ragged in (self.bags, self.sequences)
        )
        ids, numeric, labels = (column[start:stop] for column in (self.ids, self.numeric, self.labels))
        return TensorBatch(ids, bags, numeric, labels, sequences)


def _slice_bag(values: Tensor, offsets: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    begin, end = int(offsets[start]), int(offsets[stop])
    return values[begin:end], offsets[start : stop + 1] - begin


class ClickModel:
    """The dense network `net` and the embedding table `table` that feeds it.

    With `compression` rows may be short, and the finished model holds them `packed`: it predicts from these until
    `unpack` makes a table of them again.
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        *,
        init_std: float = 1e-2,
        device: torch.device | str = "cpu",
        compression: CompressionConfig = CompressionConfig(),  # noqa: B008  (frozen)
    ) -> None:
        compression.check_fields(layout, config.row_width)
        self.config, self.layout, self.device = config, layout, torch.device(device)
        self.compression = compression
        self.calibration: Calibration | None = None  # of what `predict` gives
        names = [field.name for field in layout.fields]
        self._sequences = tuple(  # of each: the id of an empty one, and the position of the target
            (field.offset + MISSING, names.index(field.target or "")) for field in layout.sequences if config.sequences
        )
        self._owners = tuple(names.index(field.target or field.name) for field in layout.fields)
        net = self.network(config)
        reduce_layers(net, compression.ranks)
        self.decoder = self._decoder()
        self.net = (DecodedModel(net, self.decoder) if self.decoder is not None else net).to(self.device)
        self.row_width = config.row_width if self.decoder is None else self.decoder.row_width
        self.places = Places(compression.unified) if compression.unified is not None else None
        num_rows, width = layout.num_ids, self.row_width
        if self.places is not None:
            num_rows, width = self.places.num_rows, width // self.places.config.lookups
        self.table = EmbeddingTable(num_rows, width, wide=config.wide, init_std=init_std, device=self.device)
        self.table.shared = self.places is not None
        self.packed: PackedRows | None = None

    @property
    def num_fields(self) -> int:
        """Fields whose rows the network takes as one each: all but the sequences that it takes value by value."""
        return len(self.layout.fields) - len(self._sequences)

    def _decoder(self) -> Decoder | None:
        """What makes embeddings of short rows, if there are any."""
        dims, fields = self.compression.dims, self.layout.fields[: self.num_fields]
        if not dims:
            return None
        return Decoder([dims.get(field.target or field.name) for field in fields], self.config.row_width)

    def pack(self) -> None:
        """Hold the rows as the finished model does, from here on, if that is another way."""
        if self.compression.packs and self.packed is None:
            self._hold(self._packed_rows())

    def unpack(self) -> None:
        """The inverse, but for what was rounded."""
        if self.packed is not None:
            weight = torch.zeros(self.layout.num_ids, self.row_width + self.config.wide, device=self.device)
            packing.unpack(self.packed, weight)
            self.table.weight, self.packed = weight, None

    def _packed_rows(self) -> PackedRows:
        assert self.table.is_settled
        packed = self._room()
        packing.pack(packed, self.table.weight)
        return packed

    def hold(self, codes_VD: Tensor, scales_V: Tensor, linear_V: Tensor) -> None:
        """Predict from these rows of 8 bits, from here on."""
        packed = self._room()
        packing.fill(packed, codes_VD, scales_V, linear_V)
        self._hold(packed)

    def _room(self) -> PackedRows:
        wide, width = self.config.wide, self.config.row_width
        return packing.empty(self.layout, self.compression, width, wide=wide, device=self.device)

    @torch.no_grad()
    def _hold(self, packed: PackedRows) -> None:
        """Predict from these rows, and let go of the table."""
        for tensor in self.net.state_dict().values():
            tensor.copy_(self._kept(tensor))
        packing.set_decoder(packed, self.decoder)
        self.packed, self.table.weight = packed, torch.empty(0, self.table.weight.shape[1], device=self.device)

    def network(self, config: ModelConfig, *, device: torch.device | str = "cpu") -> CTRModel:
        """A dense network as the layout wants it, with weights as at the start."""
        with torch.device(device):
            return self._network(config)

    def _network(self, config: ModelConfig) -> CTRModel:
        num_fields, num_numeric = len(self.layout.fields), len(self.layout.numeric)
        if not isinstance(config, SequenceModelConfig):
            return config.build_for(tuple(field.name for field in self.layout.fields), num_numeric)
        num_sequences = len(self._sequences)
        if not num_sequences:
            raise ConfigError(
                f"{config.name} reads behaviour sequences, and no column is one",
                mend="Name one with --sequence COLUMN:TARGET or --history, or choose another model.",
            )
        return config.build(num_fields - num_sequences, num_numeric, num_sequences=num_sequences)

    @property
    def num_parameters(self) -> int:
        """Weights in the table and in the network."""
        rows = self.layout.num_ids if self.places is None else self.places.num_rows
        return rows * self.table.weight.shape[1] + sum(p.numel() for p in self.net.parameters())

    @property
    def num_bytes(self) -> int:
        """What the weights take on disk, and in memory when predicting."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def predict(self, batch: Batch) -> npt.NDArray[np.float64]:
        """Click probabilities, shape (B,). On a CPU each thread takes 1,024 rows at a time, a GPU 65,536."""
        size = 1024 if self.device.type == "cpu" else 65_536
        assert self.table.is_settled
        self.net.eval()
        parts = (batch.slice(start, stop) for start, stop in micro_batches(len(batch), size))
        threads = get_threads() if self.device.type == "cpu" else 1
        with Workers(min(threads, -(-len(batch) // size))) as workers:
            y_score = np.concatenate([np.empty(0), *workers.map(self._predict, parts)])
        return y_score if self.calibration is None else self.calibration.apply(y_score)

    @torch.inference_mode()
    def _predict(self, batch: Batch) -> npt.NDArray[np.float64]:
        part = self.located(self.with_sequences(TensorBatch.of(batch, self.device)))
        if self.packed is None:
            rows_BFD, wide_B = self.table.gather(part.ids, part.bags)
            logits_B: Tensor = self.net(*self.inputs(part, rows_BFD, wide_B, self.gather_sequences(part)))
        else:
            logits_B = self._from_packed(self.packed, part)
        return logits_B.double().sigmoid().cpu().numpy()

    def _from_packed(self, packed: PackedRows, part: TensorBatch) -> Tensor:
        """Logits (B,): the kernel that unpacks rows makes embeddings of them too."""
        gather = kernels_for(self.device).gather_packed
        net = self.net.inner if isinstance(self.net, DecodedModel) else self.net
        rows_BFD, wide_B = gather(packed, range(part.ids.shape[1] + len(part.bags)), part.ids, part.bags)
        sequences = [
            gather(packed, [target], values.unsqueeze(1), ())[0].squeeze(1)
            for (values, _), (_, target) in zip(part.sequences, self._sequences, strict=True)
        ]
        logits_B: Tensor = net(*self.inputs(part, rows_BFD, wide_B, sequences))
        return logits_B

    def with_sequences(self, batch: TensorBatch) -> TensorBatch:
        """The batch with its sequences apart from the bags, if the network takes them; empty ones hold nothing then.

        With sequences it waits for a GPU.
        """
        if not self._sequences:
            return batch
        first = len(batch.bags) - len(self._sequences)
        pairs = zip(batch.bags[first:], self._sequences, strict=True)
        sequences = tuple(_without(missing, *bag) for bag, (missing, _) in pairs)
        return TensorBatch(batch.ids, batch.bags[:first], batch.numeric, batch.labels, sequences)

    def located(self, batch: TensorBatch) -> TensorBatch:
        """The batch with rows of the table in the place of ids, where fields share them: c columns for each.

        Sequences that the network takes value by value keep their ids; see `rows_of_values`.
        """
        if self.places is None:
            return batch
        single = batch.ids.shape[1]
        ids = [self.places.of(batch.ids[:, k], self._owners[k]) for k in range(single)]
        bags = tuple(
            (rows_N.contiguous(), offsets)
            for k, (values, offsets) in enumerate(batch.bags, single)
            for rows_N in self.places.of(values, self._owners[k]).unbind(1)
        )
        whole = torch.cat(ids, dim=1) if ids else batch.ids
        return TensorBatch(whole, bags, batch.numeric, batch.labels, batch.sequences)

    def rows_of_values(self, values_N: Tensor, sequence: int) -> Tensor:
        """Rows of the table for values of a sequence that the network takes value by value, shape (N, c)."""
        if self.places is None:
            return values_N.unsqueeze(1)
        return self.places.of(values_N, self._sequences[sequence][1])

    def start_at(self, logit: float) -> None:
        """Let the prediction of a model that has learned nothing else be about σ(`logit`)."""
        for bias in self.net.output_biases():
            nn.init.constant_(bias, logit)

    def gather_sequences(self, batch: TensorBatch) -> list[Tensor]:
        """The embedding rows of all values of each sequence, shapes (N, D)."""
        return [
            self.table.gather(self.rows_of_values(values, k))[0].flatten(1)
            for k, (values, _) in enumerate(batch.sequences)
        ]

    def inputs(self, batch: TensorBatch, rows_BFD: Tensor, wide_B: Tensor, sequences: list[Tensor]) -> tuple[Any, ...]:
        """What the network's forward takes: gathered rows, numbers and, if it takes them, sequences."""
        if self.places is not None:
            count = self.places.config.lookups
            num_rows, columns, width = rows_BFD.shape
            rows_BFD = rows_BFD.reshape(num_rows, columns // count, count * width)
        inputs = (rows_BFD, wide_B, batch.numeric)
        if not self._sequences:
            return inputs
        parts = zip(sequences, batch.sequences, self._sequences, strict=True)
        return (*inputs, tuple(SequenceRows(rows, offsets, target) for rows, (_, offsets), (_, target) in parts))

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name."""
        assert self.table.is_settled
        return self._with_net({"table": self.table.weight} if self.packed is None else packing.tensors(self.packed))

    def finished_tensors(self) -> dict[str, Tensor]:
        """All weights by name, as the finished model holds them; this one stays as it is."""
        if not self.compression.packs or self.packed is not None:
            return self.tensors()
        return self._with_net(packing.tensors(self._packed_rows()))

    def _with_net(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = (lambda tensor: tensor) if "table" in rows else self._kept
        return {**rows, **{f"net.{name}": kept(tensor) for name, tensor in self.net.state_dict().items()}}

    def _kept(self, tensor: Tensor) -> Tensor:
        """A weight of the dense network as the finished model has it on disk."""
        halved = self.compression.dense_bits == 16 and tensor.dim() > 1 and tensor.is_floating_point()
        return tensor.half() if halved else tensor

    def load_tensors(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Take over weights; every name and shape must fit. Packed ones leave the model packed, others as a table.

        Raises:
            RunError: a name or a shape differs; both sides are named.
        """
        packed = self._room() if self.compression.packs and "packed.codes" in tensors else None
        if packed is None:
            self.unpack()
        own = self.tensors() if packed is None else self._with_net(packing.tensors(packed))
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
        if packed is not None:
            for name, tensor in self.net.state_dict().items():
                tensor.copy_(tensors[f"net.{name}"])
            self._hold(packed)


def _without(missing: int, values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The bag without the values that stand for an empty one."""
    keep = values != missing
    before = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
    return values[keep], before[offsets]


def micro_batches(num_rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of slices of at most `size` rows and nearly equal length: no last slice of a row or two."""
    parts = max(1, -(-num_rows // size))
    bounds = [num_rows * i // parts for i in range(parts + 1)]
    yield from ((a, b) for a, b in itertools.pairwise(bounds) if a < b)
