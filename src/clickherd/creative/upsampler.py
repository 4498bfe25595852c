"""The upsampler (Ramesh et al. 2022, section 2.1): a small image made large, by diffusion.

A U-Net without attention (diffusers' UNet2DModel), given the small image, enlarged, beside the noisy large one. It sees
neither text nor embedding, so that it can learn from crops and be used on whole images. In training the small image is
blurred, which makes it forgive what the decoder's images lack in sharpness (Ho et al. 2022, Saharia et al. 2021).

Shapes: B images, s the small side, S the large one.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad, pixel_shuffle, pixel_unshuffle

from clickherd.creative import diffusion
from clickherd.creative.config import UpsamplerConfig


class Upsampler(nn.Module):
    """Images in [−1, 1], `factor` times as large."""

    def __init__(self, config: UpsamplerConfig, size: int, factor: int) -> None:
        super().__init__()
        self.config, self.size, self.factor = config, size, factor
        depth = len(config.channels)
        self.unet = UNet2DModel(
            sample_size=size // config.patch,
            in_channels=6 * config.patch**2,
            out_channels=3 * config.patch**2,
            block_out_channels=config.channels,
            layers_per_block=config.layers,
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            add_attention=False,
            norm_num_groups=8,
        )

    @property
    def crop(self) -> int:
        """Side of the crops that it learns from: what the U-Net can halve, and whole small pixels."""
        unit = self.config.patch * 2 ** (len(self.config.channels) - 1)
        unit *= self.factor if unit % self.factor else 1
        side: int = min(max(round(self.size * self.config.crop / unit), 1) * unit, self.size)
        return side

    def forward(self, x_t: Tensor, t_B: Tensor, small: Tensor) -> Tensor:
        """Predicted v, (B, 3, S, S), given the small image (B, 3, s, s)."""
        enlarged = interpolate(small, size=x_t.shape[-2:], mode="bicubic")
        both = pixel_unshuffle(torch.cat([x_t, enlarged], dim=1), self.config.patch)
        out: Tensor = self.unet(both, t_B).sample
        return pixel_shuffle(out, self.config.patch)

    def loss(self, large: Tensor, rng: torch.Generator) -> Tensor:
        """Mean squared error of v on crops of images (B, 3, S, S) in [−1, 1]; the seed of `rng` says where."""
        side = self.crop
        # on the host: a number drawn on a GPU would have to be waited for
        places = np.random.default_rng(rng.initial_seed()).integers((self.size - side) // self.factor + 1, size=2)
        top, left = (int(place) * self.factor for place in places)
        x_0 = large[:, :, top : top + side, left : left + side]
        small = blurred(shrink(x_0, self.factor), self.config.blur)
        noise = torch.randn(x_0.shape, generator=rng, device=rng.device)
        t_B = diffusion.timesteps(len(x_0), rng)
        x_t, target = diffusion.noised(x_0, noise, t_B, "v_prediction")
        loss: Tensor = (self(x_t, t_B, small) - target).square().mean()
        return loss

    @torch.no_grad()
    def sample(self, small: Tensor, noise: Tensor, *, steps: int) -> Tensor:
        """Large images (B, 3, S, S) from small ones, both in [−1, 1]."""
        return diffusion.sample(
            lambda x_t, t_B: self(x_t, t_B, small), noise, target="v_prediction", steps=steps
        ).clamp(-1, 1)


def shrink(images: Tensor, factor: int) -> Tensor:
    """Images with `factor` times fewer pixels each way, by averaging."""
    return images if factor == 1 else nn.functional.avg_pool2d(images, factor)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of standard deviation `sigma` pixels; edges are mirrored."""
    if sigma == 0:
        return images
    reach = max(1, min(round(3 * sigma), images.shape[-1] - 1))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    weights = (-0.5 * (offsets / sigma) ** 2).exp()
    weights = weights / weights.sum()
    channels = images.shape[1]
    across = weights.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    x = conv2d(pad(images, (reach, reach, 0, 0), mode="reflect"), across, groups=channels)
    return conv2d(pad(x, (0, 0, reach, reach), mode="reflect"), across.transpose(2, 3), groups=channels)
