"""A trained creative run at work: pictures from words, variations, blends, text diffs, probes, inversions.

    studio = clickherd.creative.load("runs/creative")
    studio.generate("a red mug on the left, white background").save("mug")

All of it is section 3 of Ramesh et al. 2022. A picture is made of two things: its CLIP embedding z_i, which says what
it shows, and the noise x_T that the decoder begins with, which holds the rest; `invert` finds the x_T of a picture.

Shapes: S side of a picture, D dimensions of the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clickherd.creative import latent
from clickherd.creative.captions import encode_texts
from clickherd.creative.config import SampleConfig, creative_config
from clickherd.creative.dataset import ImageSet
from clickherd.creative.images import open_image, to_png
from clickherd.creative.loop import seed_of
from clickherd.creative.pictures import Pictures
from clickherd.creative.sampler import PriorName, Sampler, draw_keys, noise_of, to_uint8
from clickherd.creative.scores import psnr
from clickherd.creative.train import check_machine, load_config
from clickherd.errors import ConfigError
from clickherd.runtime import use_threads
from clickherd.settings import validated

Picture = str | Path | np.ndarray  # a file, or uint8 (3, S, S)


def load(
    folder: str | Path,
    *,
    sample: Mapping[str, Any] | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Studio:
    """The studio of a run folder, with other `sample` settings than the run's if they are given.

    Raises:
        RunError: it is no run folder of this kind.
        ConfigError: no such device or setting.
    """
    config = load_config(Path(folder))
    over = validated(SampleConfig, {**config.sample.model_dump(), **(sample or {})}, within="sample")
    here = {"device": device or config.device, "precision": "fp32", "sample": over.model_dump()}
    config = creative_config({**config.model_dump(), **here})
    check_machine(config)
    use_threads(threads or config.threads)
    return Studio(Path(folder), config, torch.device(config.device))


class Studio(Sampler):
    """See the head of this file.

    Whatever is random depends on the seed, on which picture it is and, in `generate`, on the prompt: the same call
    gives the same pictures. `**settings` are those of `SampleConfig`, such as decoder_steps=100.
    """

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
            seed: the same prompt and seed give the same pictures, whatever else is made beside them.
            prior: where z_i comes from: "diffusion", "ar", or "none" (the text's own embedding in its place).
            **settings: of `SampleConfig`.

        Raises:
            DataError: a prompt is empty, or longer than the run's context.
            ConfigError: an unknown setting or prior.
            RunError: a stage that is needed is not trained.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        at_least_one(prompts=len(asked), number=number)
        sampling = self.sampling(settings)
        repeated, indices = [prompt for prompt in asked for _ in range(number)], [*range(number)] * len(asked)
        images = self.draw(repeated, indices, sampling, seed=seed, prior=prior)
        large = self.enlarged(images, draw_keys(repeated, indices, seed), sampling)
        return Pictures.of(to_uint8(large), asked, [f"{k + 1}" for k in range(number)])

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

        Raises:
            DataError: the picture cannot be read, or is too small.
        """
        at_least_one(number=number, etas=len(etas))
        if min(etas) < 0 or max(etas) > 1:
            raise ConfigError(f"etas = {list(etas)}: from 0 to 1 each")
        sampling = self.sampling(settings)
        image, z = self._seen(picture)
        x_T = self.inverted(image, z, sampling).expand(number, -1, -1, -1)
        steps = sampling.invert_steps
        keys = [seed_of(seed, "vary", k) for k in range(number)]
        noise = noise_of((steps, *image.shape[1:]), keys, self.device).transpose(0, 1)
        made = [self.decoded_back(z.expand(number, -1), x_T, sampling, eta=eta, noise=noise) for eta in etas]
        titles = [f"η = {eta:g}" for eta in etas]
        return self._pictures(torch.cat(made), titles, [f"{k + 1}" for k in range(number)], seed, sampling)

    def blend(self, first: Picture, second: Picture, number: int = 7, *, seed: int = 0, **settings: Any) -> Pictures:
        """From one picture to another (section 3.2): z_i is slerped; x_T is slerped in one row and fixed in the other.

        With x_T slerped between the pictures' own, the ends are the two pictures themselves.

        Raises:
            DataError: a picture cannot be read, or is too small.
        """
        at_least_one(number=number)
        sampling = self.sampling(settings)
        (image_a, z_a), (image_b, z_b) = self._seen(first), self._seen(second)
        x_a, x_b = self.inverted(image_a, z_a, sampling), self.inverted(image_b, z_b, sampling)
        shares = [i / max(number - 1, 1) for i in range(number)]
        z = torch.cat([latent.slerp(z_a, z_b, t) for t in shares])
        flat_a, flat_b = x_a.flatten(1), x_b.flatten(1)
        moving = torch.cat([latent.slerp(flat_a, flat_b, t).reshape(x_a.shape) for t in shares])
        fixed = self.noise([seed_of(seed, "blend")]).expand_as(moving)
        images = torch.cat([self.decoded_back(z, x_T, sampling) for x_T in (moving, fixed)])
        return self._pictures(images, ["x_T slerped", "x_T fixed"], [f"{t:.2f}" for t in shares], seed, sampling)

    def edit(
        self,
        picture: Picture,
        from_: str,
        to: str,
        *,
        thetas: Sequence[float] = (0.0, 0.125, 0.25, 0.375, 0.5),
        seed: int = 0,
        **settings: Any,
    ) -> Pictures:
        """A picture turned by words (section 3.3, text diffs): one picture per θ, all with the picture's own x_T.

        z_d = normalise(z_to − z_from), z_θ = slerp(z_i, z_d, θ). θ = 0 gives the picture back. The seed is for the
        upsampler alone.

        Raises:
            DataError: the picture cannot be read; a description is empty or too long.
            ConfigError: the two descriptions are embedded alike.
        """
        at_least_one(thetas=len(thetas))
        sampling = self.sampling(settings)
        image, z = self._seen(picture)
        texts = encode_texts(self.clip, [from_, to]).embedding
        try:
            turned = torch.cat([latent.text_diff(z, texts[:1], texts[1:], theta) for theta in thetas])
        except ValueError as error:
            raise ConfigError(f"{from_!r} → {to!r}: {error}", mend="Say them more differently.") from None
        x_T = self.inverted(image, z, sampling).expand(len(turned), -1, -1, -1)
        images = self.decoded_back(turned, x_T, sampling)
        return self._pictures(images, [f"{from_} → {to}"], [f"θ = {theta:g}" for theta in thetas], seed, sampling)

    def probe(self, picture: Picture, dims: Sequence[int] | None = None, *, seed: int = 0, **settings: Any) -> Pictures:
        """What CLIP holds of a picture, coarse before fine (section 4): z_i from its first principal components only.

        Two rows, each of the same noise for all numbers of components.

        Raises:
            DataError: the picture cannot be read, or is too small.
            ConfigError: a number of components that there are not.
        """
        sampling = self.sampling(settings)
        kept = list(dims or self.probe_dims())
        if min(kept) < 1 or max(kept) > len(self.pca.variance):
            raise ConfigError(f"dims = {kept}: from 1 to the {len(self.pca.variance)} components of this run")
        _, z = self._seen(picture)
        restored = torch.cat([self.first_components(z, number) for number in kept])
        starts = self.noise([seed_of(seed, "probe", k) for k in range(2)])
        images = [self.decoded(restored, x_T.expand(len(kept), -1, -1, -1), sampling) for x_T in starts]
        rows, columns = ["noise 1", "noise 2"], [f"{k} components" for k in kept]
        return self._pictures(torch.cat(images), rows, columns, seed, sampling)

    def invert(self, picture: Picture, **settings: Any) -> tuple[Pictures, Tensor, float]:
        """The picture and what the decoder makes of its x_T; that x_T (1, 3, S, S); the PSNR of the two in dB.

        Raises:
            DataError: the picture cannot be read, or is too small.
        """
        sampling = self.sampling(settings)
        image, z = self._seen(picture)
        x_T = self.inverted(image, z, sampling)
        made = self.decoded_back(z, x_T, sampling)
        decibels = float(psnr(image.cpu().numpy(), made.cpu().numpy(), 2)[0])
        return (
            Pictures.of(to_uint8(torch.cat([image, made])), [""], ["picture", f"{decibels:.1f} dB"]),
            x_T.cpu(),
            decibels,
        )

    def unseen_words(self, prompts: Sequence[str]) -> list[str]:
        """Words of the prompts that no training caption has; none where the CLIP was trained elsewhere."""
        if self.config.clip.path is not None:
            return []
        known = set(words(ImageSet.load(self.folder / "data").captions))
        return [word for word in words(prompts) if word not in known]

    def _seen(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """A picture at the decoder's size, (1, 3, S, S) in [−1, 1], and its embedding (1, D)."""
        data, size = self.config.data, self.config.decoder_size
        given, name = (to_png(picture), "the picture") if isinstance(picture, np.ndarray) else (picture, str(picture))
        pixels = open_image(given, size, name=name, background=data.background_rgb, fit=data.fit)
        image = torch.from_numpy(pixels)[None].to(self.device).float() / 127.5 - 1
        with torch.no_grad():
            return image, self.clip.encode_image(image)

    def _pictures(
        self, images: Tensor, rows: Sequence[str], columns: Sequence[str], seed: int, sampling: Any
    ) -> Pictures:
        keys = [seed_of(seed, "enlarge", k) for k in range(len(images))]
        return Pictures.of(to_uint8(self.enlarged(images, keys, sampling)), rows, columns)


def at_least_one(**numbers: int) -> None:
    """See that each is at least one.

    Raises:
        ConfigError: one is not.
    """
    for name, number in numbers.items():
        if number < 1:
            raise ConfigError(f"{name}: at least one is needed")


def words(captions: Sequence[str]) -> list[str]:
    """The distinct words of captions in lower case, in order."""
    return list(dict.fromkeys(word for caption in captions for word in re.findall(r"\w+", caption.lower())))
