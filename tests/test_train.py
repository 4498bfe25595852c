"""The training loop: what a large batch is, what a seed promises, what a checkpoint holds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clickherd.config import Config, merge, resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.errors import ConfigError, Interrupted
from clickherd.evaluate import evaluate
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.optim.config import OptimConfig
from clickherd.optim.scaling import Hyperparameters
from clickherd.runtime import check_device, seeded, use_threads
from clickherd.train import DivergedError, Trainer, batch_size_for

CPU = torch.device("cpu")
MakeStore = Callable[..., Store]


def config_of(**train: object) -> Config:
    return resolve(
        {
            "model": {"name": "deepfm", "mlp": {"hidden_units": [16, 16], "dropout": 0.1}},
            "optim": {"embedding_learning_rate": 1e-2, "learning_rate": 5e-3, "base_batch_size": 256},
            "train": {"batch_size": 256, "micro_batch_size": 100, "epochs": 3, "patience": None, **train},
        }
    )


def new_trainer(config: Config, train: Store, valid: Store | None, folder: Path, **kwargs: object) -> Trainer:
    return Trainer(config, ClickModel(config.model, train.layout), train, valid, folder, **kwargs)  # type: ignore[arg-type]  # test helper


def final_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.tensors().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("rule", ["none", "cowclip"])
def test_micro_batches_add_up_to_the_whole_batch(make_store: MakeStore, rule: str) -> None:
    store = make_store(1000)
    results = []
    for micro in (1000, 64):
        config = resolve(
            {
                "model": {"mlp": {"hidden_units": [16]}},
                "optim": {"rule": rule, "clip": 1e-3, "l2": 1e-4, "base_batch_size": 1000},
                "train": {"batch_size": 1000, "micro_batch_size": micro, "precision": "fp32"},
            }
        )
        with seeded(0):
            learner = Learner(ClickModel(config.model, store.layout), config, 1000)
        for step in range(5):
            hyper = replace(learner.hyper, learning_rate=1e-3)
            loss, (touched, clipped) = learner.step(HostEpoch(store, np.arange(1000), CPU), 0, 1000, hyper)
            assert touched > 0
            assert (clipped > 0) == (rule == "cowclip"), step
        results.append((float(loss), {name: t.clone() for name, t in learner.model.tensors().items()}))
    (loss_whole, whole), (loss_micro, micro_batched) = results
    assert loss_micro == pytest.approx(loss_whole, rel=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(micro_batched[name], tensor, rtol=1e-3, atol=2e-5)


def test_training_learns_and_the_best_weights_are_kept(make_store: MakeStore, tmp_path: Path) -> None:
    train, valid = make_store(6000, seed=1), make_store(2000, seed=2)
    with seeded(0):
        trainer = new_trainer(config_of(epochs=8), train, valid, tmp_path / "run")
        before = evaluate(trainer.model, valid).scores["auc"]
        progress = trainer.run()
    aucs = [record["valid"]["auc"] for record in progress.history]
    assert before is not None
    assert max(aucs) > before + 0.05
    assert progress.best_epoch == 1 + int(np.argmax(aucs))
    assert evaluate(trainer.model, valid).scores["auc"] == max(aucs)


def test_same_seed_same_weights_other_seed_others(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(900)
    weights = []
    for run, seed in enumerate((0, 0, 1)):
        with seeded(seed):
            trainer = new_trainer(config_of(seed=seed), store, None, tmp_path / str(run))
            trainer.run()
        weights.append(final_weights(trainer))
    assert_same(weights[0], weights[1])
    assert not torch.equal(weights[0]["table"], weights[2]["table"])


def test_averaged_weights_are_what_is_scored_and_kept(make_store: MakeStore, tmp_path: Path) -> None:
    train, valid = make_store(900, seed=1), make_store(300, seed=2)
    trainers, scores = [], []
    for averaging in (None, 0.0):
        config = config_of(epochs=3).model_copy(update={"optim": OptimConfig(averaging=averaging)})
        with seeded(0):
            trainer = new_trainer(config, train, valid, tmp_path / str(averaging))
            history = trainer.run().history
        trainers.append(trainer)
        scores.append([record["valid"]["logloss"] for record in history])
        best = history[trainer.progress.best_epoch - 1]["valid"]
        assert evaluate(trainer.model, valid).scores == best
    plain, averaged = ([r["train_loss"] for r in trainer.progress.history] for trainer in trainers)
    assert plain == averaged  # training goes on from the last weights
    assert scores[0] != scores[1]


@pytest.mark.parametrize("averaging", [None, 4.0])
@pytest.mark.parametrize("stop_after", [1, 2, 4, 7])
def test_a_resumed_run_ends_with_the_identical_weights(
    make_store: MakeStore, tmp_path: Path, stop_after: int, averaging: float | None
) -> None:
    train, valid = make_store(900, seed=1), make_store(300, seed=2)
    config = config_of().model_copy(update={"optim": OptimConfig(averaging=averaging)})
    with seeded(0):
        whole = new_trainer(config, train, valid, tmp_path / "whole")
        expected = whole.run()
    calls = iter(range(10**6))
    with seeded(0), pytest.raises(Interrupted):
        new_trainer(config, train, valid, tmp_path / "cut", should_stop=lambda: next(calls) >= stop_after).run()
    with seeded(5):  # whatever the random state is on resuming, the checkpoint's counts
        resumed = new_trainer(config, train, valid, tmp_path / "cut")
        assert resumed.restore()
        got = resumed.run()
    assert_same(final_weights(whole), final_weights(resumed))
    assert [r["valid"] for r in got.history] == [r["valid"] for r in expected.history]
    assert [r["train_loss"] for r in got.history] == [r["train_loss"] for r in expected.history]
    assert [list(map(tuple, r["running_loss"])) for r in got.history] == [r["running_loss"] for r in expected.history]


@pytest.mark.parametrize(("epochs", "batch_size"), [(3, 1), (3, 256)])
def test_the_running_loss_has_some_two_hundred_points_that_average_to_the_epochs(
    make_store: MakeStore, tmp_path: Path, epochs: int, batch_size: int
) -> None:
    store = make_store(900)
    config = config_of(epochs=epochs, batch_size=batch_size)
    with seeded(0):
        history = new_trainer(config, store, None, tmp_path / "run").run().history
    points = [point for record in history for point in record["running_loss"]]
    steps = epochs * -(-900 // batch_size)
    assert min(steps, 150) <= len(points) <= 250
    assert points[-1][0] == steps
    for record in history:
        first = (record["epoch"] - 1) * steps // epochs
        ends = np.minimum([(step - first) * batch_size for step, _ in record["running_loss"]], 900)
        losses = [loss for _, loss in record["running_loss"]]
        assert np.average(losses, weights=np.diff(ends, prepend=0)) == pytest.approx(record["train_loss"])


@pytest.mark.parametrize("mask", [{}, {"f0": 0.3, "f2": 0.3}])
def test_rows_that_wait_through_stops_and_checkpoints_end_with_the_same_bits(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: dict[str, float]
) -> None:
    train, valid = make_store(900, seed=1), make_store(300, seed=2)
    assert train.layout.num_single < len(train.layout.fields)  # multi-valued fields wait too
    config = config_of(mask=mask)
    ends = []
    for lag, stops in ((1, []), (5, []), (5, [3, 4, 9])):
        monkeypatch.setattr("clickherd.learner.lag_for", lambda *_, lag=lag: lag)
        folder = tmp_path / f"{lag}-{len(stops)}"
        for at in [*stops, 10**6]:
            with seeded(0), contextlib.suppress(Interrupted):
                trainer = new_trainer(config, train, valid, folder)
                trainer.should_stop = lambda trainer=trainer, at=at: trainer.progress.total_steps >= at
                trainer.restore()
                trainer.run()
        assert trainer.learner.embedding.lag == lag
        ends.append({**final_weights(trainer), **{k: t.clone() for k, t in trainer.learner.tensors().items()}})
    assert_same(ends[0], ends[1])
    assert_same(ends[0], ends[2])


def test_masked_values_teach_the_unknown_id(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(900)
    store.ids = np.where(store.ids == 0, 2, store.ids)  # no value of the first field is unknown by itself
    moved = []
    for rate in (0.0, 0.5):
        config = config_of(mask={"f0": rate}).model_copy(update={"optim": OptimConfig(l2=0.0)})
        with seeded(0):
            trainer = new_trainer(config, store, None, tmp_path / str(rate))
            before = trainer.model.table.weight[0].clone()
            trainer.run()
        moved.append(not torch.equal(trainer.model.table.weight[0], before))
    assert moved == [False, True]


def test_early_stopping_waits_for_patience(make_store: MakeStore, tmp_path: Path) -> None:
    train, valid = make_store(500, seed=1), make_store(300, seed=2)
    config = config_of(epochs=60, patience=2, monitor="logloss")
    with seeded(0):
        progress = new_trainer(config, train, valid, tmp_path / "run").run()
    losses = [record["valid"]["logloss"] for record in progress.history]
    assert progress.epoch < 60
    assert progress.epoch == progress.best_epoch + 2
    assert min(losses) == losses[progress.best_epoch - 1]


def test_rates_fall_after_every_epoch_that_scored_no_better(make_store: MakeStore, tmp_path: Path) -> None:
    train, valid = make_store(500, seed=1), make_store(300, seed=2)
    rates: list[tuple[float, float]] = []
    config = resolve(
        merge(
            config_of(epochs=12, patience=20).model_dump(),
            {"optim": {"plateau_factor": 0.5, "warmup_epochs": 0, "embedding_learning_rate": 0.2}},
        )
    )
    with seeded(0):
        trainer = new_trainer(config, train, valid, tmp_path / "run")
        step = trainer.learner.step

        def watched(rows: Any, start: int, stop: int, hyper: Hyperparameters) -> Any:
            rates.append((hyper.learning_rate, hyper.embedding_learning_rate))
            return step(rows, start, stop, hyper)

        trainer.learner.step = watched  # type: ignore[method-assign]
        progress = trainer.run()
    aucs = [record["valid"]["auc"] for record in progress.history]
    worse = [auc <= max(aucs[:i], default=0) for i, auc in enumerate(aucs)]
    assert any(worse)
    full = trainer.learner.hyper
    for epoch in range(12):
        factor = 0.5 ** sum(worse[:epoch])
        expected = (full.learning_rate * factor, full.embedding_learning_rate * factor)
        assert rates[epoch * trainer.steps_per_epoch] == pytest.approx(expected)


def test_gauc_cannot_be_watched_without_groups(make_store: MakeStore, tmp_path: Path) -> None:
    valid = make_store(300, seed=2)
    valid.groups = valid.groups[:0]
    with pytest.raises(ConfigError, match=r"data\.group"):
        new_trainer(config_of(monitor="gauc"), make_store(300), valid, tmp_path / "run").run()


def test_a_loss_that_is_not_finite_ends_with_advice(make_store: MakeStore, tmp_path: Path) -> None:
    trainer = new_trainer(config_of(), make_store(300), None, tmp_path / "run")
    trainer.model.table.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="learning_rate"):
        trainer.run()


def test_automatic_batch_size_leaves_fifty_steps() -> None:
    for rows, expected in ((100, 256), (50_000, 512), (800_000, 8_192), (45_000_000, 65_536)):
        assert batch_size_for(Config(), rows) == expected


def test_a_cpu_has_no_tf32() -> None:
    with pytest.raises(ConfigError, match="tf32"):
        check_device("cpu", "tf32")


def test_threads_are_capped_at_what_there_is() -> None:
    assert use_threads(10_000) == use_threads(None)
    assert use_threads(1) == 1
    use_threads(None)


@pytest.mark.parametrize("name", ["deepfm", "dcnv2", "lr", "finalnet"])
def test_training_starts_at_the_base_rate(name: str, make_store: Callable[..., Store], tmp_path: Path) -> None:
    store = make_store(4000)
    logits = []
    for initial_bias in ("base-rate", "zero"):
        config = resolve({"model": {"name": name}, "optim": {"initial_bias": initial_bias}})
        with seeded(0):
            model = ClickModel(config.model, store.layout)
        Trainer(config, model, store, None, tmp_path)
        clicks = model.predict(store.read(0, 4000))
        logits.append(np.log(clicks / (1 - clicks)))
    rate = store.labels.mean()
    np.testing.assert_allclose(logits[0] - logits[1], np.log(rate / (1 - rate)), rtol=1e-2, atol=1e-5)
