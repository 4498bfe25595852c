"""Training through the GPU's kernels, run by Triton's interpreter, leaves the weights that the CPU's kernels leave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.device_store import DeviceEpoch, DeviceStore, HostEpoch
from clickherd.kernels import Kernels, cpu
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runtime import seeded

gpu = pytest.importorskip("clickherd.kernels.gpu", reason="triton is not installed", exc_type=ModuleNotFoundError)
CPU = torch.device("cpu")


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("model", ["deepfm", "lr"])
def test_steps_through_either_kernels_agree(
    make_store: Callable[..., Store], monkeypatch: pytest.MonkeyPatch, model: str, lag: int
) -> None:
    store = make_store(120)
    monkeypatch.setattr("clickherd.learner.lag_for", lambda *_: lag)
    results = []
    for kernels, epoch in (
        (cpu, HostEpoch(store, np.arange(120), CPU)),
        (gpu, DeviceEpoch(DeviceStore.of(store, CPU), torch.arange(120))),
    ):
        results.append(train(kernels, epoch, store, model, monkeypatch))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def train(
    kernels: Kernels, epoch: HostEpoch | DeviceEpoch, store: Store, model: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """Five batches in micro-batches, the last one short; what all of them left behind."""
    monkeypatch.setattr(EmbeddingTable, "kernels", kernels)
    config = resolve(
        {
            "model": {"name": model, **({"mlp": {"hidden_units": [8]}} if model == "deepfm" else {})},
            "optim": {"rule": "cowclip", "clip": 1e-3, "l2": 1e-4, "base_batch_size": 28},
            "train": {"micro_batch_size": 16},
        }
    )
    with seeded(0):
        learner = Learner(ClickModel(config.model, store.layout), config, 28)
    losses, tallies = [], []
    for start in range(0, 120, 28):
        loss, tally = learner.step(epoch, start, min(start + 28, 120), learner.hyper)
        losses.append(loss)
        tallies.append(tally)
    left = learner.tensors() | {"losses": torch.stack(losses), "tallies": torch.stack(tallies)}
    assert left["tallies"][:, 0].all()
    return left
