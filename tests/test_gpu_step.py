"""Training through the GPU's kernels leaves the weights that the CPU's kernels leave.

Where there is no GPU, Triton's interpreter runs the kernels of the first test on host memory; the others are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clickherd.config import Config, resolve
from clickherd.data.store import Store
from clickherd.device_store import DeviceEpoch, DeviceStore, HostEpoch
from clickherd.errors import Interrupted
from clickherd.evaluate import evaluate
from clickherd.kernels import cpu
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runtime import seeded
from clickherd.train import Trainer
from conftest import TRITON_DEVICE

gpu = pytest.importorskip("clickherd.kernels.gpu", reason="triton is not installed", exc_type=ModuleNotFoundError)
CPU = torch.device("cpu")
MakeStore = Callable[..., Store]


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize("model", ["deepfm", "lr"])
def test_steps_through_either_kernels_agree(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, model: str, lag: int
) -> None:
    store = make_store(120)
    monkeypatch.setattr("clickherd.learner.lag_for", lambda *_: lag)
    order = torch.arange(120, device=TRITON_DEVICE)
    results = []
    for kernels, epoch, device in (
        (cpu, HostEpoch(store, np.arange(120), CPU), CPU),
        (gpu, DeviceEpoch(DeviceStore.of(store, TRITON_DEVICE), order), TRITON_DEVICE),
    ):
        monkeypatch.setattr(EmbeddingTable, "kernels", kernels)
        results.append(train(epoch, store, model, device))
    assert_close(*results)


def assert_close(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name].cpu(), tensor.cpu(), rtol=1e-4, atol=1e-6, msg=name)


def train(epoch: HostEpoch | DeviceEpoch, store: Store, model: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Five batches in micro-batches, the last one short; what all of them left behind."""
    config = resolve(
        {
            "model": {"name": model, **({"mlp": {"hidden_units": [8]}} if model == "deepfm" else {})},
            # with a smaller epsilon, Adam makes a whole step of a gradient that only the devices' rounding differs by
            "optim": {"rule": "cowclip", "clip": 1e-3, "l2": 1e-4, "base_batch_size": 28, "epsilon": 1e-3},
            "train": {"micro_batch_size": 16, "cuda_graphs": False, "precision": "fp32"},
        }
    )
    learner = Learner(made_alike(config, store, device), config, 28)
    losses, tallies = [], []
    for start in range(0, 120, 28):
        loss, tally = learner.step(epoch, start, min(start + 28, 120), learner.hyper)
        losses.append(loss)
        tallies.append(tally)
    left = learner.tensors() | {"losses": torch.stack(losses), "tallies": torch.stack(tallies)}
    assert left["tallies"][:, 0].all()
    return {name: tensor for name, tensor in left.items() if not name.endswith("rng")}


def made_alike(config: Config, store: Store, device: torch.device) -> ClickModel:
    """The same first weights on any device: drawn on the CPU."""
    with seeded(0):
        drawn = ClickModel(config.model, store.layout)
    model = ClickModel(config.model, store.layout, device=device)
    model.load_tensors(drawn.tensors(), "the CPU's")
    return model


def config_of(**train: Any) -> Config:
    return resolve(
        {
            "model": {"name": "deepfm", "mlp": {"hidden_units": [16, 16]}},
            "optim": {"embedding_learning_rate": 1e-2, "learning_rate": 5e-3, "base_batch_size": 256},
            "train": {
                "batch_size": 256,
                "micro_batch_size": 128,
                "epochs": 3,
                "patience": None,
                "device": "cuda",
                "precision": "fp32",
                **train,
            },
        }
    )


def singles_only(store: Store, rows: int, device: torch.device) -> DeviceEpoch:
    """The store's rows without its multi-valued field: what a graph records."""
    whole = DeviceStore.of(store, device)
    return DeviceEpoch(replace(whole, bags=()), torch.arange(rows, device=device))


@pytest.mark.parametrize("model", ["deepfm", "lr", "dcnv2", "dcnv2_mix"])
def test_a_graph_replays_what_it_recorded(make_store: MakeStore, cuda: torch.device, model: str) -> None:
    """Many batches after the recording, and a short one; rates that change are no part of it."""
    rows = 2000
    store = make_store(rows)
    store.layout = replace(store.layout, fields=store.layout.fields[:-1])  # without the bag
    mlp = {} if model == "lr" else {"mlp": {"hidden_units": [8]}}
    results = []
    for graphs in (True, False):
        config = resolve(
            {
                "model": {"name": model, **mlp},
                "optim": {"epsilon": 1e-3},
                "train": {"cuda_graphs": graphs, "precision": "fp32"},
            }
        )
        learner = Learner(made_alike(config, store, cuda), config, 128)
        epoch = singles_only(store, rows, cuda)
        for step, start in enumerate(range(0, rows, 128)):
            hyper = replace(learner.hyper, learning_rate=1e-3 * (1 + step % 3))
            learner.step(epoch, start, min(start + 128, rows), hyper)
        assert (learner._graphed is not None and learner._graphed._graph is not None) == graphs
        results.append({name: t.clone() for name, t in learner.tensors().items() if not name.endswith("rng")})
    assert_close(*results)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_gpu_learns_what_a_cpu_learns(
    make_store: MakeStore, tmp_path: Path, cuda: torch.device, precision: str
) -> None:
    store, valid = make_store(6000, seed=1), make_store(3000, seed=2)
    aucs = []
    for device, setting in ((CPU, "fp32"), (cuda, precision)):
        config = config_of(device=device.type, precision=setting, epochs=6)
        trainer = Trainer(config, made_alike(config, store, device), store, valid, tmp_path / device.type)
        trainer.run()
        aucs.append(evaluate(trainer.model, valid).scores["auc"])
    assert aucs[1] == pytest.approx(aucs[0], abs=0.01)  # other orders of rows: epochs on a GPU are drawn there


def test_a_run_on_a_gpu_resumes(make_store: MakeStore, tmp_path: Path, cuda: torch.device) -> None:
    """To rounding: sums by atomics have no fixed order."""
    store, valid = make_store(2000, seed=1), make_store(500, seed=2)

    def trainer(folder: str, **kwargs: Any) -> Trainer:
        config = config_of()
        return Trainer(config, made_alike(config, store, cuda), store, valid, tmp_path / folder, **kwargs)

    whole = trainer("whole")
    whole.run()
    calls = iter(range(10**6))
    with pytest.raises(Interrupted):
        trainer("cut", should_stop=lambda: next(calls) >= 12).run()
    resumed = trainer("cut")
    assert resumed.restore()
    resumed.run()
    for name, tensor in whole.model.tensors().items():
        torch.testing.assert_close(resumed.model.tensors()[name], tensor, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_rows_that_do_not_fit_are_streamed(
    make_store: MakeStore, tmp_path: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The same epochs, so the same weights to rounding, wherever the rows lie."""
    store = make_store(2000)
    config = config_of(precision=precision, epochs=1)
    found = []
    for share in (0.5, 0.0):
        monkeypatch.setattr("clickherd.device_store.SHARE", share)
        trainer = Trainer(config, made_alike(config, store, cuda), store, None, tmp_path / str(share))
        trainer.run()
        found.append(trainer.model.tensors())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-2, atol=1e-4, msg=name)


def test_a_step_does_not_wait_for_the_device(make_store: MakeStore, cuda: torch.device) -> None:
    store = make_store(2000)
    config = config_of()
    learner = Learner(made_alike(config, store, cuda), config, 256)
    epoch = DeviceEpoch(DeviceStore.of(store, cuda), torch.arange(2000, device=cuda))
    for start in (0, 256, 512, 768):
        learner.step(epoch, start, start + 256, learner.hyper)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for start in (1024, 1280, 1536):
            learner.step(epoch, start, start + 256, learner.hyper)
    finally:
        torch.cuda.set_sync_debug_mode("default")
