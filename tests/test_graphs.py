"""What of a CUDA graph needs no GPU: which batches it leaves alone, and that copies do not share a recording."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import torch

from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.graphs import Graphed
from clickherd.network import TensorBatch


def clicks(batch: TensorBatch, batch_size: int) -> torch.Tensor:
    return batch.labels.sum() / batch_size


def test_batches_with_multi_valued_fields_run_as_they_are(make_store: Callable[..., Store]) -> None:
    store = make_store(100)
    epoch = HostEpoch(store, np.arange(100), torch.device("cpu"))
    graphed = Graphed(clicks)
    for start in range(0, 100, 20):
        found = graphed(epoch.take(start, start + 20), 20)
        assert float(found) == np.float32(store.labels[start : start + 20].mean())


def test_a_copy_records_anew() -> None:
    copy = pickle.loads(pickle.dumps(Graphed(clicks)))
    assert isinstance(copy, Graphed)
    assert copy._graph is None
