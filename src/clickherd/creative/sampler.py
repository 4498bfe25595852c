"""The trained stages of a run put to use, step by step: text → z_i → image, and image → x_T.

Shapes: N pictures, S their side, D dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clickherd.creative import diffusion, latent, stages
from clickherd.creative.ar_prior import ARPrior
from clickherd.creative.captions import encode_texts
from clickherd.creative.clip import Clip, Texts
from clickherd.creative.config import CreativeConfig, SampleConfig
from clickherd.creative.decoder import Decoder
from clickherd.creative.latent import PCA
from clickherd.creative.loop import seed_of
from clickherd.creative.prior import DiffusionPrior
from clickherd.creative.upsampler import Upsampler
from clickherd.errors import ConfigError, did_you_mean
from clickherd.settings import validated

PriorName = Literal["diffusion", "ar", "none"]
AT_ONCE = 64  # pictures that go through the decoder together


@dataclass
class Sampler:
    """Each stage of the run loads when it is first used. All noise comes from seeds, and is alike on every device."""

    folder: Path
    config: CreativeConfig
    device: torch.device

    @cached_property
    def clip(self) -> Clip:
        """The CLIP of the run."""
        return stages.load_clip_of(self.folder).to(self.device)

    @cached_property
    def prior(self) -> DiffusionPrior:
        """The diffusion prior."""
        return stages.load_prior(self.folder, self.config, self.clip).to(self.device)

    @cached_property
    def ar_prior(self) -> ARPrior:
        """The autoregressive prior."""
        return stages.load_ar_prior(self.folder, self.config, self.clip).to(self.device)

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder."""
        return stages.load_decoder(self.folder, self.config, self.clip).to(self.device)

    @cached_property
    def upsampler(self) -> Upsampler | None:
        """The upsampler; None in a run without one."""
        if not self.config.upsampler.on:
            return None
        return stages.load_upsampler(self.folder, self.config).to(self.device)

    @cached_property
    def pca(self) -> PCA:
        """Principal components of the training images' embeddings."""
        return stages.load_pca(self.folder).to(self.device)

    def sampling(self, settings: dict[str, Any]) -> SampleConfig:
        """The run's `sample` settings with others over them.

        Raises:
            ConfigError: an unknown one, or a value that it cannot take.
        """
        return validated(SampleConfig, {**self.config.sample.model_dump(), **settings}, within="sample")

    def draw(
        self,
        prompts: Sequence[str],
        indices: Sequence[int],
        sampling: SampleConfig,
        *,
        seed: int,
        prior: PriorName = "diffusion",
    ) -> Tensor:
        """One picture for each prompt, the `indices`-th of its own; (N, 3, S, S) in [−1, 1]."""
        distinct = list(dict.fromkeys(prompts))
        encoded, keys = encode_texts(self.clip, distinct), draw_keys(prompts, indices, seed)
        made = []
        for i in range(0, len(prompts), AT_ONCE):
            some = keys[i : i + AT_ONCE]
            texts = encoded[torch.tensor([distinct.index(prompt) for prompt in prompts[i : i + AT_ONCE]])]
            z = self.embed(texts, some, prior, sampling)
            made.append(self.decoded(z, self.noise(some), sampling, texts=texts if sampling.caption else None))
        return torch.cat(made)

    def embed(self, texts: Texts, keys: Sequence[int], prior: PriorName, sampling: SampleConfig) -> Tensor:
        """Image embeddings (N, D) for the texts; `keys` are the seeds of each row's noise.

        Raises:
            ConfigError: no such prior.
        """
        if prior not in get_args(PriorName):
            raise ConfigError(f"unknown prior {prior!r}", mend=did_you_mean(prior, get_args(PriorName)))
        if prior == "none":
            return texts.embedding
        drawn = []
        for candidate in range(sampling.candidates):
            seeds = [seed_of(key, "prior", candidate) for key in keys]
            if prior == "diffusion":
                noise = noise_of((self.clip.embedding_dim,), seeds, self.device)
                steps, guidance = sampling.prior_steps, sampling.prior_guidance
                drawn.append(self.prior.sample(texts, noise, steps=steps, guidance=guidance))
            else:
                uniform = noise_of((1 + self.ar_prior.num_components,), seeds, self.device, torch.rand)
                drawn.append(self.ar_prior.sample(texts, uniform, guidance=sampling.prior_guidance))
        return latent.pick(torch.stack(drawn), texts.embedding)

    def decoded(
        self,
        z: Tensor,
        x_T: Tensor,
        sampling: SampleConfig,
        steps: int | None = None,
        *,
        texts: Texts | None = None,
        eta: float = 0.0,
        noise: Tensor | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """The decoder's pictures of embeddings (N, D) from noise, (N, 3, S, S) in [−1, 1], some at a time.

        `steps` and `guidance` are those of the settings unless given; `noise` (steps, N, 3, S, S) is what η > 0 adds.
        """
        guidance = sampling.decoder_guidance if guidance is None else guidance
        made = []
        for i in range(0, len(z), AT_ONCE):
            part = slice(i, i + AT_ONCE)
            some = None if texts is None else texts[torch.arange(len(z))[part]]
            x_0 = diffusion.sample(
                self.decoder.network(z[part], some, guidance),
                x_T[part],
                target="v_prediction",
                steps=steps or sampling.decoder_steps,
                eta=eta,
                noise=None if noise is None else noise[:, part],
            )
            made.append(self.decoder.restored(x_0))
        return torch.cat(made)

    def decoded_back(self, z: Tensor, x_T: Tensor, sampling: SampleConfig, **of_noise: Any) -> Tensor:
        """Pictures from noise that `inverted` found: with its steps, and like it without caption and guidance."""
        return self.decoded(z, x_T, sampling, sampling.invert_steps, guidance=1.0, **of_noise)

    def inverted(self, images: Tensor, z: Tensor, sampling: SampleConfig) -> Tensor:
        """The noise that the decoder makes these images (N, 3, S, S) from, given their embeddings; without guidance."""
        x_0 = self.decoder.standardised(images)
        parts = [slice(i, i + AT_ONCE) for i in range(0, len(z), AT_ONCE)]
        steps = sampling.invert_steps
        return torch.cat([diffusion.invert(self.decoder.network(z[p], None), x_0[p], steps=steps) for p in parts])

    def enlarged(self, images: Tensor, keys: Sequence[int], sampling: SampleConfig) -> Tensor:
        """The decoder's pictures through the upsampler; as they are in a run without one."""
        if self.upsampler is None:
            return images
        size = self.config.data.size
        noise = noise_of((3, size, size), [seed_of(key, "upsampler") for key in keys], self.device)
        parts = [slice(i, i + AT_ONCE) for i in range(0, len(images), AT_ONCE)]
        steps = sampling.upsampler_steps
        return torch.cat([self.upsampler.sample(images[part], noise[part], steps=steps) for part in parts])

    def first_components(self, z: Tensor, number: int) -> Tensor:
        """Embeddings (N, D) with only their first principal components left, at unit length again."""
        return normalize(self.pca.restore(self.pca.project(z, number)), dim=-1)

    def probe_dims(self) -> list[int]:
        """Numbers of components worth a look: doublings, up to 99.9% of the variance."""
        most = self.pca.kept(0.999)
        return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]

    def noise(self, keys: Sequence[int]) -> Tensor:
        """x_T for each seed, (N, 3, S, S)."""
        return noise_of((3, self.config.decoder_size, self.config.decoder_size), keys, self.device)


def draw_keys(prompts: Sequence[str], indices: Sequence[int], seed: int) -> list[int]:
    """The seed of each picture: of its prompt and which of the prompt's pictures it is."""
    return [seed_of(seed, prompt, k) for prompt, k in zip(prompts, indices, strict=True)]


def noise_of(
    shape: Sequence[int], seeds: Sequence[int], device: torch.device, draw: Callable[..., Tensor] = torch.randn
) -> Tensor:
    """Noise of a shape for each seed, drawn on the CPU; (len(seeds), …)."""
    drawn = [draw(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn).to(device)


def to_uint8(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images in [−1, 1] as uint8, in the same shape."""
    pixels: npt.NDArray[np.uint8] = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    return pixels
