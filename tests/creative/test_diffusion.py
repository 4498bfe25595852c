"""Noise, DDIM and its inversion against closed forms: one point, and a Gaussian, have exact predictors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from clickherd.creative import diffusion
from clickherd.creative.diffusion import Network, Target
from clickherd.errors import ConfigError

TARGETS: tuple[Target, Target] = ("sample", "v_prediction")


def signal(t: int) -> float:
    """ᾱ_t of the cosine (Nichol & Dhariwal 2021, eq. 17); the first noise level, t = 0, is a thousandth of the way."""

    def f(share: float) -> float:
        return math.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2

    if t == diffusion.TIMESTEPS - 1:  # the last β would be 1 and is cut to .999
        return signal(t - 1) * 0.001
    return f((t + 1) / diffusion.TIMESTEPS) / f(0)


def levels(t_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1 − ᾱ_t), to be multiplied with rows."""
    bar = torch.tensor([signal(int(t)) for t in t_B], dtype=torch.float64)
    shape = (-1, *[1] * (like.ndim - 1))
    return bar.sqrt().reshape(shape), (1 - bar).sqrt().reshape(shape)


def point(x_0: Tensor, target: Target) -> Network:
    """What a perfect network says where all data are one point."""

    def network(x_t: Tensor, t_B: Tensor) -> Tensor:
        share, noise = levels(t_B, x_t)
        if target == "sample":
            return x_0.expand_as(x_t)
        return share * (x_t - share * x_0) / noise - noise * x_0

    return network


def gaussian(mean: Tensor, spread: float) -> Network:
    """The exact v where data are N(mean, spread²): E[x_0|x_t] and E[ε|x_t] are linear in x_t."""

    def network(x_t: Tensor, t_B: Tensor) -> Tensor:
        share, noise = levels(t_B, x_t)
        off = (x_t - share * mean) / (share**2 * spread**2 + noise**2)
        return share * (noise * off) - noise * (mean + share * spread**2 * off)

    return network


def test_the_schedule_is_the_cosine() -> None:
    got = diffusion.schedule("sample").alphas_cumprod
    assert len(got) == 1000
    assert got.tolist() == pytest.approx([signal(t) for t in range(1000)], rel=2e-3)
    assert float(got[0]) > 0.9999
    assert float(got[999]) < 1e-8


@pytest.mark.parametrize("target", TARGETS)
def test_noise_and_what_is_to_be_predicted(target: Target) -> None:
    x_0, noise = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[0.5, 1.0], [-2.0, 0.25]])
    x_t, wanted = diffusion.noised(x_0, noise, torch.tensor([300, 800]), target)
    for row, t in enumerate((300, 800)):
        a, s = math.sqrt(signal(t)), math.sqrt(1 - signal(t))
        for column in range(2):
            x, e = float(x_0[row, column]), float(noise[row, column])
            assert float(x_t[row, column]) == pytest.approx(a * x + s * e, rel=1e-4, abs=1e-5)
            v = x if target == "sample" else a * e - s * x
            assert float(wanted[row, column]) == pytest.approx(v, rel=1e-4, abs=1e-5)
    if target == "sample":
        assert torch.equal(wanted, x_0)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_timesteps_are_drawn_with_a_density_that_rises_as_a_power(power: float) -> None:
    t_B = diffusion.timesteps(20_000, torch.Generator().manual_seed(0), power)
    for at in (100, 500, 900):
        assert float((t_B < at).float().mean()) == pytest.approx((at / 1000) ** (1 + power), abs=0.01)
    assert int(t_B.max()) == diffusion.TIMESTEPS - 1
    if not power:
        assert int(t_B.min()) == 0


def test_images_are_noised_row_by_row() -> None:
    x_0, noise = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    t_B = torch.tensor([0, 500, 999])
    share, rest = levels(t_B, x_0)
    x_t, v = diffusion.noised(x_0, noise, t_B, "v_prediction")
    torch.testing.assert_close(x_t, (share * x_0 + rest * noise).float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(v, (share * noise - rest * x_0).float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("steps", [1, 4, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_where_all_data_are_one_point_it_is_found(target: Target, steps: int, eta: float) -> None:
    x_T = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    star = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    noise = torch.randn(steps, *x_T.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = diffusion.sample(point(star, target), x_T, target=target, steps=steps, eta=eta, noise=noise)
    torch.testing.assert_close(got, star.expand_as(got), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("steps", "want"), [(4, [999, 749, 499, 249]), (1, [999]), (1000, list(range(999, -1, -1)))])
def test_the_noise_levels_that_are_visited(steps: int, want: list[int]) -> None:
    seen = []

    def network(x_t: Tensor, t_B: Tensor) -> Tensor:
        assert t_B.dtype == torch.int64
        assert t_B.tolist() == [int(t_B[0])] * 2
        seen.append(int(t_B[0]))
        return torch.zeros_like(x_t)

    diffusion.sample(network, torch.ones(2, 3), target="sample", steps=steps)
    assert seen == want


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_last_step_returns_the_predicted_x_0_itself(eta: float) -> None:
    def network(x_t: Tensor, t_B: Tensor) -> Tensor:
        return torch.full_like(x_t, float(t_B[0]))  # is not clipped to [−1, 1]

    noise = torch.ones(4, 2, 3)
    got = diffusion.sample(network, torch.ones(2, 3), target="sample", steps=4, eta=eta, noise=noise)
    assert torch.equal(got, torch.full((2, 3), 249.0))


PREDICTED, PAIRS = (0.3, -0.2, 0.4), ((999, 749), (749, 499), (499, 249))  # and the levels from and to


def steps_of(target: Target, eta: float) -> list[float]:
    """What a network that says PREDICTED is asked about at 999, 749, 499 and 249, from x_T = .7."""
    asked = []

    def network(x_t: Tensor, t_B: Tensor) -> Tensor:
        asked.append(float(x_t))
        return torch.full_like(x_t, (*PREDICTED, 0)[len(asked) - 1])

    noise = torch.tensor([0.5, -1.5, 2.0, 9.0], dtype=torch.float64).reshape(4, 1, 1)
    x_T = torch.tensor([[0.7]], dtype=torch.float64)
    diffusion.sample(network, x_T, target=target, steps=4, eta=eta, noise=noise)
    return asked


def test_a_deterministic_step_by_hand() -> None:
    x = steps_of("sample", 0.0)
    for before, after, x_0, (t, lower) in zip(x, x[1:], PREDICTED, PAIRS, strict=False):
        e = (before - math.sqrt(signal(t)) * x_0) / math.sqrt(1 - signal(t))
        assert after == pytest.approx(math.sqrt(signal(lower)) * x_0 + math.sqrt(1 - signal(lower)) * e, abs=1e-4)


def test_a_deterministic_step_of_v_is_a_rotation() -> None:
    x = steps_of("v_prediction", 0.0)
    for before, after, v, (t, lower) in zip(x, x[1:], PREDICTED, PAIRS, strict=False):
        turn = math.acos(math.sqrt(signal(t))) - math.acos(math.sqrt(signal(lower)))
        assert after == pytest.approx(math.cos(turn) * before - math.sin(turn) * v, abs=1e-4)


def test_a_step_with_as_much_noise_as_ddpm_is_one_of_ddpm() -> None:
    """Ho et al. 2020, eq. 7: the posterior of x_{t−1} given x_t and x_0."""
    x, added = steps_of("sample", 1.0), (0.5, -1.5, 2.0)
    for before, after, x_0, z, (t, lower) in zip(x, x[1:], PREDICTED, added, PAIRS, strict=False):
        alpha = signal(t) / signal(lower)
        mean = math.sqrt(signal(lower)) * (1 - alpha) / (1 - signal(t)) * x_0
        mean += math.sqrt(alpha) * (1 - signal(lower)) / (1 - signal(t)) * before
        variance = (1 - signal(lower)) / (1 - signal(t)) * (1 - alpha)
        assert after == pytest.approx(mean + math.sqrt(variance) * z, abs=2e-4)


def test_without_eta_the_noise_is_ignored() -> None:
    x_T = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    network = gaussian(torch.tensor([0.5, -1.0, 0.0]), 0.6)
    plain = diffusion.sample(network, x_T, target="v_prediction", steps=10)
    noisy = diffusion.sample(network, x_T, target="v_prediction", steps=10, noise=torch.randn(10, 2, 3))
    assert torch.equal(plain, noisy)
    eta = diffusion.sample(network, x_T, target="v_prediction", steps=10, eta=0.5, noise=torch.ones(10, 2, 3))
    assert not torch.allclose(plain, eta, atol=1e-2)


MEAN, SPREAD = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64), 0.6


def gaussian_points() -> Tensor:
    return MEAN + SPREAD * torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_gaussian_data_are_drawn_and_whitened() -> None:
    x_0 = gaussian_points()
    x_T = diffusion.invert(gaussian(MEAN, SPREAD), x_0, steps=1000)
    torch.testing.assert_close(x_T, (x_0 - MEAN) / SPREAD, atol=5e-3, rtol=0)
    drawn = diffusion.sample(gaussian(MEAN, SPREAD), x_T, target="v_prediction", steps=1000)
    torch.testing.assert_close(drawn, MEAN + SPREAD * x_T, atol=5e-3, rtol=0)


def error_of_inversion(steps: int, refine: int) -> float:
    network, x_0 = gaussian(MEAN, SPREAD), gaussian_points()
    x_T = diffusion.invert(network, x_0, steps=steps, refine=refine)
    return float((diffusion.sample(network, x_T, target="v_prediction", steps=steps) - x_0).abs().max())


def test_sampling_undoes_inversion() -> None:
    assert error_of_inversion(steps=20, refine=30) < 1e-4
    assert error_of_inversion(steps=100, refine=2) < 1e-4


def test_each_refinement_makes_inversion_better() -> None:
    none, once, twice = (error_of_inversion(steps=20, refine=refine) for refine in range(3))
    assert none > 5 * once > 25 * twice


@pytest.mark.parametrize("refine", [0, 2])
def test_the_levels_of_inversion_are_those_of_sampling_from_the_clean_end(refine: int) -> None:
    seen = []

    def network(x_t: Tensor, t_B: Tensor) -> Tensor:
        seen.append(int(t_B[0]))
        return torch.zeros_like(x_t)

    x_T = diffusion.invert(network, torch.ones(2, 3), steps=4, refine=refine)
    assert seen == [t for t in (249, 499, 749, 999) for _ in range(1 + refine)]
    turns = [math.acos(math.sqrt(signal(t))) for t in (249, 499, 749, 999)]
    want = math.prod(math.cos(high - low) for low, high in zip([0, *turns], turns, strict=False))
    assert x_T.tolist() == [pytest.approx([1 / want] * 3, rel=1e-3)] * 2


@pytest.mark.parametrize(("steps", "fitting"), [(0, 1), (-4, 1), (3, 2), (30, 25), (49, 50), (999, 1000), (1500, 1000)])
def test_steps_that_do_not_divide_the_thousand_are_refused(steps: int, fitting: int) -> None:
    with pytest.raises(ConfigError, match=rf"{steps} sampling steps do not divide 1000\. Take {fitting}\."):
        diffusion.sample(point(torch.zeros(2), "sample"), torch.zeros(1, 2), target="sample", steps=steps)
    with pytest.raises(ConfigError, match=rf"Take {fitting}\."):
        diffusion.invert(point(torch.zeros(2), "v_prediction"), torch.zeros(1, 2), steps=steps)
    assert diffusion.steps_allowed(fitting) == fitting
