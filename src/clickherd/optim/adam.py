"""Adam for the dense weights, with the ε of Keras."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from clickherd.kernels import AdamStep, kernels_for


class KerasAdam:
    """Adam (Kingma & Ba 2015) in the form with ε̂ (end of their section 2): w ← w − lr·√(1−β₂ᵗ)/(1−β₁ᵗ)·m/(√v + ε).

    Torch adds ε after bias correction, Keras (and so CowClip's code) before. The gradients of a batch add up in the
    parameters' `grad`, which stays where it is. `shares` are those of the rate that each parameter has, the whole
    when not given.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float],
        epsilon: float,
        shares: Sequence[float] | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self._places: dict[float, list[int]] = {}  # of the parameters that have this share
        for place in range(len(self.parameters)):
            self._places.setdefault(1.0 if shares is None else shares[place], []).append(place)
        self.betas, self.epsilon = betas, epsilon
        self.num_steps = 0
        self._exp_avgs, self._exp_avg_sqs, self._grads = (
            [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters] for _ in range(3)
        )
        self.zero_grad()

    def zero_grad(self) -> None:
        """Begin a batch."""
        for parameter, grad in zip(self.parameters, self._grads, strict=True):
            parameter.grad = grad  # again: a copy of a parameter comes without
        if self._grads:
            torch._foreach_zero_(self._grads)

    def accumulate(self, gradients: list[Tensor]) -> None:
        """Add the gradients of a micro-batch."""
        if self._grads:
            torch._foreach_add_(self._grads, gradients)

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """One step at the given rate."""
        self.num_steps += 1
        if not self.parameters:
            return
        beta1, beta2 = self.betas
        adam = kernels_for(self.parameters[0].device).adam
        lists = ([p.detach() for p in self.parameters], self._exp_avgs, self._exp_avg_sqs, self._grads)
        for share, places in self._places.items():
            step = AdamStep(
                self.num_steps,
                learning_rate * share,
                l2=0.0,
                clip=math.inf,
                zeta=0.0,
                beta1=beta1,
                beta2=beta2,
                epsilon=self.epsilon,
            )
            weights, means, squares, grads = ([tensors[place] for place in places] for tensors in lists)
            adam(weights, means, squares, grads, step)

    def tensors(self) -> dict[str, Tensor]:
        """The moments by name, for a checkpoint."""
        moments = {"exp_avg": self._exp_avgs, "exp_avg_sq": self._exp_avg_sqs}
        return {f"{name}.{i}": tensor for name, tensors in moments.items() for i, tensor in enumerate(tensors)}

    def load_tensors(self, tensors: dict[str, Tensor], num_steps: int) -> None:
        """The inverse of `tensors`."""
        self.num_steps = num_steps
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
