"""The average of the weights against its formula, and the change of places."""

from __future__ import annotations

import contextlib

import pytest
import torch

from clickherd.optim.averaging import CHUNK, WeightAverage


@pytest.mark.parametrize("eta", [0.0, 4.0])
def test_the_average_is_that_of_the_formula(eta: float) -> None:
    weight, count = torch.zeros(5, 2), torch.zeros((), dtype=torch.int64)
    average = WeightAverage({"weight": weight, "count": count}, eta)
    torch.manual_seed(0)
    history, expected = torch.randn(30, 5, 2), torch.full((5, 2), torch.nan, dtype=torch.float64)
    for k, value in enumerate(history, 1):
        weight.copy_(value)
        count.fill_(k)
        average.update(k)
        share = (eta + 1) / (k + eta)
        expected = (1 - share) * expected.nan_to_num() + share * value
    torch.testing.assert_close(average.tensors()["weight"], expected.float())
    assert average.tensors()["count"] == 30
    if eta == 0:
        torch.testing.assert_close(expected.float(), history.mean(dim=0))


@pytest.mark.parametrize("rows", [3, CHUNK + 7])
def test_averages_stand_in_place_of_the_weights_and_make_way_again(rows: int) -> None:
    weight, bias = torch.arange(rows, dtype=torch.float32).unsqueeze(1), torch.tensor(2.0)
    average = WeightAverage({"weight": weight, "bias": bias}, 1.0)
    average.update(1)
    weight.neg_()
    bias.fill_(5.0)
    place = weight.data_ptr()
    with contextlib.suppress(ZeroDivisionError), average.in_place():
        assert weight.flatten().tolist()[:3] == [0, 1, 2]
        assert weight[-1] == rows - 1
        assert bias == 2
        raise ZeroDivisionError
    assert weight[-1] == 1 - rows
    assert bias == 5
    assert weight.data_ptr() == place  # captured graphs know it by that
