"""What of a CUDA graph needs no GPU: which batches it leaves alone, and that copies do not share a recording."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from clickherd import graphs
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


def test_a_batch_keeps_its_ids_after_the_graph_has_read_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step updates the rows of all its micro-batches at the end. Recording itself needs a GPU: a stand-in here."""

    class Recording:
        def replay(self) -> None:
            pass

    monkeypatch.setattr(graphs, "WARM_UP", 0)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    batches = [
        TensorBatch(torch.full((4, 2), k, dtype=torch.int32), (), torch.zeros(4, 1), torch.ones(4)) for k in (1, 2)
    ]
    graphed = Graphed(clicks)
    for batch in batches:
        graphed(batch, 8)
    assert [batch.ids.unique().tolist() for batch in batches] == [[1], [2]]
