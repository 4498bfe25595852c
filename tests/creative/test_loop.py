"""The loop of every stage: what is cut off ends where it would have ended; the weights kept are the averaged ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clickherd import checkpoint
from clickherd.creative import loop
from clickherd.creative.config import StageConfig
from clickherd.creative.loop import Batches, Stage, Stopped, backward, fit, rate, seed_of, valid_loss
from clickherd.errors import RunError
from clickherd.runtime import threads_kept
from clickherd.workers import Workers

DATA = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)


def stage(hidden: int = 4, loss: Callable[..., Tensor] | None = None, **settings: Any) -> Stage:
    """A regression with noise on its inputs, so that every random number of a step shows in the weights."""
    given = {"steps": 9, "batch_size": 8, "learning_rate": 0.05, "ema_decay": 0.9, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def squares(rows: np.ndarray, rng: torch.Generator) -> Tensor:
        x = torch.from_numpy(DATA[rows])
        seen = x + 0.1 * torch.randn(x.shape, generator=rng)
        return (network(seen).squeeze(1) - x.sum(1)).square().mean()

    return Stage("toy", network, StageConfig(**given), loss or squares, np.arange(40), np.arange(40, 50))


def weights(one: Stage) -> Tensor:
    return torch.cat([p.detach().flatten() for p in one.module.parameters()])


def stopping_after(steps: set[int], observer: Any) -> Callable[[], bool]:
    return lambda: observer.told[-1][0] in steps


@pytest.mark.parametrize("batch_size", [8, 128])
@pytest.mark.parametrize(("steps", "stops"), [(9, {1}), (9, {8}), (9, {2, 3, 7}), (83, {41}), (130, {64, 101})])
def test_a_stage_that_is_stopped_and_goes_on_ends_bit_for_bit_like_one_that_is_not(
    tmp_path: Path, observer: Any, steps: int, stops: set[int], batch_size: int
) -> None:
    settings = {"steps": steps, "batch_size": batch_size}
    whole = stage(**settings)
    expected = fit(whole, tmp_path / "whole", 5, observer=observer)
    for stop in sorted(stops):
        before = observer.told.copy()
        observer.told.clear()
        with pytest.raises(Stopped):
            fit(stage(**settings), tmp_path / "cut", 5, observer=observer, should_stop=stopping_after({stop}, observer))
        assert observer.told[0] == ("toy", steps, max((s for s in stops if s < stop), default=0))
        assert observer.told[-1] == (None,)
        assert observer.told[-2] in before or len(before) == 0 or stop != min(stops)  # the same loss as uncut
    cut = stage(**settings)
    record = fit(cut, tmp_path / "cut", 5, observer=observer)
    assert torch.equal(weights(cut), weights(whole))
    assert record["seconds"] >= 0
    del record["seconds"], expected["seconds"]
    assert record == expected
    assert record["steps"] == steps
    assert record["history"][-1] == {"step": steps, "loss": record["train_loss"]}


def test_the_checkpoint_written_now_and_then_is_one_to_go_on_from(
    tmp_path: Path, observer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run leaves, too, is gone on from to the same end."""
    whole = stage(steps=90)
    expected = fit(whole, tmp_path / "whole", 0, observer=observer)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    killed = stage(steps=90)

    def kill() -> bool:
        if observer.told[-1][0] == 45:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        fit(killed, tmp_path / "cut", 0, observer=observer, should_stop=kill)
    assert checkpoint.facts(tmp_path / "cut" / "toy.safetensors")["step"] == 44
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 60.0)
    cut = stage(steps=90)
    assert fit(cut, tmp_path / "cut", 0, observer=observer)["history"] == expected["history"]
    assert torch.equal(weights(cut), weights(whole))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, observer: Any) -> None:
    made = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(made))  # whatever else is random does not matter
        one = stage()
        fit(one, tmp_path / folder, seed, observer=observer)
        made.append(weights(one))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(("batch_size", "parts", "valid_parts"), [(8, 1, 2), (128, 4, 1)])
def test_every_micro_batch_of_every_step_has_random_numbers_of_its_own(
    tmp_path: Path, observer: Any, batch_size: int, parts: int, valid_parts: int
) -> None:
    one, drawn = stage(batch_size=batch_size), []

    def loss(rows: np.ndarray, rng: torch.Generator) -> Tensor:
        drawn.append(float(torch.rand((), generator=rng)))
        return one.loss(rows, rng)

    fit(replace(one, loss=loss), tmp_path, 0, observer=observer)
    assert len(drawn) == len(set(drawn)) == 9 * parts + valid_parts


def test_what_is_kept_is_the_average_of_the_weights(tmp_path: Path, observer: Any) -> None:
    """AdamW by hand, and the average: decay 0 after the first step, then (1 + i)/(10 + i), at most 0.25."""
    module = nn.Linear(1, 1)
    nn.init.constant_(module.weight, 2.0)
    nn.init.constant_(module.bias, -1.0)

    def loss(rows: np.ndarray, _: torch.Generator) -> Tensor:
        return (module.weight * 3 + module.bias * 0.5).square().sum()

    rate_, decay, beta2 = 0.1, 0.1, 0.9
    config = StageConfig(
        steps=4, batch_size=1, learning_rate=rate_, weight_decay=decay, beta2=beta2, warmup=0.5, ema_decay=0.25
    )
    w, m, v, average = np.array([2.0, -1.0]), np.zeros(2), np.zeros(2), np.zeros(2)
    slope = np.array([3.0, 0.5])
    for i, factor in enumerate([0.5, 1.0, 1.0, 0.5]):  # two steps of rise, then half a cosine
        gradient = 2 * (w @ slope) * slope
        gradient *= min(1, config.clip_norm / np.linalg.norm(gradient))
        m, v = 0.9 * m + 0.1 * gradient, beta2 * v + (1 - beta2) * gradient**2
        step = m / (1 - 0.9 ** (i + 1)) / (np.sqrt(v / (1 - beta2 ** (i + 1))) + 1e-8)
        w = w * (1 - rate_ * factor * decay) - rate_ * factor * step
        kept = 0 if i == 0 else min((1 + i) / (10 + i), 0.25)
        average = kept * average + (1 - kept) * w
    one = Stage("toy", module, config, loss, np.arange(3), np.arange(0))
    record = fit(one, tmp_path, 0, observer=observer)
    np.testing.assert_allclose(weights(one), average, rtol=1e-5)
    assert np.abs(average - w).max() > 1e-3  # the last weights are others
    assert record["valid_loss"] is None
    assert not module.training


def test_an_average_that_forgets_at_once_keeps_the_last_weights(tmp_path: Path, observer: Any) -> None:
    one = stage(ema_decay=0.0)
    last = []
    observer.step = lambda *_: last.append(weights(one))
    fit(one, tmp_path, 0, observer=observer)
    assert torch.equal(weights(one), last[-1])


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    assert [rate(step, 10, 0.2) for step in range(4)] == pytest.approx([0.5, 1, 1, 0.5 + 0.5 * math.cos(math.pi / 8)])
    assert rate(6, 10, 0.2) == pytest.approx(0.5)
    assert rate(10, 10, 0.2) == pytest.approx(0)
    assert rate(0, 10, 0.0) == 1
    assert rate(0, 1, 0.5) == 1
    assert all(rate(step, 10, 0.9) == pytest.approx((step + 1) / 9) for step in range(9))


def test_every_row_comes_once_an_epoch_and_batches_go_on_across_epochs() -> None:
    rows = np.arange(100, 110)
    batches = Batches(rows, 4, 3)
    drawn = np.concatenate([batches.rows(step) for step in range(10)])
    epochs = drawn.reshape(4, 10)
    assert all(set(epoch) == set(rows) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len(batches.rows(2)) == 4  # two rows of one epoch, two of the next
    assert batches.rows(7).tolist() == Batches(rows, 4, 3).rows(7).tolist() == drawn[28:32].tolist()
    assert batches.rows(0).tolist() != Batches(rows, 4, 4).rows(0).tolist()


def test_a_batch_larger_than_the_rows_holds_each_as_often_as_it_can() -> None:
    counts = np.bincount(Batches(np.arange(3), 8, 0).rows(0))
    assert sorted(counts) == [2, 3, 3]
    assert set(Batches(np.array([7]), 5, 0).rows(9)) == {7}


def test_a_loss_that_is_no_number_ends_training_with_the_mend(tmp_path: Path, observer: Any) -> None:
    one = stage(steps=4)
    given = one.loss
    spoilt = Stage("toy", one.module, one.config, lambda *a: given(*a) * math.nan, one.train_rows, one.valid_rows)
    with pytest.raises(RunError, match=r"toy is no number any more after 1 steps.*lower toy\.learning_rate"):
        fit(spoilt, tmp_path, 0, observer=observer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hidden", [3, 5])
def test_a_checkpoint_of_another_shape_is_not_gone_on_from(tmp_path: Path, observer: Any, hidden: int) -> None:
    with pytest.raises(Stopped):
        fit(stage(4), tmp_path, 0, observer=observer, should_stop=lambda: True)
    with pytest.raises(RunError, match=r"another size.*toy\.safetensors.*Remove it"):
        fit(stage(hidden), tmp_path, 0, observer=observer)


@pytest.mark.parametrize("more", [True, False])
def test_a_checkpoint_of_more_or_fewer_layers_is_not_gone_on_from(tmp_path: Path, observer: Any, more: bool) -> None:
    small, large = stage(), stage()
    longer = nn.Sequential(*large.module, nn.Linear(1, 1))
    large = Stage("toy", longer, large.config, large.loss, large.train_rows, large.valid_rows)
    first, second = (large, small) if more else (small, large)
    with pytest.raises(Stopped):
        fit(first, tmp_path, 0, observer=observer, should_stop=lambda: True)
    with pytest.raises(RunError, match="another size"):
        fit(second, tmp_path, 0, observer=observer)


def test_a_damaged_checkpoint_is_told(tmp_path: Path, observer: Any) -> None:
    (tmp_path / "toy.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match=r"damaged.*toy\.safetensors"):
        fit(stage(), tmp_path, 0, observer=observer)


def test_the_validation_loss_is_the_mean_over_the_rows_and_the_same_each_time(tmp_path: Path, observer: Any) -> None:
    one = stage(batch_size=4)
    record = fit(one, tmp_path, 3, observer=observer)
    torch.manual_seed(9)
    assert valid_loss(one, 3, "fp32") == record["valid_loss"]
    assert valid_loss(one, 4, "fp32") != record["valid_loss"]

    def mean_row(rows: np.ndarray, _: torch.Generator) -> Tensor:
        return torch.tensor(float(rows.mean()))

    counted = Stage("toy", one.module, one.config, mean_row, one.train_rows, np.arange(41, 51))
    assert valid_loss(counted, 0, "fp32") == pytest.approx(45.5)  # parts of 4, 3 and 3 rows
    many = Stage("toy", one.module, one.config, mean_row, one.train_rows, np.arange(1024))
    assert valid_loss(many, 0, "fp32") == pytest.approx(511)  # of every second one: files often lie class by class


def test_the_loss_kept_is_the_mean_since_the_last_and_at_most_some_forty_are_kept(
    tmp_path: Path, observer: Any
) -> None:
    record = fit(stage(steps=90), tmp_path, 0, observer=observer)
    losses = [told[1] for told in observer.told if len(told) == 2]
    assert [point["step"] for point in record["history"]] == list(range(2, 91, 2))
    assert record["history"][3]["loss"] == pytest.approx(np.mean(losses[6:8]), rel=1e-6)
    json.dumps(record, allow_nan=False)


def test_seeds_of_different_things_differ() -> None:
    seeds = {seed_of(0, "prior", 1), seed_of(0, "prior", 2), seed_of(1, "prior", 1), seed_of(0, "vary", 1), seed_of(0)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(4, "a red mug") == seed_of(4, "a red mug")


@pytest.mark.parametrize("batch_size", [7, 8, 17, 40])
def test_the_parts_of_a_batch_give_the_gradient_of_the_whole(batch_size: int) -> None:
    def loss(one: Stage, rows: np.ndarray) -> Tensor:
        return (one.module(torch.from_numpy(DATA[rows])).squeeze(1) - 1).square().mean()

    whole = stage(batch_size=batch_size)
    parted = replace(whole, loss=lambda rows, _: loss(whole, rows))
    rows = np.arange(batch_size)
    expected_loss = loss(whole, rows)
    expected = torch.autograd.grad(expected_loss, list(whole.module.parameters()))
    with Workers(2) as workers:
        found = backward(parted, np.array_split(rows, 3), [0, 1, 2], "fp32", workers)
    torch.testing.assert_close(found, expected_loss.detach())
    for parameter, gradient in zip(whole.module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_random_numbers_and_sums_do_not_depend_on_the_number_of_threads(tmp_path: Path, observer: Any) -> None:
    trained = []
    with threads_kept():
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            one = stage(batch_size=128)
            fit(one, tmp_path / str(threads), 5, observer=observer)
            trained.append(weights(one))
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[0], trained[2])


@pytest.mark.parametrize(
    ("parts", "batch_size", "seen"), [(4, 130, [33, 33, 32, 32]), (4, 70, [35] * 2), (4, 40, [40]), (1, 128, [128])]
)
def test_a_batch_is_cut_into_as_many_parts_as_the_stage_allows(
    tmp_path: Path, observer: Any, parts: int, batch_size: int, seen: list[int]
) -> None:
    one, sizes = stage(batch_size=batch_size, steps=1), []

    def loss(rows: np.ndarray, rng: torch.Generator) -> Tensor:
        sizes.append(len(rows))
        return one.loss(rows, rng)

    fit(replace(one, loss=loss, parts=parts, valid_rows=np.arange(0)), tmp_path, 5, observer=observer)
    assert sorted(sizes, reverse=True) == seen


def test_a_weight_that_no_part_uses_keeps_its_value(tmp_path: Path, observer: Any) -> None:
    def with_unused() -> Stage:
        one = stage(batch_size=128)
        one.module.unused = nn.Parameter(torch.ones(2))
        return one

    with pytest.raises(Stopped):
        fit(with_unused(), tmp_path, 5, observer=observer, should_stop=stopping_after({4}, observer))
    one = with_unused()
    fit(one, tmp_path, 5, observer=observer)
    assert torch.equal(one.module.unused.detach(), torch.ones(2))
