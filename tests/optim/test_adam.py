"""The dense weights' Adam against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clickherd.optim.adam import KerasAdam


@pytest.mark.parametrize("units", [3, 200])
def test_fifty_steps_are_those_of_torch_with_its_epsilon_carried_over(units: int) -> None:
    torch.manual_seed(0)
    net, twin = nn.Linear(units, units), nn.Linear(units, units)
    twin.load_state_dict(net.state_dict())
    ours = KerasAdam(net.parameters(), betas=(0.9, 0.999), epsilon=1e-7)
    theirs = torch.optim.Adam(twin.parameters(), lr=1e-2)
    for step in range(1, 51):
        gradients = [torch.randn_like(parameter) * 0.1 for parameter in net.parameters()]
        ours.zero_grad()
        for _ in range(2):
            ours.accumulate([gradient / 2 for gradient in gradients])
        ours.update(1e-2)
        for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
            parameter.grad = gradient
        theirs.param_groups[0]["eps"] = 1e-7 / (1 - 0.999**step) ** 0.5
        theirs.step()
    for weight, expected in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
