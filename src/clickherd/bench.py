"""How fast this machine trains, and how fast its matrix products would let it: `clickherd bench`.

The rows are random: 13 numeric columns and 26 fields of Zipf-distributed ids, as Criteo's. What is timed is an epoch of
the training loop itself on the encoded store, without the checkpoint at its end; what it is held against is the time of
the network's matrix products alone, on the same micro-batches, which no trainer that computes them can beat.
"""

from __future__ import annotations

import shutil
import statistics
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
from clickherd.errors import ConfigError
from clickherd.layers.relu_mlp import linear
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runtime import check_device, precision_on, seeded, use_threads
from clickherd.train import Trainer

NUM_FIELDS, NUM_NUMERIC = 26, 13
ZIPF = 1.2  # exponent of the ids' frequencies
REPEATS = 30


def bench(config: Config, *, rows: int, ids: int, batch_sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One record per batch size: rows per second, those of the products alone, the share reached, peak memory in MiB.

    The first batches compile kernels and are not timed. Peak memory is that of the process so far. A network without
    matrix products has none to be held against.

    Raises:
        ConfigError: a setting that is not the bench's to take.
    """
    if config.train.device != "cpu":
        raise ConfigError("clickherd bench measures the CPU", mend="Leave train.device out.")
    if config.train.batch_size is not None:
        raise ConfigError("train.batch_size is set by --batch-size here", mend="Use --batch-size.")
    check_device(config.train.device, config.train.precision)
    use_threads(config.train.threads)
    with tempfile.TemporaryDirectory(prefix="clickherd-bench-") as folder, seeded(config.train.seed):
        layout = _layout(ids)
        rows = max(rows, 2 * max(batch_sizes))  # an epoch holds two full batches at least
        warm_up, store = (_store(Path(folder) / name, layout, n) for name, n in (("warm", 16_384), ("rows", rows)))
        for batch_size in batch_sizes:
            train = config.train.model_copy(update={"batch_size": batch_size, "epochs": 1})
            settings = config.model_copy(update={"train": train})
            _rows_per_second(settings, warm_up, Path(folder) / "run")
            speed = _rows_per_second(settings, store, Path(folder) / "run")
            seconds = products_seconds(_learner(settings, layout), settings)
            yield {
                "model": config.model.name,
                "batch_size": batch_size,
                "rows": rows,
                "ids": layout.num_ids,
                "precision": precision_on("cpu", train.precision),
                "rows_per_second": round(speed, 1),
                "products_rows_per_second": round(1 / seconds, 1) if seconds else None,
                "share": round(speed * seconds, 3) if seconds else None,
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


def _learner(config: Config, layout: Layout) -> Learner:
    model = ClickModel(config.model, layout, init_std=config.optim.init_std)
    assert config.train.batch_size is not None
    return Learner(model, config, config.train.batch_size)


def _rows_per_second(config: Config, store: Store, folder: Path) -> float:
    model = ClickModel(config.model, store.layout, init_std=config.optim.init_std)
    progress = Trainer(config, model, store, None, folder).run()
    shutil.rmtree(folder)  # weights and checkpoint, as large as the table
    return progress.rows / progress.seconds


def products_seconds(learner: Learner, config: Config) -> float:
    """Seconds a row of the network's matrix products, forward and backward, each by the faster of two libraries.

    They are taken as training takes them: on micro-batches, by every worker at the same time.
    """
    size, shapes = min(learner.micro_batch_size, learner.batch_size), list(_products(learner.model.net))
    dtype = torch.bfloat16 if precision_on("cpu", config.train.precision) == "bf16" else torch.float32
    with learner.workers as workers:
        seconds = list(
            workers.map(lambda _: sum(_layer_seconds(*shape, size, dtype) for shape in shapes), range(workers.count))
        )
    return statistics.mean(seconds) / size / len(seconds)


def _products(net: nn.Module) -> Iterator[tuple[int, int]]:
    """(inputs, outputs) of every product of the rows with a weight matrix; stacked ones are (count, in, out)."""
    for parameter in net.parameters():
        if parameter.ndim == 2:
            yield parameter.shape[1], parameter.shape[0]
        elif parameter.ndim == 3:
            yield from [(parameter.shape[1], parameter.shape[2])] * parameter.shape[0]


def _layer_seconds(num_inputs: int, num_outputs: int, size: int, dtype: torch.dtype) -> float:
    x, grad = torch.randn(size, num_inputs).to(dtype), torch.randn(size, num_outputs).to(dtype)
    weight = torch.randn(num_outputs, num_inputs).to(dtype)
    forward = min(_seconds(lambda: x @ weight.t()), _seconds(lambda: linear(x, weight)))
    to_rows = min(_seconds(lambda: grad @ weight), _seconds(lambda: linear(grad, weight.t())))
    return forward + to_rows + _seconds(lambda: grad.t() @ x)


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    """The median of some repeats."""
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        product()
        took.append(time.perf_counter() - began)
    return statistics.median(took)
