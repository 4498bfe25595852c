"""Diffusion in discrete time: noise, DDIM sampling with η, and its inversion. The schedules are those of diffusers.

    x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε       (Ho et al., NeurIPS 2020, eq. 4), ᾱ a cosine (Nichol & Dhariwal, ICML 2021)
    v_t = √ᾱ_t ε − √(1 − ᾱ_t) x_0       (Salimans & Ho, ICLR 2022, appendix D): what a decoder predicts

A network is called as `network(x_t, t)`, t an int64 tensor (B,), and gives x_0 ("sample") or v_t ("v_prediction").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Literal

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from clickherd.errors import ConfigError

TIMESTEPS = 1000  # of training

Network = Callable[[Tensor, Tensor], Tensor]
Target = Literal["sample", "v_prediction"]


@cache
def schedule(target: Target) -> DDIMScheduler:
    """The cosine schedule over 1,000 steps, shared. Sampling ends at t = 0 with the predicted x_0 itself."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,  # a clipped step has no inverse
        set_alpha_to_one=True,
        timestep_spacing="trailing",  # begins at t = 999, where x_t is noise alone (Lin et al., WACV 2024)
        prediction_type=target,
    )


def noised(x_0: Tensor, noise: Tensor, t_B: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """x_t, and what the network is to predict from it; both in the shape of x_0."""
    kind = schedule(target)
    x_t = kind.add_noise(x_0, noise, t_B)
    return x_t, (x_0 if target == "sample" else kind.get_velocity(x_0, noise, t_B))


def timesteps(number: int, rng: torch.Generator, high_noise: float = 0.0) -> Tensor:
    """Timesteps to train at, int64 (number,) where `rng` is; their density rises as t to the power p = `high_noise`.

        t = ⌊1000 u^(1/(1 + p))⌋, u uniform, since P(t < s) = (s/1000)^(1 + p)

    What a picture shows is settled while there is much noise, how fine it is while there is little (docs/log.md).
    """
    u = torch.rand(number, generator=rng, device=rng.device)
    return (TIMESTEPS * u ** (1 / (1 + high_noise))).long().clamp(max=TIMESTEPS - 1)  # u near 1 rounds up to 1,000


def steps_allowed(steps: int) -> int:
    """The number of sampling steps, seen to be one that divides the 1,000 of training.

    Raises:
        ConfigError: it does not; the step from one noise level to the next would not be the one that DDIM takes.
    """
    if steps < 1 or TIMESTEPS % steps:
        fitting = (n for n in range(1, TIMESTEPS + 1) if TIMESTEPS % n == 0)
        nearest = min(fitting, key=lambda n: abs(n - steps))
        raise ConfigError(f"{steps} sampling steps do not divide {TIMESTEPS}", mend=f"Take {nearest}.")
    return steps


@torch.no_grad()
def sample(
    network: Network, x_T: Tensor, *, target: Target, steps: int, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """x_0 from x_T by DDIM (Song et al., ICLR 2021, eq. 12); in the shape of x_T.

    Args:
        network: predicts `target` from (x_t, t).
        x_T: standard normal noise, or what `invert` found. (B, …)
        target: what the network predicts.
        steps: how many of the 1,000 noise levels are visited; a divisor of 1,000.
        eta: 0 is deterministic; 1 adds as much noise at each step as DDPM does.
        noise: for eta > 0, the noise of each step: (steps, B, …).

    Raises:
        ValueError: η without noise for each step.
    """
    if eta and (noise is None or len(noise) != steps):
        raise ValueError(f"eta = {eta} needs noise for each of {steps} steps")
    kind = deepcopy(schedule(target))  # the number of steps is its own
    kind.set_timesteps(steps_allowed(steps))
    x = x_T
    for i, t in enumerate(kind.timesteps):
        predicted = network(x, t.expand(len(x)).to(x.device))
        added = None if noise is None else noise[i]
        x = kind.step(predicted, int(t), x, eta=eta, variance_noise=added).prev_sample
    return x


@torch.no_grad()
def invert(network: Network, x_0: Tensor, *, steps: int, refine: int = 2) -> Tensor:
    """The x_T from which `sample` with eta = 0 leads back to x_0, for a network that predicts v.

    With ᾱ = cos²φ a DDIM step from φ + δ to φ is x_φ = cos δ x_{φ+δ} − sin δ v(x_{φ+δ}) (Salimans & Ho 2022, appendix
    D), so x_{φ+δ} = (x_φ + sin δ v(x_{φ+δ})) / cos δ. The v at the noisier end is not known yet: it is first taken at
    x_φ, and then `refine` times at the end found so far (a fixed point, as in AIDI; Pan et al., ICCV 2023).
    """
    kind = deepcopy(schedule("v_prediction"))
    kind.set_timesteps(steps_allowed(steps))
    x, low = x_0, 0.0
    for t in kind.timesteps.flip(0):
        high = math.acos(math.sqrt(float(kind.alphas_cumprod[t])))
        level, turn = t.expand(len(x)).to(x.device), high - low
        up = x
        for _ in range(1 + refine):
            up = (x + math.sin(turn) * network(up, level)) / math.cos(turn)
        x, low = up, high
    return x
