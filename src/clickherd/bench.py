"""How fast this machine trains, and how fast its matrix products would let it: `clickherd bench`.

The rows are random: 13 numeric columns and 26 fields of Zipf-distributed ids, as Criteo's. What is timed is an epoch of
the training loop itself, checkpoints included, on the encoded store; what it is held against is the time of the
network's matrix products alone, at the same micro-batch size, which no trainer that computes them can beat.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clickherd import machine
from clickherd.config import Config
from clickherd.data.store import Batch, FieldLayout, Layout, Store, StoreWriter
from clickherd.learner import MICRO_BATCH
from clickherd.network import ClickModel
from clickherd.runtime import check_device, seeded, use_threads
from clickherd.train import Trainer

NUM_FIELDS, NUM_NUMERIC = 26, 13
ZIPF = 1.2  # exponent of the ids' frequencies
REPEATS = 30


def bench(config: Config, *, rows: int, ids: int, batch_sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One record per batch size: rows per second, the floor's, the share of it reached, peak memory in MiB.

    The first batches compile kernels and are not timed. Peak memory is that of the process so far.
    """
    check_device(config.train.device, config.train.precision)
    use_threads(config.train.threads)
    with tempfile.TemporaryDirectory(prefix="clickherd-bench-") as folder, seeded(config.train.seed):
        layout = _layout(ids)
        warm_up, store = (_store(Path(folder) / name, layout, n) for name, n in (("warm", 16_384), ("rows", rows)))
        for batch_size in batch_sizes:
            train = config.train.model_copy(update={"batch_size": batch_size, "epochs": 1})
            settings = config.model_copy(update={"train": train})
            _rows_per_second(settings, warm_up, Path(folder) / f"warm-{batch_size}")
            speed = _rows_per_second(settings, store, Path(folder) / f"run-{batch_size}")
            floor = 1 / _products_seconds(settings, layout)
            yield {
                "model": config.model.name,
                "batch_size": batch_size,
                "precision": train.precision,
                "rows_per_second": round(speed, 1),
                "floor_rows_per_second": round(floor, 1),
                "share": round(speed / floor, 3),
                "peak_rss_mib": round(machine.peak_rss_mib(), 1),
            }


def _layout(num_ids: int) -> Layout:
    """Fields of very different sizes, as in a click log."""
    shares = np.geomspace(1, 1e5, NUM_FIELDS)
    sizes = np.maximum(3, shares / shares.sum() * num_ids).astype(int)
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    fields = (FieldLayout(f"c{i + 1}", int(o), int(s)) for i, (o, s) in enumerate(zip(offsets, sizes, strict=True)))
    return Layout(tuple(fields), tuple(f"i{i + 1}" for i in range(NUM_NUMERIC)))


def _store(path: Path, layout: Layout, num_rows: int) -> Store:
    rng = np.random.default_rng(num_rows)
    with StoreWriter(path, layout) as writer:
        for start in range(0, num_rows, 65_536):
            size = min(65_536, num_rows - start)
            ids = np.stack([f.offset + (rng.zipf(ZIPF, size) - 1) % f.size for f in layout.fields], axis=1)
            labels = (rng.random(size) < 0.25).astype(np.float32)
            numeric = rng.random((size, NUM_NUMERIC), np.float32)
            writer.append(Batch(ids.astype(np.int32), (), numeric, labels, np.empty(0, np.uint64)))
    return Store(path)


def _rows_per_second(config: Config, store: Store, folder: Path) -> float:
    model = ClickModel(config.model, store.layout, init_std=config.optim.init_std, device=config.train.device)
    progress = Trainer(config, model, store, None, folder).run()
    return progress.rows / progress.seconds


def _products_seconds(config: Config, layout: Layout) -> float:
    """Seconds a row of the network's matrix products, forward and backward, each by the faster of two libraries."""
    net = config.model.build(len(layout.fields), len(layout.numeric))
    micro_batch_size = config.train.micro_batch_size or MICRO_BATCH
    size = min(micro_batch_size, config.train.batch_size or micro_batch_size)
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    return sum(_linear_seconds(layer, size, dtype) for layer in net.modules() if isinstance(layer, nn.Linear)) / size


def _linear_seconds(layer: nn.Linear, size: int, dtype: torch.dtype) -> float:
    x = torch.randn(size, layer.in_features).to(dtype)
    grad, weight = torch.randn(size, layer.out_features).to(dtype), layer.weight.detach().to(dtype)
    products = ((x, weight.t()), (grad, weight), (grad.t(), x))
    return sum(min(_seconds(lambda: a @ b), _seconds(lambda: _onednn(a, b))) for a, b in products)  # noqa: B023  (called at once)


def _onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    product()
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - began)
    return best
