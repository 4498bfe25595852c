"""The optimisers that `root` is measured beside, against their formulas; and histories that see the past alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.optim.scaling import Hyperparameters

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
HYPER = Hyperparameters(learning_rate=1e-3, embedding_learning_rate=1e-2, l2=0.0, clip=float("inf"))


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


def gradients(learner: Learner, count: int) -> list[torch.Tensor]:
    grads = torch.randn(count, *learner.model.table.weight.shape, generator=torch.Generator().manual_seed(0))
    grads[:, ::3] = 0
    return list(grads)


def test_row_wise_adagrad_keeps_one_sum_of_squares_a_row(benchmark: Any, learner: Learner) -> None:
    grads = gradients(learner, 3)
    before, after = stepped(benchmark("rivals").RowwiseAdagrad(learner, rate=0.1), grads)
    expected = before.clone()
    total, total_wide = torch.zeros(len(before), 1), torch.zeros(len(before), 1)
    for grad in grads:
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
