"""Adam for the dense weights, with the ε of Keras."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn


class KerasAdam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015) in the form with ε̂ (end of their section 2): w ← w − lr·√(1−β₂ᵗ)/(1−β₁ᵗ)·m/(√v + ε).

    Torch adds ε after bias correction, Keras (and so CowClip's code) before; dividing ε by √(1−β₂ᵗ) turns one into
    the other, and torch's fused step can still be used.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, betas: tuple[float, float], epsilon: float) -> None:
        super().__init__(parameters, lr=0.0, betas=betas, eps=epsilon, fused=True)
        self.epsilon = epsilon
        self.num_steps = 0

    def update(self, learning_rate: float) -> None:
        """One step at the given rate."""
        self.num_steps += 1
        for group in self.param_groups:
            group["lr"] = learning_rate
            group["eps"] = self.epsilon / (1 - group["betas"][1] ** self.num_steps) ** 0.5
        self.step()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moments by name, for a checkpoint: torch's own state dict is not made of tensors alone."""
        return {
            f"{key}.{i}": cast(torch.Tensor, self.state[p][key])
            for i, p in enumerate(self._parameters())
            for key in ("exp_avg", "exp_avg_sq")
            if p in self.state
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        self.num_steps = num_steps
        for i, p in enumerate(self._parameters()):
            if f"exp_avg.{i}" in tensors:
                self.state[p] = {
                    "step": torch.tensor(float(num_steps), device=p.device),
                    "exp_avg": tensors[f"exp_avg.{i}"].to(p.device),
                    "exp_avg_sq": tensors[f"exp_avg_sq.{i}"].to(p.device),
                }

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]
