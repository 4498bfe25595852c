"""Atomic feature mimicking and the dealing out of bytes, by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clickherd.compression.allocation import allocate, hull
from clickherd.compression.low_rank import Directions, project_linear, set_low_rank
from clickherd.compression.sensitivity import Option, Part
from clickherd.layers.low_rank import LowRankLinear

NOWHERE = Directions(torch.zeros(1), torch.eye(1))


def projected(outputs: torch.Tensor, directions: Directions, k: int) -> torch.Tensor:
    """U_kU_kᵀ(y − μ) + μ."""
    return (outputs - directions.mean) @ directions.top(k) @ directions.top(k).T + directions.mean


def test_directions_by_hand() -> None:
    """Outputs (3, 1), (−1, 1) as often as each other, and (9, 9) never: they lie on y = 1 with mean (1, 1)."""
    outputs, often = torch.tensor([[3.0, 1.0], [-1.0, 1.0], [9.0, 9.0]]), torch.tensor([2.0, 2.0, 0.0])
    directions = Directions.of(outputs, often)
    torch.testing.assert_close(directions.mean, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(directions.top(1).abs(), torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(projected(outputs, directions, 1)[:2], outputs[:2])
    torch.testing.assert_close(
        projected(outputs, directions, 1)[2], torch.tensor([9.0, 1.0])
    )  # what is off the line goes
    torch.testing.assert_close(projected(outputs, directions, 0), torch.ones(3, 2))


def test_two_layers_stand_for_one_by_hand() -> None:
    """W = [[1, 0], [0, 2]], b = (1, −1), inputs (1, 0), (3, 0): y = (2, −1), (4, −1), mean (3, −1), one direction."""
    linear = nn.Linear(2, 2)
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        linear.bias.copy_(torch.tensor([1.0, -1.0]))
        directions = Directions.of(linear(x))
        low = LowRankLinear(2, 2, 1)
        set_low_rank(low, linear.weight, linear.bias, directions)
        torch.testing.assert_close(low.reduce.weight.abs(), torch.tensor([[1.0, 0.0]]))
        torch.testing.assert_close(low.expand.bias, torch.tensor([0.0, -1.0]))  # (I − UUᵀ)μ
        torch.testing.assert_close(low(x), linear(x))
        other = torch.tensor([[0.0, 5.0]])  # y = (1, 9): the second number is not kept
        torch.testing.assert_close(low(other), torch.tensor([[1.0, -1.0]]))
        weight, bias = project_linear(linear, directions, 1)
        assert bias is not None
        torch.testing.assert_close(other @ weight.T + bias, low(other))


def test_without_a_bias_the_mean_counts_as_any_direction() -> None:
    """y = (1, 2) and (1, 0): centred, the direction is (0, 1), which loses the mean of the first number."""
    linear = nn.Linear(2, 2, bias=False)
    x = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
        directions = Directions.of(linear(x), centred=False)
        assert directions.mean.tolist() == [0, 0]
        weight, bias = project_linear(linear, directions, 1)
        assert bias is None
        centred, _ = project_linear(linear, Directions.of(linear(x)), 1)
        assert (x @ weight.T - x).square().sum() < (x @ centred.T - x).square().sum()


def test_the_hull_leaves_out_what_a_mix_beats() -> None:
    options = [Option(100, 0.0), Option(60, 1.0), Option(50, 3.0), Option(20, 3.2), Option(90, 2.0), Option(30, 4.0)]
    assert hull(options) == [options[0], options[1], options[3]]


def test_bytes_go_where_they_tell_most_by_hand() -> None:
    """Slopes: a 1/40 then 2.2/40, b 1/10: at 150 a's first step, at 115 its second, at 105 b's."""
    a = Part("a", True, NOWHERE, 100, [Option(100, 0.0), Option(60, 1.0), Option(20, 3.2)])
    b = Part("b", True, NOWHERE, 100, [Option(100, 0.0), Option(90, 1.0)])
    got = [(x.options[0].num_bytes, x.options[1].num_bytes) for x in allocate([a, b], [105, 115, 160, 200, 3])]
    assert got == [(20, 90), (20, 90), (60, 100), (100, 100), (20, 90)]
    assert allocate([a, b], [120])[0].num_bytes == 120
    assert allocate([a, b], [120])[0].loss == pytest.approx(3.2)


options = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 1000)).map(lambda one: Option(one[0], one[1] / 1000)), max_size=4
)


@given(st.lists(options, min_size=1, max_size=3), st.integers(3, 160))
def test_no_other_choice_of_as_many_bytes_costs_less(found: list[list[Option]], budget: int) -> None:
    parts = [Part(str(k), True, NOWHERE, 51, [Option(51, 0.0), *more]) for k, more in enumerate(found)]
    ours = allocate(parts, [budget])[0]
    for choice in itertools.product(*(part.options for part in parts)):
        if sum(option.num_bytes for option in choice) <= ours.num_bytes:
            assert sum(option.loss for option in choice) >= ours.loss - 1e-9
