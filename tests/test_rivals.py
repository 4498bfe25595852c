"""The optimisers that `root` is measured beside, against their formulas; and histories that see the past alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.optim.scaling import Hyperparameters
from clickherd.runtime import seeded

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
HYPER = Hyperparameters(learning_rate=1e-3, embedding_learning_rate=1e-2, l2=0.1, clip=float("inf"))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def learner(make_store: Callable[..., Store]) -> Learner:
    """With no row that waits."""
    config = resolve({"model": {"mlp": {"hidden_units": [8]}}})
    return Learner(ClickModel(config.model, make_store(64).layout, init_std=0.1), config, 64)


def stepped(rival: Any, grads: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights before and after steps with these gradients; rows whose gradient is zero are not in the batch."""
    before = rival.table.weight.clone()
    for grad in grads:
        rival.grad_VW.copy_(grad)
        rival.counts_V.copy_((grad != 0).any(dim=1))
        rival.step(HYPER)
    return before, rival.table.weight


def with_l2(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Plus 2λw in the rows that the batch holds."""
    return grad + 2 * HYPER.l2 * weight * (grad != 0).any(dim=1, keepdim=True)


def gradients(learner: Learner, count: int) -> list[torch.Tensor]:
    grads = torch.randn(count, *learner.model.table.weight.shape, generator=torch.Generator().manual_seed(0))
    grads[:, ::3] = 0
    return list(grads)


def test_row_wise_adagrad_keeps_one_sum_of_squares_a_row(benchmark: Any, learner: Learner) -> None:
    grads = gradients(learner, 3)
    before, after = stepped(benchmark("rivals").RowwiseAdagrad(learner, rate=0.1), grads)
    expected = before.clone()
    total, total_wide = torch.zeros(len(before), 1), torch.zeros(len(before), 1)
    for plain in grads:
        grad = with_l2(plain, expected)
        total += grad[:, 1:].square().mean(dim=1, keepdim=True)
        total_wide += grad[:, :1].square()
        expected[:, 1:] -= 0.1 * grad[:, 1:] / (total.sqrt() + 1e-10)
        expected[:, :1] -= 0.1 * grad[:, :1] / (total_wide.sqrt() + 1e-10)
    torch.testing.assert_close(after, expected)


def test_clippy_moves_no_element_further_than_its_threshold(benchmark: Any, learner: Learner) -> None:
    [grad] = gradients(learner, 1)
    before, after = stepped(benchmark("rivals").Clippy(learner, rate=5.0, absolute=1e-2), [grad])
    moved, most = (after - before).abs(), 0.5 * before.abs() + 1e-2
    assert (moved <= most * (1 + 1e-4)).all()
    for field in learner.model.layout.fields:  # and one of each table goes as far as it may
        rows = slice(field.offset, field.offset + field.size)
        assert (moved / most)[rows, 1:].max() == pytest.approx(1, abs=1e-3)


def test_adam_ar_shrinks_rows_by_how_long_they_were_away(benchmark: Any, learner: Learner) -> None:
    first, absent, last = gradients(learner, 3)
    absent = torch.zeros_like(absent)
    rival = benchmark("rivals").AdamAR(learner, rate=0.0, alpha=0.1)
    before, after = stepped(rival, [first, absent, absent, last])
    touched = (first != 0).any(dim=1)
    torch.testing.assert_close(after[touched], before[touched] * (1 - 0.1) * (1 - 0.3))
    assert torch.equal(after[~touched], before[~touched])


def test_adam_ar_steps_by_adam_on_the_rows_of_the_batch(benchmark: Any, learner: Learner) -> None:
    grads = gradients(learner, 2)
    before, after = stepped(benchmark("rivals").AdamAR(learner, rate=0.01, alpha=0.0), grads)
    (beta1, beta2), touched = learner.embedding.config.betas, (grads[0] != 0).any(dim=1)
    mean, square, expected = torch.zeros_like(before), torch.zeros_like(before), before.clone()
    for t, plain in enumerate(grads, start=1):
        grad = with_l2(plain, expected)
        mean, square = beta1 * mean + (1 - beta1) * grad, beta2 * square + (1 - beta2) * grad**2
        expected -= 0.01 * (mean / (1 - beta1**t)) / ((square / (1 - beta2**t)).sqrt() + 1e-8)
    torch.testing.assert_close(after[touched], expected[touched])
    assert torch.equal(after[~touched], before[~touched])


def test_a_history_holds_the_films_liked_before_and_no_other(benchmark: Any) -> None:
    histories = benchmark("histories")
    ratings = pl.DataFrame(
        {"user_id": [1, 1, 1, 1, 2, 2], "movie_id": [10, 11, 12, 13, 10, 14], "label": [1, 0, 1, 1, 1, 0]}
    )
    liked = histories.with_liked(ratings)["liked"].to_list()
    assert liked == [[], ["10"], ["10"], ["10", "12"], [], ["10"]]


def test_each_user_s_last_rows_test(benchmark: Any) -> None:
    rows = pl.DataFrame({"user_id": ["a"] * 20 + ["b"] * 10, "place": [*range(20), *range(10)]})
    train, valid, test = benchmark("histories").split(rows)
    assert train["place"].to_list() == [*range(16), *range(8)]
    assert valid["place"].to_list() == [16, 17, 8]
    assert test["place"].to_list() == [18, 19, 9]


def test_helen_takes_the_gradient_where_the_weights_are_perturbed(
    benchmark: Any, make_store: Callable[..., Store]
) -> None:
    """ρ_i = ρ·max(n_i / max n, ξ) along the gradient of a field's table; ρ along that of all for the network."""
    store, rivals = make_store(64), benchmark("rivals")
    config = resolve(
        {
            "model": {"mlp": {"hidden_units": [8]}},
            "optim": {"rule": "none", "averaging": None, "l2": 0.0},
            "train": {"precision": "fp32", "micro_batch_size": 64},
        }
    )

    def gradients_at(shift: Callable[[Learner], None]) -> tuple[Learner, torch.Tensor, list[torch.Tensor]]:
        with seeded(0):
            learner = Learner(ClickModel(config.model, store.layout, init_std=0.1), config, 64)
        shift(learner)
        learner.embedding.step = lambda hyper: torch.zeros(2)  # type: ignore[assignment]  # gradients stay to be seen
        learner.dense.update = lambda rate: None  # type: ignore[method-assign]
        learner.step(HostEpoch(store, np.arange(64), torch.device("cpu")), 0, 64, learner.hyper)
        grads = [weight.grad.clone() for weight in learner.model.net.parameters() if weight.grad is not None]
        return learner, learner.embedding.grad_VW.clone(), grads

    plain, table, dense = gradients_at(lambda learner: None)
    counts = plain.embedding.counts_V.float()
    whole = torch.stack([grad.norm() for grad in (table, *dense)]).norm()

    def perturb(learner: Learner) -> None:
        for field in store.layout.fields:
            span = slice(field.offset, field.offset + field.size)
            strength = 0.05 * (counts[span] / counts[span].max()).clamp(min=0.3).unsqueeze(1)
            for columns in (slice(0, 1), slice(1, None)):
                grad = table[span, columns]
                learner.model.table.weight[span, columns] += strength * grad / grad.norm()
        with torch.no_grad():
            for weight, grad in zip(learner.model.net.parameters(), dense, strict=True):
                weight.add_(0.05 * grad / whole)

    _, expected, _ = gradients_at(perturb)
    with seeded(0):
        model = ClickModel(config.model, store.layout, init_std=0.1)
    before = model.table.weight.clone()
    helen = rivals.helen({"rho": 0.05}, model, config, 64)
    seen = []
    helen.embedding.step = lambda hyper: seen.append(helen.embedding.grad_VW.clone()) or torch.zeros(2)
    helen.step(HostEpoch(store, np.arange(64), torch.device("cpu")), 0, 64, helen.hyper)
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(seen[0], table, rtol=1e-2, atol=1e-6)
    assert torch.equal(model.table.weight, before)


def test_meda_draws_embeddings_anew_at_every_epoch_and_keeps_the_network(
    benchmark: Any, make_store: Callable[..., Store]
) -> None:
    store = make_store(64)
    config = resolve(
        {"model": {"mlp": {"hidden_units": [8]}}, "optim": {"rule": "none", "embedding_learning_rate": 0.1}}
    )
    learner = benchmark("rivals").meda({}, ClickModel(config.model, store.layout, init_std=1.0), config, 32)
    rows = HostEpoch(store, np.arange(64), torch.device("cpu"))
    table = learner.model.table.weight

    def spread() -> float:
        return float(table[:, 1:].std())

    learner.step(rows, 0, 32, learner.hyper)
    assert 0.05 < spread() < 0.2  # drawn at 1e-2, then one step of 0.1
    learner.step(rows, 32, 64, learner.hyper)
    assert learner.embedding.num_steps == 2
    units = [weight.detach().clone() for weight in learner.model.net.parameters()]
    learner.step(rows, 0, 32, learner.hyper)
    assert learner.embedding.num_steps == 1
    assert all((new - old).abs().max() < 0.1 for new, old in zip(learner.model.net.parameters(), units, strict=True))


def test_rows_that_the_clip_shortens_are_counted_by_how_often_the_batch_holds_them(
    benchmark: Any, learner: Learner
) -> None:
    parts, table = benchmark("rule_parts"), learner.model.table
    counting = parts.Counting(learner.embedding)
    table.weight[:, 1:] = 0.1
    length = 0.1 * table.weight[0, 1:].numel() ** 0.5
    for row, (count, share) in enumerate([(1, 2.0), (1, 0.5), (2, 1.5), (3, 3.0), (8, 0.9)]):
        counting.counts_V[row] = count
        counting.grad_VW[row, 1] = share * count * length  # of the row's threshold
    tally = counting.step(Hyperparameters(1e-3, 1e-2, l2=0.0, clip=1.0))
    assert tally.tolist() == [5, 3]
    assert counting.shares() == pytest.approx({"1": 0.5, "2": 1.0, "8": 0.0, "all": 0.6})


@pytest.mark.parametrize("slow", ["dense", "embedding"])
def test_one_half_steps_at_every_base_batch_the_other_once(
    benchmark: Any, make_store: Callable[..., Store], slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = benchmark("rule_parts")
    monkeypatch.setattr(parts, "BASE", 16)
    config = resolve({"model": {"mlp": {"hidden_units": [8]}}, "optim": {"base_batch_size": 16}})
    learner = parts.HalfLarge(ClickModel(config.model, make_store(64).layout), config, 64, slow=slow)
    learner.step(HostEpoch(make_store(64, 2), np.arange(64), torch.device("cpu")), 0, 64, learner.hyper)
    assert learner.dense.num_steps == (1 if slow == "dense" else 4)
    assert learner.embedding.num_steps == (4 if slow == "dense" else 1)
