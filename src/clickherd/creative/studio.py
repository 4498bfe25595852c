"""A trained creative run at work: pictures from words, variations, blends, text diffs, probes, inversions.

    studio = clickherd.creative.load("runs/creative")
    studio.generate("a red mug on the left, white background").save("mug")

All of it is section 3 of Ramesh et al. 2022. A picture is made of two things: its CLIP embedding z_i, which says what
it shows, and the noise x_T that the decoder begins with, which holds the rest; `invert` finds the x_T of a picture.

Shapes: N pictures, S their side, D dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clickherd.creative import diffusion, latent, stages
from clickherd.creative.ar_prior import ARPrior
from clickherd.creative.captions import encode_texts
from clickherd.creative.clip import Clip, Texts, check_fits
from clickherd.creative.config import CreativeConfig, SampleConfig
from clickherd.creative.decoder import Decoder
from clickherd.creative.images import open_image
from clickherd.creative.latent import PCA
from clickherd.creative.loop import seed_of
from clickherd.creative.pictures import Pictures
from clickherd.creative.prior import DiffusionPrior
from clickherd.creative.train import load_config
from clickherd.creative.upsampler import Upsampler, shrink
from clickherd.errors import ConfigError
from clickherd.runtime import check_device, use_threads
from clickherd.settings import validated

PriorName = Literal["diffusion", "ar", "none"]
AT_ONCE = 64

Picture = str | Path | np.ndarray  # a file, or uint8 (3, S, S)


def load(folder: str | Path, *, device: str | None = None, threads: int | None = None) -> Studio:
    """The studio of a run folder; stages load when they are used.

    Raises:
        RunError: it is no run folder of this kind.
    """
    config = load_config(Path(folder))
    chosen = device or config.device
    check_device(chosen)
    use_threads(threads or config.threads)
    return Studio(Path(folder), config, torch.device(chosen))


@dataclass
class Studio:
    """See the head of this file. Whatever is random depends on the seed and the prompt alone."""

    folder: Path
    config: CreativeConfig
    device: torch.device
    defaults: SampleConfig = field(init=False)

    def __post_init__(self) -> None:
        self.defaults = self.config.sample

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
        decoder = stages.load_decoder(self.folder, self.config, self.clip).to(self.device)
        check_fits(self.clip, len(decoder.mean), self.folder / "clip")
        return decoder

    @cached_property
    def upsampler(self) -> Upsampler | None:
        """The upsampler, if the run has one."""
        if not self.config.upsampler.on:
            return None
        return stages.load_upsampler(self.folder, self.config).to(self.device)

    @cached_property
    def pca(self) -> PCA:
        """Principal components of the training images' embeddings."""
        return PCA.fit(self.trained_on())

    def trained_on(self) -> Tensor:
        """Embeddings of the training images."""
        from clickherd.creative.dataset import ImageSet
        from clickherd.creative.stages import Workshop

        workshop = Workshop(self.config, ImageSet.load(self.folder / "data"), self.device)
        return workshop.embedded(self.clip)[0][workshop.train_rows]

    # ------------------------------------------------------------------ what a user asks for

    def generate(
        self,
        prompts: str | Sequence[str],
        number: int = 4,
        *,
        seed: int = 0,
        prior: PriorName = "diffusion",
        **settings: Any,
    ) -> Pictures:
        """`number` pictures of each prompt, a row per prompt.

        Args:
            prompts: what the pictures are to show.
            number: pictures of each.
            seed: of all noise; the same prompt and seed give the same pictures, whatever else is made beside them.
            prior: where z_i comes from: "diffusion", "ar", or "none" (the text's own embedding in its place).
            **settings: of `SampleConfig`, such as decoder_guidance=1.5.

        Raises:
            DataError: a prompt is empty, or longer than the run's context.
            ConfigError: an unknown setting or prior.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        repeated = [prompt for prompt in asked for _ in range(number)]
        indices = [k for _ in asked for k in range(number)]
        sampling = self._sampling(settings)
        images = self.draw(repeated, indices, sampling, seed=seed, prior=prior)
        return self._pictures(images, asked, [f"{k + 1}" for k in range(number)], seed, sampling)

    def vary(
        self,
        picture: Picture,
        number: int = 4,
        *,
        etas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        seed: int = 0,
        **settings: Any,
    ) -> Pictures:
        """Variations that keep what CLIP sees and let the rest change (section 3.1): a row per η.

        η = 0 gives the picture itself back, as far as the decoder can; a larger η puts more noise into each step.
        """
        sampling = self._sampling(settings)
        image, z = self._seen(picture)
        x_T = self._inverted(image, z, sampling)
        rows = []
        for eta in etas:
            steps = sampling.decoder_steps if eta else sampling.invert_steps
            noise = _noise((steps, 3, *image.shape[-2:]), [seed_of(seed, "vary", k) for k in range(number)])
            rows.append(
                self._decoded(
                    z.expand(number, -1),
                    x_T.expand(number, -1, -1, -1),
                    sampling,
                    steps,
                    eta=eta,
                    noise=noise.transpose(0, 1).to(self.device),
                )
            )
        titles = [f"η = {eta:g}" for eta in etas]
        return self._pictures(torch.cat(rows), titles, [f"{k + 1}" for k in range(number)], seed, sampling)

    def blend(self, first: Picture, second: Picture, number: int = 7, *, seed: int = 0, **settings: Any) -> Pictures:
        """From one picture to another (section 3.2): z_i is slerped; x_T is slerped in one row and fixed in the other.

        With x_T slerped between the pictures' own, the ends are the two pictures themselves.
        """
        sampling = self._sampling(settings)
        (image_a, z_a), (image_b, z_b) = self._seen(first), self._seen(second)
        x_a, x_b = (self._inverted(image, z, sampling) for image, z in ((image_a, z_a), (image_b, z_b)))
        shares = [i / max(number - 1, 1) for i in range(number)]
        z = torch.cat([latent.slerp(z_a, z_b, t) for t in shares])
        moving = torch.cat([latent.slerp(x_a.flatten(1), x_b.flatten(1), t).reshape(x_a.shape) for t in shares])
        fixed = _noise(x_a.shape[1:], [seed_of(seed, "blend")]).to(self.device).expand_as(moving)
        images = torch.cat([self._decoded(z, x, sampling, sampling.invert_steps) for x in (moving, fixed)])
        return self._pictures(images, ["x_T slerped", "x_T fixed"], [f"{t:.2f}" for t in shares], seed, sampling)

    def edit(
        self,
        picture: Picture,
        from_: str,
        to: str,
        *,
        thetas: Sequence[float] = (0.0, 0.125, 0.25, 0.375, 0.5),
        **settings: Any,
    ) -> Pictures:
        """A picture turned by words (section 3.3, text diffs): one picture per θ, x_T that of the picture.

        z_d = normalise(z_to − z_from), z_θ = slerp(z_i, z_d, θ). θ = 0 gives the picture back.

        Raises:
            DataError: a description is empty or too long.
            ConfigError: the two descriptions are embedded alike.
        """
        sampling = self._sampling(settings)
        image, z = self._seen(picture)
        images = self.edited(image, z, from_, to, thetas, sampling)
        return self._pictures(images, [f"{from_} → {to}"], [f"θ = {theta:g}" for theta in thetas], 0, sampling)

    def probe(self, picture: Picture, dims: Sequence[int] | None = None, *, seed: int = 0, **settings: Any) -> Pictures:
        """What CLIP holds of a picture, coarse before fine (section 4): z_i from its first principal components only.

        Two rows of noise, the same for all numbers of components.
        """
        sampling = self._sampling(settings)
        _, z = self._seen(picture)
        kept = list(dims or self.probe_dims())
        images = [
            self.probed(z, kept, _noise(self._shape, [seed_of(seed, "probe", k)]).to(self.device), sampling)
            for k in range(2)
        ]
        return self._pictures(torch.cat(images), ["noise 1", "noise 2"], [f"{k}" for k in kept], seed, sampling)

    def invert(self, picture: Picture, **settings: Any) -> tuple[Pictures, Tensor, float]:
        """The noise x_T (1, 3, S, S) that the decoder makes this picture from; the picture made; its PSNR in dB."""
        from clickherd.creative.scores import psnr

        sampling = self._sampling(settings)
        image, z = self._seen(picture)
        x_T = self._inverted(image, z, sampling)
        made = self._decoded(z, x_T, sampling, sampling.invert_steps)
        both = torch.cat([image, made])
        decibels = float(psnr(to_uint8(image), to_uint8(made), 255)[0])
        return Pictures.of(to_uint8(both), [""], ["picture", f"{decibels:.1f} dB"]), x_T.cpu(), decibels

    # ------------------------------------------------------------------ the parts, also for evaluation

    def draw(
        self,
        prompts: Sequence[str],
        indices: Sequence[int],
        sampling: SampleConfig,
        *,
        seed: int,
        prior: PriorName,
    ) -> Tensor:
        """One picture for each prompt, the `indices`-th of its own; (N, 3, S, S) in [−1, 1]."""
        parts = []
        for i in range(0, len(prompts), AT_ONCE):
            some, places = prompts[i : i + AT_ONCE], indices[i : i + AT_ONCE]
            texts = encode_texts(self.clip, some)
            keys = [seed_of(seed, prompt, k) for prompt, k in zip(some, places, strict=True)]
            z = self.embed(texts, keys, prior, sampling)
            parts.append(self._decoded(z, _noise(self._shape, keys).to(self.device), sampling, texts=texts))
        return torch.cat(parts)

    def embed(self, texts: Texts, keys: Sequence[int], prior: PriorName, sampling: SampleConfig) -> Tensor:
        """Image embeddings (N, D) for the texts by one of the priors; `keys` are the seeds of each row's noise."""
        if prior == "none":
            return texts.embedding
        if prior not in ("diffusion", "ar"):
            raise ConfigError(f"unknown prior {prior!r}", mend="Valid names: ar, diffusion, none.")
        drawn = []
        for candidate in range(sampling.candidates):
            seeds = [seed_of(key, "prior", candidate) for key in keys]
            if prior == "diffusion":
                noise = _noise((self.clip.embedding_dim,), seeds).to(self.device)
                drawn.append(
                    self.prior.sample(texts, noise, steps=sampling.prior_steps, guidance=sampling.prior_guidance)
                )
            else:
                length = 1 + len(self.ar_prior.get_buffer("components"))
                uniform = _noise((length,), seeds, torch.rand).to(self.device)
                drawn.append(self.ar_prior.sample(texts, uniform, guidance=sampling.prior_guidance))
        return latent.pick(torch.stack(drawn), texts.embedding)

    def edited(
        self, image: Tensor, z: Tensor, from_: str, to: str, thetas: Sequence[float], sampling: SampleConfig
    ) -> Tensor:
        """One picture per θ of a picture (1, 3, S, S) with embedding (1, D)."""
        texts = encode_texts(self.clip, [from_, to]).embedding
        try:
            turned = torch.cat([latent.text_diff(z, texts[:1], texts[1:], theta) for theta in thetas])
        except ValueError as error:
            raise ConfigError(f"{from_!r} → {to!r}: {error}", mend="Say them more differently.") from None
        x_T = self._inverted(image, z, sampling)
        return self._decoded(turned, x_T.expand(len(turned), -1, -1, -1), sampling, sampling.invert_steps)

    def probed(self, z: Tensor, dims: Sequence[int], x_T: Tensor, sampling: SampleConfig) -> Tensor:
        """One picture per number of components of the embedding (1, D)."""
        restored = torch.cat([self.pca.restore(self.pca.project(z, number)) for number in dims])
        unit = torch.nn.functional.normalize(restored, dim=-1)
        return self._decoded(unit, x_T.expand(len(unit), -1, -1, -1), sampling)

    def probe_dims(self) -> list[int]:
        """Numbers of components to look at: doublings, up to 99.9% of the variance."""
        most = self.pca.kept(0.999)
        dims = [2**i for i in range(most.bit_length()) if 2**i < most]
        return [*dims, most]

    @property
    def _shape(self) -> tuple[int, ...]:
        return (3, self.config.decoder_size, self.config.decoder_size)

    def _sampling(self, settings: dict[str, Any]) -> SampleConfig:
        return validated(SampleConfig, {**self.defaults.model_dump(), **settings}, within="sample")

    def _seen(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """A picture at the decoder's size, (1, 3, S, S) in [−1, 1], and its embedding (1, D)."""
        if not isinstance(picture, np.ndarray):
            picture = open_image(
                Path(picture),
                self.config.decoder_size,
                name=str(picture),
                background=self.config.data.background_rgb,
                fit=self.config.data.fit,
            )
        image = torch.from_numpy(np.array(picture))[None].to(self.device).float() / 127.5 - 1
        image = shrink(image, image.shape[-1] // self.config.decoder_size)
        with torch.no_grad():
            return image, self.clip.encode_image(image)

    def _inverted(self, image: Tensor, z: Tensor, sampling: SampleConfig) -> Tensor:
        return diffusion.invert(self.decoder.network(z, None), image, steps=sampling.invert_steps)

    def _decoded(
        self,
        z: Tensor,
        x_T: Tensor,
        sampling: SampleConfig,
        steps: int | None = None,
        *,
        texts: Texts | None = None,
        eta: float = 0.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The decoder's pictures of embeddings, some at a time; (N, 3, S, S) in [−1, 1]."""
        made = []
        for i in range(0, len(z), AT_ONCE):
            rows = slice(i, i + AT_ONCE)
            some = None if texts is None else texts[torch.arange(len(z))[rows]]
            guidance = sampling.decoder_guidance
            network = self.decoder.network(z[rows], some, guidance)
            x_0 = diffusion.sample(
                network,
                x_T[rows],
                target="v_prediction",
                steps=steps or sampling.decoder_steps,
                eta=eta,
                noise=None if noise is None else noise[:, rows],
            ).clamp(-1, 1)
            made.append(x_0)
        return torch.cat(made)

    def _pictures(
        self, images: Tensor, rows: Sequence[str], columns: Sequence[str], seed: int, sampling: SampleConfig
    ) -> Pictures:
        return Pictures.of(to_uint8(self.enlarged(images, seed, sampling)), rows, columns)

    def enlarged(self, images: Tensor, seed: int, sampling: SampleConfig) -> Tensor:
        """The decoder's pictures through the upsampler; as they are in a run without one."""
        if self.upsampler is None:
            return images
        keys = [seed_of(seed, "upsampler", k) for k in range(len(images))]
        noise = _noise((3, self.config.data.size, self.config.data.size), keys).to(self.device)
        return torch.cat(
            [
                self.upsampler.sample(images[i : i + AT_ONCE], noise[i : i + AT_ONCE], steps=sampling.upsampler_steps)
                for i in range(0, len(images), AT_ONCE)
            ]
        )


def to_uint8(images: Tensor) -> np.ndarray:
    """Images in [−1, 1] as uint8, in the same shape."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def _noise(shape: Sequence[int], seeds: Sequence[int], draw: Callable[..., Tensor] = torch.randn) -> Tensor:
    """Noise of a shape for each seed, alike on every device; (len(seeds), …)."""
    return torch.stack([draw(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
