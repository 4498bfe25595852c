"""The trained stages of a run put to use, step by step: text → z_i → image, and image → x_T.

Shapes: N pictures, S their side, D dimensions of the embedding.
"""

from __future__ import annotations

import math
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
from clickherd.workers import Workers

PriorName = Literal["diffusion", "ar", "none"]
AT_ONCE = {"cpu": 32, "cuda": 64}  # pictures at most that go through a network together


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
        texts = encode_texts(self.clip, distinct)[torch.tensor([distinct.index(prompt) for prompt in prompts])]
        keys = draw_keys(prompts, indices, seed)
        z = self.embed(texts, keys, prior, sampling)
        return self.decoded(z, self.noise(keys), sampling, texts=texts if sampling.caption else None)

    def embed(self, texts: Texts, keys: Sequence[int], prior: PriorName, sampling: SampleConfig) -> Tensor:
        """Image embeddings (N, D) for the texts; `keys` are the seeds of each row's noise.

        Raises:
            ConfigError: no such prior.
        """
        if prior not in get_args(PriorName):
            raise ConfigError(f"unknown prior {prior!r}", mend=did_you_mean(prior, get_args(PriorName)))
        if prior == "none":
            return texts.embedding
        network = self.prior if prior == "diffusion" else self.ar_prior

        def candidate(texts: Texts, seeds: Sequence[int]) -> Tensor:
            guidance = sampling.prior_guidance
            if isinstance(network, DiffusionPrior):
                noise = noise_of((self.clip.embedding_dim,), seeds, self.device)
                return network.sample(texts, noise, steps=sampling.prior_steps, guidance=guidance)
            uniform = noise_of((1 + network.num_components,), seeds, self.device, torch.rand)
            return network.sample(texts, uniform, guidance=guidance)

        def embedded(part: slice) -> Tensor:
            some = texts[torch.arange(len(texts))[part]]
            drawn = [
                candidate(some, [seed_of(key, "prior", k) for key in keys[part]]) for k in range(sampling.candidates)
            ]
            return latent.pick(torch.stack(drawn), some.embedding)

        return self._in_parts(embedded, len(keys))

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
        decoder = self.decoder

        def made(part: slice) -> Tensor:
            some = None if texts is None else texts[torch.arange(len(z))[part]]
            x_0 = diffusion.sample(
                decoder.network(z[part], some, guidance),
                x_T[part],
                target="v_prediction",
                steps=steps or sampling.decoder_steps,
                eta=eta,
                noise=None if noise is None else noise[:, part],
            )
            return decoder.restored(x_0)

        return self._in_parts(made, len(z))

    def decoded_back(self, z: Tensor, x_T: Tensor, sampling: SampleConfig, **of_noise: Any) -> Tensor:
        """Pictures from noise that `inverted` found: with its steps, and like it without caption and guidance."""
        return self.decoded(z, x_T, sampling, sampling.invert_steps, guidance=1.0, **of_noise)

    def inverted(self, images: Tensor, z: Tensor, sampling: SampleConfig) -> Tensor:
        """The noise that the decoder makes these images (N, 3, S, S) from, given their embeddings; without guidance."""
        decoder, steps = self.decoder, sampling.invert_steps
        x_0 = decoder.standardised(images)
        return self._in_parts(
            lambda part: diffusion.invert(decoder.network(z[part], None), x_0[part], steps=steps), len(z)
        )

    def enlarged(self, images: Tensor, keys: Sequence[int], sampling: SampleConfig) -> Tensor:
        """The decoder's pictures through the upsampler; as they are in a run without one."""
        upsampler, size, steps = self.upsampler, self.config.data.size, sampling.upsampler_steps
        if upsampler is None:
            return images
        noise = noise_of((3, size, size), [seed_of(key, "upsampler") for key in keys], self.device)
        return self._in_parts(lambda part: upsampler.sample(images[part], noise[part], steps=steps), len(images))

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

    def _in_parts(self, work: Callable[[slice], Tensor], number: int) -> Tensor:
        """`work` on so many pictures, some at a time.

        On a CPU several parts are shared out among as many threads, which each take the next one; how pictures are
        parted does not depend on the number of threads, so that it does not change them.
        """
        assert number
        count = math.ceil(number / AT_ONCE[self.device.type])
        parts = [slice(number * i // count, number * (i + 1) // count) for i in range(count)]  # even, however many
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        with Workers(min(threads, len(parts))) as workers:
            return torch.cat(list(workers.map(work, parts)))


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
