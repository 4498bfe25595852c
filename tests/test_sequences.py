"""Training with behaviour sequences: exact gradients and counts, in any cut of the batch, on any path through it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from clickherd import CTRClassifier, cli, load
from clickherd.config import resolve
from clickherd.data.store import Batch, FieldLayout, Layout, Store, StoreWriter
from clickherd.device_store import DeviceEpoch, DeviceStore, HostEpoch
from clickherd.errors import ConfigError, Interrupted
from clickherd.evaluate import evaluate
from clickherd.importance import permutation_importance
from clickherd.kernels import cpu
from clickherd.layers.embedding import EmbeddingTable
from clickherd.learner import Learner
from clickherd.network import ClickModel, TensorBatch
from clickherd.runtime import seeded, threads_kept, use_threads
from clickherd.train import Trainer
from clickherd.workers import Workers
from conftest import TRITON_DEVICE

CPU = torch.device("cpu")
LAYOUT = Layout(
    (
        FieldLayout("user", 0, 20),
        FieldLayout("item", 20, 30),
        FieldLayout("tags", 50, 10, multi=True),
        FieldLayout("past", 20, 30, multi=True, target="item", max_length=6),
    ),
    ("price",),
)
MISSING = 21  # the item's id that stands for an empty history
MakeStore = Callable[..., Store]


def rows_of(num_rows: int, seed: int) -> Batch:
    """A click is likely where the item, or the one next to it, is in the history. Some histories are empty."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(2, 20, num_rows), rng.integers(22, 50, num_rows)], axis=1).astype(np.int32)
    tag_ends = np.cumsum(rng.integers(1, 4, num_rows))
    tags = rng.integers(50, 60, tag_ends[-1]).astype(np.int32), np.concatenate([[0], tag_ends]).astype(np.int64)
    past: list[list[int]] = []
    for item in ids[:, 1]:
        history = rng.integers(22, 50, rng.integers(0, 6)).tolist()
        past.append([*history, int(item)] if rng.random() < 0.4 else history)
    liked = np.array([item in history for item, history in zip(ids[:, 1], past, strict=True)])
    values = np.array([i for history in past for i in history or [MISSING]], np.int32)
    offsets = np.concatenate([[0], np.cumsum([max(len(history), 1) for history in past])]).astype(np.int64)
    numeric = rng.random((num_rows, 1)).astype(np.float32)
    labels = (rng.random(num_rows) < np.where(liked, 0.8, 0.2)).astype(np.float32)
    return Batch(ids, (tags, (values, offsets)), numeric, labels, (ids[:, 0] % 7).astype(np.uint64))


@pytest.fixture
def store_of(tmp_path: Path) -> MakeStore:
    def make(num_rows: int, seed: int = 1) -> Store:
        with StoreWriter(tmp_path / f"{num_rows}-{seed}", LAYOUT, has_groups=True) as writer:
            writer.append(rows_of(num_rows, seed))
        return Store(tmp_path / f"{num_rows}-{seed}")

    return make


def learner_of(batch_size: int, *, model: dict[str, Any] | None = None, **settings: Any) -> Learner:
    config = resolve(
        {
            "model": {"name": "din", "embedding_dim": 4, "mlp": {"hidden_units": [16]}} | (model or {}),
            "optim": {"rule": "cowclip", "l2": 1e-4, "base_batch_size": batch_size},
            "train": {"micro_batch_size": 32, "precision": "fp32"} | settings,
        }
    )
    with seeded(0):
        model = ClickModel(config.model, LAYOUT, init_std=0.3, device=config.train.device)
        return Learner(model, config, batch_size)


def steps(learner: Learner, store: Store, size: int = 100) -> dict[str, torch.Tensor]:
    """One pass over the rows; what it left behind."""
    with seeded(3), learner.workers:
        for start in range(0, len(store), size):
            hyper = replace(learner.hyper, learning_rate=1e-3)
            learner.step(HostEpoch(store, np.arange(len(store)), CPU), start, start + size, hyper)
    return {name: tensor.clone() for name, tensor in learner.tensors().items() if name != "rng"}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("attention", [{}, {"softmax": True}])
def test_the_table_gets_the_gradient_of_every_value_and_counts_it_once(
    store_of: MakeStore, attention: dict[str, Any]
) -> None:
    """Against autograd through the whole table, with the histories padded and masked."""
    batch, learner = store_of(90).read(0, 90), learner_of(90, model=attention)
    model, rows = learner.model, learner.model.with_sequences(TensorBatch.of(batch, CPU))
    for start, stop in ((0, 40), (40, 41), (41, 90)):
        part = rows.slice(start, stop)
        learner._add(part, learner.gradients(part, 90))

    table = model.table.weight.clone().requires_grad_()
    (tags, tag_offsets), (values, offsets) = batch.bags
    tag_rows = torch.stack([table[tags[a:b]].mean(0) for a, b in pairwise(tag_offsets)])
    fields = torch.cat([table[torch.from_numpy(batch.ids).long()], tag_rows[:, None]], dim=1)
    length = int(np.diff(offsets).max())
    padded, mask = torch.zeros(90, length, dtype=torch.long), torch.zeros(90, length, dtype=torch.bool)
    for b in range(90):
        history = [i for i in values[offsets[b] : offsets[b + 1]] if i != MISSING]
        padded[b, : len(history)], mask[b, : len(history)] = torch.tensor(history, dtype=torch.long), True
    keys, query = table[padded], fields[:, 1:2].expand(-1, length, -1)
    unit: Any = model.net.attention[0]  # type: ignore[index]  # torch types every attribute as a tensor or a module
    weights = unit.mlp(torch.cat([query, keys, query - keys, query * keys], dim=2)).squeeze(2)
    if attention:
        weights = torch.softmax((weights / 2).masked_fill(~mask, -1e9), dim=1)
    interest = ((weights * mask).unsqueeze(2) * keys).sum(dim=1)
    mlp: Any = model.net.mlp
    logits = mlp(torch.cat([fields.flatten(1), interest, torch.from_numpy(batch.numeric)], dim=1)).squeeze(1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(batch.labels))
    (expected,) = torch.autograd.grad(loss, [table])
    torch.testing.assert_close(learner.embedding.grad_VW, expected, rtol=1e-4, atol=1e-7)
    seen = np.concatenate([batch.ids.ravel(), tags, values[values != MISSING]])
    assert learner.embedding.counts_V.tolist() == np.bincount(seen, minlength=LAYOUT.num_ids).tolist()
    assert learner.embedding.counts_V[MISSING] == 0, "an empty history has no values"


def test_micro_batches_and_workers_change_nothing_but_rounding(store_of: MakeStore) -> None:
    store = store_of(300)
    whole = steps(learner_of(100, micro_batch_size=100), store)
    with threads_kept():
        use_threads(2)
        learner = learner_of(100)
        learner.workers = Workers(3)
        assert_close(whole, steps(learner, store))


@pytest.mark.parametrize("regularize", ["table", "batch"])
def test_rows_that_wait_end_with_the_same_bits(
    store_of: MakeStore, monkeypatch: pytest.MonkeyPatch, regularize: str
) -> None:
    store, found = store_of(300), []
    for lag in (1, 5):
        monkeypatch.setattr("clickherd.learner.lag_for", lambda *_, lag=lag: lag)
        learner = learner_of(20)
        learner.embedding.config = type(learner.embedding.config)(1e-5, (0.9, 0.999), 1e-7, regularize == "batch")
        found.append(steps(learner, store, size=20))
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


def test_masked_values_are_unknown_and_empty_histories_stay_empty(store_of: MakeStore) -> None:
    store, learner = store_of(400), learner_of(400, mask={"past": 0.5})
    with seeded(0):
        ready = learner._ready(HostEpoch(store, np.arange(400), CPU).take(0, 400))
    values, offsets = ready.sequences[0]
    original, before = store.bags[1]
    empty = np.asarray(original)[before[:-1]] == MISSING
    assert empty.any()
    assert ((offsets.diff() == 0).numpy() == empty).all()
    assert (values == 20).float().mean() == pytest.approx(0.5, abs=0.06)
    assert not (values == MISSING).any()
    assert [len(bag[1]) for bag in ready.bags] == [401], "bags hold the tags alone"


def test_rows_from_a_device_train_alike(store_of: MakeStore) -> None:
    store, order = store_of(200), torch.randperm(200)
    epochs = (HostEpoch(store, order.numpy(), CPU), DeviceEpoch(DeviceStore.of(store, CPU), order))
    found = []
    for epoch in epochs:
        learner = learner_of(100)
        for start in (0, 100):
            learner.step(epoch, start, start + 100, learner.hyper)
        found.append({name: tensor.clone() for name, tensor in learner.tensors().items()})
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name


@pytest.mark.parametrize("lag", [1, 3])
def test_steps_through_either_kernels_agree(store_of: MakeStore, monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    gpu = pytest.importorskip("clickherd.kernels.gpu", reason="triton is not installed", exc_type=ModuleNotFoundError)
    monkeypatch.setattr("clickherd.learner.lag_for", lambda *_: lag)
    store, found = store_of(60), []
    for kernels, device in ((cpu, CPU), (gpu, TRITON_DEVICE)):
        monkeypatch.setattr(EmbeddingTable, "kernels", kernels)
        learner = learner_of(30, device=str(device))
        epoch = HostEpoch(store, np.arange(60), device)
        for start in (0, 30, 0, 30):
            learner.step(epoch, start, start + 30, replace(learner.hyper, learning_rate=1e-3))
        found.append({name: tensor.cpu().clone() for name, tensor in learner.tensors().items() if "rng" not in name})
    assert_close(*found)


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_a_resumed_run_ends_with_the_identical_weights(store_of: MakeStore, tmp_path: Path, activation: str) -> None:
    train, valid = store_of(300), store_of(100, 2)
    mlp = {"hidden_units": [8], "activation": activation}
    config = resolve(
        {
            "model": {"name": "din", "embedding_dim": 4, "mlp": mlp, "attention": {"hidden_units": [4]}},
            "train": {"batch_size": 100, "epochs": 2, "patience": None, "mask": {"past": 0.2}},
        }
    )

    def trainer_in(folder: Path, **kwargs: Any) -> Trainer:
        return Trainer(config, ClickModel(config.model, LAYOUT), train, valid, folder, **kwargs)

    with seeded(0):
        whole = trainer_in(tmp_path / "whole")
        whole.run()
    calls = iter(range(100))
    with seeded(0), pytest.raises(Interrupted):
        trainer_in(tmp_path / "cut", should_stop=lambda: next(calls) >= 4).run()
    with seeded(1):
        resumed = trainer_in(tmp_path / "cut")
        assert resumed.restore()
        resumed.run()
    for name, tensor in whole.model.tensors().items():
        assert torch.equal(tensor, resumed.model.tensors()[name]), name


def test_prediction_does_not_depend_on_the_cut(store_of: MakeStore) -> None:
    model, batch = learner_of(100).model, store_of(60).read(0, 60)
    whole = model.predict(batch)
    parts = [model.predict(batch.slice(a, b)) for a, b in ((0, 0), (0, 1), (1, 25), (25, 60))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5)
    empty = np.diff(batch.bags[1][1]) == 1
    alone = batch.slice(int(np.argmax(empty)), int(np.argmax(empty)) + 1)
    assert model.predict(alone).shape == (1,)


@pytest.mark.parametrize("activation", ["relu", "dice"])
def test_attention_finds_the_item_in_the_history(store_of: MakeStore, tmp_path: Path, activation: str) -> None:
    train, valid = store_of(6000), store_of(1000, 2)
    mlp = {"hidden_units": [32], "activation": activation}
    config = resolve(
        {
            "model": {"name": "din", "embedding_dim": 8, "mlp": mlp, "attention": {"hidden_units": [16]}},
            "optim": {"learning_rate": 1e-2, "embedding_learning_rate": 2e-2, "base_batch_size": 256},
            "train": {"batch_size": 256, "epochs": 10, "patience": None},
        }
    )
    with seeded(0):
        model = ClickModel(config.model, LAYOUT)
        Trainer(config, model, train, valid, tmp_path / "run").run()
    scores = evaluate(model, valid).scores
    assert scores["auc"] is not None
    assert scores["auc"] > 0.7
    assert scores["gauc"] is not None
    found = permutation_importance(model.predict, valid.read(0, 1000), LAYOUT, repeats=1)
    drops = {field.name: field.auc_drop_mean for field in found}
    assert set(drops) == {"user", "item", "tags", "past", "price"}
    assert drops["past"] > 0.1
    assert drops["past"] > 5 * max(drops["user"], drops["tags"])


def test_other_models_take_the_mean_of_a_history(store_of: MakeStore) -> None:
    learner, store = learner_of(100, model={"name": "deepfm"}), store_of(200)
    batch = learner.model.with_sequences(TensorBatch.of(store.read(0, 50), CPU))
    assert (len(batch.bags), len(batch.sequences)) == (2, 0)
    rows, _ = learner.model.table.gather(batch.ids, batch.bags)
    values, offsets = store.bags[1]
    expected = learner.model.table.weight[torch.from_numpy(values[: offsets[1]].copy()).long(), 1:].mean(0)
    torch.testing.assert_close(rows[0, 3], expected)
    steps(learner, store)


def test_a_sequence_model_wants_a_sequence() -> None:
    config = resolve({"model": {"name": "din"}})
    with pytest.raises(ConfigError, match=r"din reads behaviour sequences, and no column is one.*--sequence"):
        ClickModel(config.model, Layout(LAYOUT.fields[:3], ()))


def log_of(num_rows: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 30, num_rows)
    user = rng.integers(0, 40, num_rows)
    return pl.DataFrame(
        {
            "clicked": (rng.random(num_rows) < 0.2 + 0.6 * ((item + user) % 2)).astype(int),
            "user_id": user,
            "item": [f"i{i}" for i in item],
            "time": np.arange(num_rows) // 2 + 10_000 * seed,
        }
    )


def test_the_command_line_trains_and_predicts_with_histories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    log_of(1200).write_csv("log.csv")
    log_of(300, seed=1).write_csv("later.csv")
    history = "item by user_id where clicked"

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clickherd", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, " ".join(captured.err.split())

    flags = ["--label", "clicked", "--time-column", "time", "--model", "din", "--epochs", 2, "--json"]
    flags += ["--set", "model.mlp.hidden_units=[16]", "--set", "model.attention.hidden_units=[8]"]
    code, out, err = run("train", "log.csv", "--valid", "later.csv", "--history", history, *flags, "--out", "run")
    assert code == 0, err
    assert f"{history} sequence of item" in err
    assert json.loads(out)["valid"]["gauc"] is not None, "rows are grouped by user beside their histories"
    assert history in (tmp_path / "run" / "report.html").read_text()
    trained = load("run")
    new = log_of(300, seed=1).drop("clicked")
    with pytest.raises(ConfigError, match="needs the column 'clicked', which is not there"):
        trained.predict_proba(new)
    scores = trained.predict_proba(log_of(300, seed=1))
    past = [
        [i for u, i, t, c in log_of(300, seed=1).select("user_id", "item", "time", "clicked").rows()
         if c and u == user and t < time]
        for user, time in log_of(300, seed=1).select("user_id", "time").rows()
    ]  # fmt: skip
    listed = trained.predict_proba(new.with_columns(pl.Series(history, past)))
    np.testing.assert_allclose(listed, scores, rtol=1e-6)
    code, _, err = run("train", "log.csv", "--sequence", "tags:item", *flags, "--out", "other")
    assert code == 2
    assert "names 'tags', which is no column" in err
    code, _, err = run("train", "log.csv", "--sequence", "tags", *flags, "--out", "other")
    assert code == 2
    assert "Write it as COLUMN:VALUE" in err


def test_the_classifier_makes_histories_of_its_frame(tmp_path: Path) -> None:
    rows = log_of(400)
    model = CTRClassifier(
        model="din",
        epochs=1,
        settings={
            "data": {"histories": ["item by user_id"], "time_column": "time"},
            "model": {"mlp": {"hidden_units": [8]}, "attention": {"hidden_units": [4]}},
        },
    )
    model.fit(rows.drop("clicked"), rows["clicked"].to_numpy())
    new = log_of(100, seed=2).drop("clicked")
    scores = model.predict_proba(new)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(CTRClassifier.load(tmp_path / "model").predict_proba(new), scores)
