"""The rule `root` against its equations, written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.config import Config, resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.learner import Learner
from clickherd.network import ClickModel
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
        of_rows, of_wide = of_rows - of_rows.mean(axis=0), of_wide - of_wide.mean()  # centred, field by field

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


def test_a_row_alone_is_learned_from(make_store: Callable[..., Store]) -> None:
    store, config = make_store(ROWS), config_of(ROWS)
    with seeded(0):
        learner = Learner(ClickModel(config.model, store.layout), config, 1)
    learner.embedding.step = lambda hyper: torch.zeros(2)  # type: ignore[assignment]  # gradients stay to be seen
    learner.step(HostEpoch(store, np.arange(ROWS), CPU), 0, 1, learner.hyper)
    assert learner.embedding.grad_VW.any()


def test_micro_batches_are_centred_on_their_own_mean(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    grads = []
    for micro in (ROWS, 64):
        config = config_of(micro)
        with seeded(0):
            learner = Learner(ClickModel(config.model, store.layout), config, ROWS)
        learner.embedding.step = lambda hyper: torch.zeros(2)  # type: ignore[assignment]  # gradients stay to be seen
        learner.step(HostEpoch(store, np.arange(ROWS), CPU), 0, ROWS, learner.hyper)
        grad = learner.embedding.grad_VW
        for field in store.layout.fields:
            if not field.multi:
                total = grad[field.offset : field.offset + field.size].sum(dim=0)
                assert total.abs().max() < 1e-6
        grads.append(grad.clone())
    assert torch.nn.functional.cosine_similarity(grads[0].flatten(), grads[1].flatten(), dim=0) > 0.95
