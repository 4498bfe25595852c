"""One table for all fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clickherd.compact.config import CompressionConfig
from clickherd.compact.unified import Places, UnifiedConfig, mixed
from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.errors import ConfigError
from clickherd.kernels import cpu, reference
from clickherd.learner import Learner
from clickherd.metrics import auc
from clickherd.network import ClickModel, TensorBatch
from clickherd.runtime import seeded, threads_kept, use_threads

Run = Callable[..., tuple[int, str, str]]
ROWS = 300


def test_hashes_are_those_of_unsigned_arithmetic() -> None:
    """As they come out with whole numbers of any size, taken modulo 2^64."""
    keys = [0, 1, 77, (1 << 40) + 5, (1 << 41) - 1]
    found = mixed(torch.tensor(keys)).tolist()
    for key, got in zip(keys, found, strict=True):
        x = (key * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            x = (x ^ x >> 33) * factor % 2**64
        assert got == (x ^ x >> 33) & 2**62 - 1


def test_lookups_go_round_the_tables_and_spread_over_them() -> None:
    places = Places(UnifiedConfig(rows=3000, tables=3, lookups=2))
    rows = places.of(torch.arange(20_000), 1)  # look-ups 2 and 3: tables 2 and 0
    assert rows.shape == (20_000, 2)
    assert rows.dtype == torch.int32
    assert ((rows[:, 0] >= 2000) & (rows[:, 0] < 3000)).all()
    assert (rows[:, 1] < 1000).all()
    counts = torch.bincount(rows[:, 1].long(), minlength=1000).double()
    assert counts.mean() == 20
    assert 0.7 < counts.var(unbiased=False) / 20 < 1.3  # as at random
    same = (rows[:, 0] - 2000 == rows[:, 1]).double().mean()
    assert same < 0.01  # two look-ups of a value are two draws


def config_of(**unified: int) -> CompressionConfig:
    return CompressionConfig.model_validate({"unified": unified})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_by_hand(make_store: Callable[..., Store], threads: int) -> None:
    """Rows that fields share get the gradients of all of them, however many threads there are."""
    config = resolve(
        {
            "model": {"name": "fm", "embedding_dim": 4},
            "compression": {"unified": {"rows": 5, "lookups": 2}},
            "optim": {"rule": "none", "clip": float("inf")},
        }
    )
    store = make_store(ROWS)
    with seeded(0), threads_kept():
        use_threads(threads)
        model = ClickModel(config.model, store.layout, init_std=0.3, compression=config.compression)
        assert model.table.weight.shape == (5, 3)
        assert model.places is not None
        learner = Learner(model, config, ROWS)
        batch = TensorBatch.of(store.read(0, ROWS), torch.device("cpu"))
        located = model.located(batch)
        assert located.ids.shape == (ROWS, 4)
        assert len(located.bags) == 2
        gradients = learner.gradients(located, ROWS)
        learner._add(located, gradients)
        found = learner.embedding.grad_VW.clone(), learner.embedding.counts_V.clone()
        grad, counts = torch.zeros(5, 3), torch.zeros(5, dtype=torch.int32)
        reference.scatter_add(grad, counts, located.ids, located.bags, gradients.rows, gradients.wide)
    torch.testing.assert_close(found[0], grad)
    assert torch.equal(found[1], counts)
    first = model.places.of(batch.ids[:1, 0], 0)[0].long()
    rows, _ = cpu.gather(model.table.weight, located.ids[:1], (), True)
    inputs = model.inputs(located, model.table.gather(located.ids, located.bags)[0], torch.zeros(ROWS), [])
    assert inputs[0].shape == (ROWS, 3, 4)
    assert torch.equal(inputs[0][0, 0], model.table.weight[first, 1:].flatten())
    assert torch.equal(rows[0, :2].flatten(), inputs[0][0, 0])


def test_it_learns_with_rows_for_a_fifth_of_the_values(make_store: Callable[..., Store]) -> None:
    store = make_store(2_000)
    config = resolve({"model": {"name": "deepfm", "embedding_dim": 4, "mlp": {"hidden_units": [16]}}})
    with seeded(0):
        model = ClickModel(config.model, store.layout, compression=config_of(rows=16, lookups=2, tables=2))
        learner = Learner(model, config, 100)
        for _ in range(8):
            epoch = HostEpoch(store, np.arange(2_000), torch.device("cpu"))
            for start in range(0, 2_000, 100):
                learner.step(epoch, start, start + 100, learner.hyper)
    learner.settle()
    assert auc(store.labels, model.predict(store.read(0, 2_000))) > 0.68  # measured: 0.731


def test_settings_that_do_not_go_together_are_told(make_store: Callable[..., Store]) -> None:
    layout = make_store(10).layout
    with pytest.raises(ConfigError, match="none can have dims or bits"):
        CompressionConfig.model_validate({"unified": {"rows": 5}, "bits": {"f0": 8}}).check_fields(layout, 4)
    with pytest.raises(ConfigError, match="lookups = 3: an embedding has 4 numbers"):
        config_of(rows=5, lookups=3).check_fields(layout, 4)


def test_a_run_with_one_table_is_a_run(run: Run, odd_clicks: Path) -> None:
    more = ["--label", "Clicked?", "--epochs", 2, "--no-report", "--json"]
    one = ["--set", "compression.unified.rows=50", "--set", "compression.unified.lookups=2"]
    code, out, err = run("train", odd_clicks, *more, *one, "--out", "one")
    assert code == 0, err
    auc = json.loads(out)["valid"]["auc"]
    code, out, err = run("train", "--resume", "one", "--no-report", "--json")
    assert code == 0, err
    assert json.loads(out)["valid"]["auc"] == auc
    code, _, err = run("predict", "one", odd_clicks, "--out", "scores.csv")
    assert code == 0, err
    code, _, err = run("compress", "one", "--out", "less")
    assert code == 2
    assert "its fields share a table" in err.replace("\n", " ")
    code, _, err = run("select", odd_clicks, "--label", "Clicked?", "--method", "optfs", *one, "--out", "values")
    assert code == 2
    assert "whole table" in err
