"""Training with the table in 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.errors import ConfigError
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.optim.int8 import Int8CowClip, Int8Rows, to_bf16
from clickherd.runtime import seeded
from clickherd.train import Trainer

Run = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")
ROWS = 400


def test_rounding_is_right_on_average_and_never_off_by_more_than_a_step() -> None:
    """Row by row: Δ = max|w| / 127; a row of zeros stays one."""
    torch.manual_seed(0)
    numbers = torch.tensor([[1.27, -0.005, 0.3333, 0.0]] * 20_000 + [[0.0] * 4])
    rows = Int8Rows.zeros(len(numbers), 4, CPU)
    rows.write(slice(None), numbers)
    read = rows.read(slice(None))
    assert (read[-1] == 0).all()
    step = rows.scales[0].item()
    assert step == pytest.approx(0.01, rel=2e-3)
    assert ((read - numbers).abs() <= step * 1.001).all()
    assert rows.codes.abs().max() <= 127
    off = (read[:-1].double().mean(dim=0) - numbers[0]).abs()
    assert (off < 4 * step * 0.5 / 20_000**0.5).all()
    assert len(read[:-1, 1].unique()) == 2
    small = torch.tensor([1.0 + 2**-9])
    found = to_bf16(small.repeat(20_000)).float()
    assert set(found.tolist()) == {1.0, 1.0 + 2**-7}
    assert found.double().mean().item() == pytest.approx(1 + 2**-9, abs=4 * 2**-7 * 0.5 / 20_000**0.5)


def config_of(**more: Any) -> Any:
    settings: dict[str, Any] = {
        "model": {"name": "deepfm", "embedding_dim": 4, "mlp": {"hidden_units": [8]}},
        "optim": {"rule": "none", "l2": 1e-4},
        "train": {"precision": "fp32", "epochs": 3, "patience": None, "batch_size": 100},
    }
    return resolve(settings | more)


def learner_of(store: Store, bits: int | None) -> Learner:
    config = config_of(compression={"trained_bits": bits} if bits else {})
    with seeded(0):
        model = ClickModel(config.model, store.layout, init_std=0.3, compression=config.compression)
        return Learner(model, config, ROWS)


def test_a_step_is_that_of_the_whole_table_but_for_rounding(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    plain, packed = learner_of(store, None), learner_of(store, 8)
    assert isinstance(packed.embedding, Int8CowClip)
    assert packed.model.table.weight.shape == (0, 5)
    start = plain.model.table.weight.clone()
    for learner in (plain, packed):
        with seeded(1):
            learner.step(HostEpoch(store, np.arange(ROWS), CPU), 0, ROWS, learner.hyper)
            learner.settle()
    ours = packed.embedding.rows.read(slice(None))
    step = packed.embedding.rows.scales.float().unsqueeze(1)
    wanted = plain.model.table.weight
    # Twice rounded, and Adam's step the other way where a rounded row turned a gradient's sign.
    assert ((ours - wanted[:, 1:]).abs() <= 2 * step + 2 * plain.hyper.embedding_learning_rate).all()
    close = ((ours - wanted[:, 1:]).abs() <= 2 * step).double().mean()
    assert close > 0.95
    assert ((wanted - start).abs().max()) > 0.5 * plain.hyper.embedding_learning_rate
    torch.testing.assert_close(packed.embedding.linear[0], wanted[:, 0], rtol=0.05, atol=2e-4)


def test_it_takes_a_third_of_the_memory(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    sizes = []
    for bits in (None, 8):
        config = config_of(
            model={"name": "fm", "embedding_dim": 32}, compression={"trained_bits": bits} if bits else {}
        )
        with seeded(0):
            model = ClickModel(config.model, store.layout, compression=config.compression)
            learner = Learner(model, config, ROWS)
            average = learner.average(4.0)
        own = [value for value in vars(learner.embedding).values() if isinstance(value, torch.Tensor)]
        if isinstance(learner.embedding, Int8CowClip):
            for rows in (learner.embedding.rows, learner.embedding.mean):
                own += [rows.codes, rows.scales]
        own += [tensor for name, tensor in average.tensors().items() if not name.startswith("net.")]
        own.append(model.table.weight)
        sizes.append(sum(t.numel() * t.element_size() for t in {id(t): t for t in own}.values()))
    assert sizes[1] < 0.36 * sizes[0]


def test_it_learns_as_well_and_a_resumed_run_ends_the_same(make_store: Callable[..., Store], tmp_path: Path) -> None:
    train, valid = make_store(3_000, 1), make_store(1_000, 2)
    scores = {}
    for bits in (None, 8):
        config = config_of(compression={"trained_bits": bits} if bits else {})
        with seeded(0):
            model = ClickModel(config.model, train.layout, compression=config.compression)
            trainer = Trainer(config, model, train, valid, tmp_path / f"run-{bits}")
            progress = trainer.run()
        scores[bits] = progress.best_score
        if bits:
            assert model.packed is not None
            scored = {name: tensor.clone() for name, tensor in model.tensors().items()}
    assert scores[8] > scores[None] - 0.01

    config = config_of(compression={"trained_bits": 8})
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 40

    from clickherd.errors import Interrupted

    for should_stop in (stop, lambda: False):
        with seeded(0):
            model = ClickModel(config.model, train.layout, compression=config.compression)
            trainer = Trainer(config, model, train, valid, tmp_path / "cut", should_stop=should_stop)
            trainer.restore()
            if should_stop is stop:
                with pytest.raises(Interrupted):
                    trainer.run()
                assert 0 < trainer.progress.total_steps < 90
            else:
                trainer.run()
    for name, tensor in model.tensors().items():
        assert torch.equal(tensor, scored[name]), name


@pytest.mark.parametrize("more", [[], ["--set", "optim.averaging=null"], ["--model", "dcnv2", "--epochs", 1]])
def test_a_run_in_8_bits_is_a_run(run: Run, odd_clicks: Path, more: list[str]) -> None:
    base = ["--label", "Clicked?", "--epochs", 2, "--no-report", "--json", "--set", "compression.trained_bits=8"]
    code, out, err = run("train", odd_clicks, *base, *more, "--out", "run")
    assert code == 0, err
    auc = json.loads(out)["valid"]["auc"]
    code, out, err = run("train", "--resume", "run", "--no-report", "--json")
    assert code == 0, err
    assert json.loads(out)["valid"]["auc"] == auc
    code, _, err = run("predict", "run", odd_clicks, "--out", "scores.csv")
    assert code == 0, err


def test_settings_that_do_not_go_together_are_told(make_store: Callable[..., Store]) -> None:
    layout = make_store(10).layout
    for more in ({"bits": {"f0": 4}}, {"dense_bits": 16}, {"unified": {"rows": 5}}):
        config = config_of(compression={"trained_bits": 8, **more})
        with pytest.raises(ConfigError, match="compression"):
            config.compression.check_fields(layout, 4)
