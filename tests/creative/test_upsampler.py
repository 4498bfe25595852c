"""The upsampler: shrinking and blurring by hand, its crops, its loss, and what its U-Net is given."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle

from clickherd.creative import diffusion
from clickherd.creative.config import UpsamplerConfig
from clickherd.creative.upsampler import Upsampler, blurred, shrink


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def an_upsampler(size: int = 16, factor: int = 2, **settings: object) -> Upsampler:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UpsamplerConfig(**{"channels": (8, 16), "patch": 2, **settings})
        return Upsampler(config, size, factor).eval().requires_grad_(False)


def test_shrinking_is_averaging() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert shrink(image, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert shrink(image, 4).tolist() == [[[[7.5]]]]
    assert shrink(image, 1) is image


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.6, 1.5, 5.0])
@pytest.mark.parametrize("side", [3, 8])
def test_a_blur_leaves_one_colour_as_it_is(sigma: float, side: int) -> None:
    image = torch.tensor([0.3, -0.7, 1.0]).reshape(1, 3, 1, 1).expand(2, 3, side, side)
    torch.testing.assert_close(blurred(image, sigma), image)


def test_a_blurred_point_by_hand() -> None:
    image = torch.zeros(1, 3, 9, 9)
    image[0, 1, 4, 4] = 1
    bell = [math.exp(-0.5 * (offset / 0.6) ** 2) for offset in (-2, -1, 0, 1, 2)]
    weights = torch.zeros(9)
    weights[2:7] = torch.tensor(bell) / sum(bell)
    got = blurred(image, 0.6)
    torch.testing.assert_close(got[0, 1], torch.outer(weights, weights))
    assert float(got.sum()) == pytest.approx(1)
    assert float(got[0, 0::2].abs().max()) == 0  # channels do not mix
    # a row is not a column
    image = torch.zeros(1, 1, 9, 12)
    image[0, 0, 4, 6] = 1
    assert (blurred(image, 0.6) > 1e-6).nonzero()[:, 2:].aminmax(dim=0).max.tolist() == [6, 8]


def test_at_the_edge_the_image_is_mirrored() -> None:
    bell = [math.exp(-0.5 * offset**2) for offset in range(4)]
    total = bell[0] + 2 * sum(bell[1:])
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, :, 1] = 1
    # the pixel at the edge sees the second column on both sides
    assert float(blurred(image, 1.0)[0, 0, 5, 0]) == pytest.approx(2 * bell[1] / total, rel=1e-5)


def test_a_blur_widens_by_its_variance() -> None:
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 20, 20] = 1
    across = blurred(image, 2.0)[0, 0].sum(0)
    assert float((across * (torch.arange(41) - 20) ** 2).sum()) == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize(
    ("size", "factor", "patch", "levels", "share", "side"),
    [
        (64, 2, 2, 3, 0.5, 32),
        (64, 4, 2, 3, 0.5, 32),
        (64, 4, 1, 2, 0.4, 24),  # 25.6, a multiple of 4
        (64, 2, 2, 3, 1.0, 64),
        (64, 2, 2, 3, 0.01, 8),  # what can be halved twice after patches of 2
        (48, 3, 2, 3, 0.5, 24),
        (48, 3, 2, 3, 0.2, 24),  # of 8 and of 3
        (32, 8, 1, 2, 0.5, 16),
        (16, 2, 2, 2, 0.3, 4),
        (24, 4, 4, 2, 0.9, 24),
    ],
)
def test_the_side_of_the_crops(size: int, factor: int, patch: int, levels: int, share: float, side: int) -> None:
    channels = (16, 16, 16)[:levels]
    upsampler = an_upsampler(size, factor, patch=patch, channels=channels, crop=share)
    assert upsampler.crop == side
    assert side % factor == side % (patch * 2 ** (levels - 1)) == 0
    loss = upsampler.loss(randn(2, 3, size, size), torch.Generator().manual_seed(0))
    assert bool(loss.isfinite())


class Recorder(nn.Module):
    """Stands for the U-Net, and keeps what it was given."""

    def forward(self, both: Tensor, t_B: Tensor) -> SimpleNamespace:
        self.given = both, t_B
        return SimpleNamespace(sample=both[:, : both.shape[1] // 2])


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_what_the_unet_is_given(patch: int) -> None:
    upsampler = an_upsampler(patch=patch)
    x_t, small, t_B = randn(2, 3, 16, 16), randn(2, 3, 8, 8, seed=1), torch.tensor([3, 900])
    assert upsampler(x_t, t_B, small).shape == (2, 3, 16, 16)
    upsampler.unet = Recorder()
    torch.testing.assert_close(upsampler(x_t, t_B, small), x_t)
    both, t = upsampler.unet.given
    assert torch.equal(t, t_B)
    assert both.shape == (2, 6 * patch**2, 16 // patch, 16 // patch)
    images = pixel_shuffle(both, patch)
    torch.testing.assert_close(images[:, :3], x_t)
    torch.testing.assert_close(images[:, 3:], interpolate(small, scale_factor=2, mode="bicubic"))
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)  # the centre of a pixel stays where it is
    upsampler(x_t[:1], t_B[:1], ramp)
    enlarged = pixel_shuffle(upsampler.unet.given[0], patch)[0, 3, 7]
    assert enlarged[4:12].tolist() == pytest.approx((torch.arange(4.0, 12) / 2 - 0.25).tolist(), abs=0.05)


def test_the_unet_has_no_attention() -> None:
    assert not [module for module in an_upsampler().unet.modules() if isinstance(module, Attention)]


def test_the_image_the_noise_and_the_time_all_count() -> None:
    upsampler = an_upsampler()
    x_t, small, t_B = randn(2, 3, 16, 16), randn(2, 3, 8, 8, seed=1), torch.tensor([3, 900])
    base = upsampler(x_t, t_B, small)
    for other in (upsampler(x_t + 1, t_B, small), upsampler(x_t, t_B + 50, small), upsampler(x_t, t_B, small + 1)):
        assert bool(((other - base).abs().flatten(1).amax(1) > 1e-4).all())


@pytest.mark.parametrize("blur", [0.0, 0.6])
def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch, blur: float) -> None:
    upsampler = an_upsampler(size=32, factor=2, crop=0.5, blur=blur)
    large, asked = randn(64, 3, 32, 32) * 0.5, []

    def forward(x_t: Tensor, t_B: Tensor, small: Tensor) -> Tensor:
        asked.append((x_t, t_B, small))
        return 0.25 * x_t

    monkeypatch.setattr(upsampler, "forward", forward)
    corners = [(top, left) for top in range(17) for left in range(17)]
    firsts = torch.cat([large[:1, :, top : top + 16, left : left + 16] for top, left in corners])
    firsts = blurred(shrink(firsts, 2), blur)  # of the first image, from each corner
    places = set()
    for seed in range(40):
        loss = upsampler.loss(large, torch.Generator().manual_seed(seed))
        x_t, t_B, small = asked[-1]
        assert x_t.shape == (64, 3, 16, 16)
        assert small.shape == (64, 3, 8, 8)
        off = (firsts - small[0]).abs().flatten(1).amax(1)
        assert int((off < 1e-5).sum()) == 1
        top, left = corners[int(off.argmin())]
        assert top % 2 == left % 2 == 0
        places.add((top, left))
        x_0 = large[:, :, top : top + 16, left : left + 16]
        torch.testing.assert_close(small, blurred(shrink(x_0, 2), blur))
        bar = diffusion.schedule("sample").alphas_cumprod.double()[t_B].reshape(-1, 1, 1, 1)
        noise = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()
        v = bar.sqrt() * noise - (1 - bar).sqrt() * x_0
        assert float(loss) == pytest.approx(float((0.25 * x_t - v).square().mean()), rel=1e-3)
        assert float(noise[t_B > 100].std()) == pytest.approx(1, abs=0.05)
        assert t_B.shape == (64,)
    for side in (0, 1):  # crops are taken from one edge to the other
        assert {min(place[side] for place in places), max(place[side] for place in places)} == {0, 16}
    assert any(top != left for top, left in places)
    assert torch.equal(loss, upsampler.loss(large, torch.Generator().manual_seed(39)))


@pytest.mark.parametrize(("size", "factor"), [(16, 2), (32, 4)])
def test_a_sample_is_large_and_within_the_range(size: int, factor: int) -> None:
    upsampler = an_upsampler(size, factor)
    small, noise = randn(2, 3, size // factor, size // factor).clamp(-1, 1), randn(2, 3, size, size, seed=1)
    drawn = upsampler.sample(small, noise, steps=2)
    assert drawn.shape == (2, 3, size, size)
    assert -1 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert torch.equal(upsampler.sample(small, noise, steps=2), drawn)
    assert not torch.allclose(upsampler.sample(-small, noise, steps=2), drawn)


def test_a_sample_of_a_network_that_knows_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    upsampler = an_upsampler()
    star = torch.from_numpy(np.linspace(-1.5, 1.5, 3 * 16 * 16).reshape(3, 16, 16)).float()

    def forward(x_t: Tensor, t_B: Tensor, small: Tensor) -> Tensor:
        bar = diffusion.schedule("sample").alphas_cumprod[t_B].reshape(-1, 1, 1, 1)
        noise = (x_t - bar.sqrt() * star) / (1 - bar).sqrt()
        return bar.sqrt() * noise - (1 - bar).sqrt() * star

    monkeypatch.setattr(upsampler, "forward", forward)
    drawn = upsampler.sample(torch.zeros(2, 3, 8, 8), randn(2, 3, 16, 16), steps=4)
    torch.testing.assert_close(drawn, star.clamp(-1, 1).expand(2, -1, -1, -1), atol=1e-3, rtol=0)


def test_the_loss_reaches_every_weight() -> None:
    upsampler = an_upsampler(crop=1.0).requires_grad_()
    upsampler.loss(randn(4, 3, 16, 16), torch.Generator().manual_seed(0)).backward()  # type: ignore[no-untyped-call]
    assert [name for name, weight in upsampler.named_parameters() if weight.grad is None or not weight.grad.any()] == []
