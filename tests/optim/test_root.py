"""The rule `root` against its equations, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.config import Config, resolve
from clickherd.data.store import Store
from clickherd.data.synthetic import write
from clickherd.device_store import HostEpoch
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runs import train_run
from clickherd.runtime import seeded

CPU = torch.device("cpu")
ROWS, BASE, L2, RATE = 512, 32, 1e-3, 2e-3


def config_of(micro_batch_size: int) -> Config:
    optim = {"rule": "root", "base_batch_size": BASE, "embedding_learning_rate": RATE, "l2": L2}
    train = {"batch_size": ROWS, "micro_batch_size": micro_batch_size, "precision": "fp32"}
    return resolve({"model": {"mlp": {"hidden_units": [16]}}, "optim": optim, "train": train})


def test_three_batches_move_the_table_as_the_equations_say(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    config = config_of(ROWS)
    with seeded(0):
        learner = Learner(ClickModel(config.model, store.layout), config, ROWS)
    model = learner.model
    w = model.table.weight.double().numpy().copy()
    m, v, s = np.zeros_like(w), np.zeros_like(w), ROWS / BASE
    beta1 = 1 - 0.1 * s**0.25
    rows = HostEpoch(store, np.arange(ROWS), CPU)
    for t in range(1, 4):
        batch = rows.take(0, ROWS)
        ids, bags = batch.ids.numpy(), [(v_.numpy(), o.numpy()) for v_, o in batch.bags]
        rows_BFD, wide_B = model.table.gather(batch.ids, batch.bags)
        leaves = (rows_BFD.requires_grad_(), wide_B.requires_grad_())
        loss = binary_cross_entropy_with_logits(model.net(*leaves, batch.numeric), batch.labels)
        of_rows, of_wide = (g.double().numpy() for g in torch.autograd.grad(loss, leaves))
        less = 1 - 1 / s
        of_rows, of_wide = of_rows - less * of_rows.mean(axis=0), of_wide - less * of_wide.mean()

        g, n = np.zeros_like(w), np.zeros(len(w))
        for b in range(ROWS):
            places = [([i], 1.0) for i in ids[b]]
            places += [(values[o[b] : o[b + 1]], 1 / (o[b + 1] - o[b])) for values, o in bags]
            for field, (values, share) in enumerate(places):
                for i in values:
                    n[i] += 1
                    g[i, 0] += share * of_wide[b]
                    g[i, 1:] += share * of_rows[b, field]
        g += 2 * L2 * w
        m, v = beta1 * m + (1 - beta1) * g, 0.999 * v + 0.001 * g**2
        rate = RATE * np.sqrt(s) * np.sqrt(1 - 0.999**t) / (1 - beta1**t)
        w -= rate * m / (np.sqrt(v) + 1e-7)

        learner.step(rows, 0, ROWS, learner.hyper)
        learner.settle()
        assert n.min() == 0
        np.testing.assert_allclose(model.table.weight.numpy(), w, rtol=1e-4, atol=2e-6)


def gradients_of(store: Store, rule: str, micro: int, rows: int = ROWS) -> torch.Tensor:
    """Of the table, of one batch that is `rows` large; the hyper-parameters are those of ROWS."""
    config = config_of(micro)
    config = config.model_copy(update={"optim": config.optim.model_copy(update={"rule": rule})})
    with seeded(0):
        learner = Learner(ClickModel(config.model, store.layout), config, ROWS)
    learner.embedding.step = lambda hyper: torch.zeros(2)  # type: ignore[assignment]  # gradients stay to be seen
    learner.step(HostEpoch(store, np.arange(ROWS), CPU), 0, rows, learner.hyper)
    return learner.embedding.grad_VW.clone()


def test_of_what_a_field_has_in_common_the_share_is_kept_whatever_the_micro_batch(
    make_store: Callable[..., Store],
) -> None:
    store = make_store(ROWS)
    plain, whole, parts = (gradients_of(store, *how) for how in (("none", ROWS), ("root", ROWS), ("root", 64)))
    share = BASE / ROWS
    for field in (field for field in store.layout.fields if not field.multi):
        common, *kept = (g[field.offset : field.offset + field.size].sum(dim=0) for g in (plain, whole, parts))
        for own in kept:
            torch.testing.assert_close(own, share * common, rtol=1e-3, atol=1e-6)
    assert torch.nn.functional.cosine_similarity(whole.flatten(), parts.flatten(), dim=0) > 0.95


def test_a_row_alone_is_learned_from(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    share = BASE / ROWS
    torch.testing.assert_close(gradients_of(store, "root", ROWS, 1), share * gradients_of(store, "none", ROWS, 1))


@pytest.mark.parametrize("name", ["lr", "fm", "deepfm"])
def test_probabilities_add_up_to_the_clicks(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nothing but one bias stands behind the table, and the batch is 16 times its base."""
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "log.parquet", 30_000, seed=0)
    config = resolve(
        {
            "source": {"data": [str(tmp_path / "log.parquet")]},
            "model": {"name": name, "mlp": {"hidden_units": [16]}} if name == "deepfm" else name,
            "optim": {"base_batch_size": 128},
            "train": {"batch_size": 2048, "epochs": 2, "patience": None},
        }
    )
    valid = train_run(config, tmp_path / "run", report=False)["valid"]
    assert valid["calibration"] == pytest.approx(1, abs=0.1)
    assert valid["ne"] < 1
