"""How good a creative run is: its pictures, judged by a network that has nothing in common with it, if one can be had.

    FOLDER/judge/model.safetensors   the judge, trained on the real images and their labels
    FOLDER/evaluation.json           all scores           FOLDER/report.html   scores and pictures on one page

Whatever is asked for are captions of images that were not trained on, and the same number of these images is what the
pictures are compared with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from clickherd import machine
from clickherd.checkpoint import write_text
from clickherd.creative import scores
from clickherd.creative.captions import encode_texts
from clickherd.creative.dataset import ImageSet
from clickherd.creative.judge import Judge, Labels, agreement
from clickherd.creative.judging import MEND, ClipFeatures, judge_of, learnable, whole
from clickherd.creative.latent import text_diff
from clickherd.creative.loop import seed_of, spread
from clickherd.creative.sampler import PriorName, to_uint8
from clickherd.creative.sources import HELD_OUT, TRAIN, VALID
from clickherd.creative.stages import Workshop, check_trained, in_parts, is_trained
from clickherd.creative.studio import Studio, load
from clickherd.errors import DataError

THETAS = (0.25, 0.35, 0.5)
EDITED = 48  # pictures that are edited and probed
MOST_DECIBELS = 99.0
PROMPTS, SAMPLES = 16, 8  # for diversity
FEW = 64  # pictures: of fewer, a share is known to an eighth at best

Rows = np.ndarray


def evaluate(
    folder: str | Path,
    *,
    number: int = 256,
    seed: int = 0,
    sample: Mapping[str, Any] | None = None,
    threads: int | None = None,
    device: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Score a run and write its page; returns what evaluation.json holds.

    Args:
        folder: a run; of the priors those that are trained are compared.
        number: pictures for each score, as many as there are validation images at most.
        seed: of the samples; the judge is the run's own.
        sample: settings of `SampleConfig` to draw with, in place of the run's.
        threads: of the CPU, all by default.
        device: cpu or cuda; that of the run by default.
        announce: told what is under way.

    Raises:
        RunError: CLIP, decoder or upsampler are not trained yet.
        DataError: fewer than two validation images.
    """
    from clickherd.creative.page import write_page

    studio = load(folder, sample=sample, device=device, threads=threads)
    for stage in ("clip", "decoder", *(["upsampler"] if studio.config.upsampler.on else [])):
        check_trained(studio.folder, stage)  # before a judge is trained
    evaluation = Evaluation(studio, number, seed, announce)
    result = evaluation.scores()
    write_text(studio.folder / "evaluation.json", json.dumps(result, indent=1, allow_nan=False))
    write_page(studio, evaluation, result)
    return result


@dataclass
class Evaluation:
    """The measurements, one method each."""

    studio: Studio
    number: int
    seed: int
    announce: Callable[[str], None]

    def scores(self) -> dict[str, Any]:
        """All of them."""
        if len(self.real) < 2:
            raise DataError(
                f"{len(self.real)} validation images: scores need at least two",
                mend="Train with --set data.valid_fraction=0.1 or with --valid FILE.",
            )
        if len(self.real) < FEW:
            self.announce(
                f"{len(self.real)} pictures: scores of fewer than {FEW} are mostly chance (--number, --valid)"
            )
        features = "CLIP" if self.judge is None else "judge"
        if self.unread:
            self.announce(f"not judged: {'; '.join(self.unread)} ({MEND})")
        self.announce("retrieval by CLIP")
        result: dict[str, Any] = {
            "run": str(self.studio.folder),
            "machine": machine.describe(),
            "pictures": len(self.real),
            "features": features,
            "unread": self.unread,
            "clip": self.retrieval(),
            "real": {name: self._agreement(self.pixels(rows), rows) for name, rows in self.judged.items()},
        }
        result["priors"] = {name: self.prior(name) for name in self.priors}
        self.announce("pictures of the images' own embeddings")
        result["priors"]["image"] = self._compared(self.of_own_embeddings())
        self.announce("diversity, and copies of training images")
        result["diversity"] = self.diversity()
        result["memorised"] = self.memorised()
        self.announce("inversion, text diffs and probes")
        result["inversion_psnr"] = self.inversion()
        result["edits"] = self.edits()
        result["probe"] = self.probe()
        if self.studio.upsampler is not None:
            result["upsampler_psnr"] = self.upsampling()
        return result

    # ------------------------------------------------------------------ what is compared with what

    @cached_property
    def images(self) -> ImageSet:
        """The image set of the run."""
        return ImageSet.load(self.studio.folder / "data")

    @cached_property
    def workshop(self) -> Workshop:
        """The image set as the stages saw it."""
        return Workshop(self.studio.config, self.images, self.studio.device)

    @cached_property
    def _learnable(self) -> tuple[Labels, list[str]]:
        return learnable(self.images)

    @property
    def labels(self) -> Labels:
        """What the judge reads; nothing where there is no judge."""
        return self._learnable[0]

    @property
    def unread(self) -> list[str]:
        """What no judge could learn, in words."""
        return self._learnable[1]

    def _whole(self, rows: Rows) -> Rows:
        return whole(self.labels, rows)

    def _some(self, rows: Rows) -> Rows:
        return np.random.default_rng(self.seed).permutation(rows)[: self.number]

    @cached_property
    def real(self) -> Rows:
        """Validation images; their captions are what pictures are asked of."""
        return self._some(self._whole(self.images.rows(VALID)))

    @cached_property
    def held_out(self) -> Rows:
        """Images of combinations that were never trained on: of every second one, the judge learns from the others."""
        return self._some(self._whole(self.images.rows(HELD_OUT))[::2])

    def pixels(self, rows: Rows) -> np.ndarray:
        """Real images at the decoder's size, uint8 (n, 3, S, S)."""
        return np.concatenate([to_uint8(self.workshop.pixels(part)) for part in in_parts(rows)])

    def captions(self, rows: Rows) -> list[str]:
        """Their captions."""
        return [self.images.captions[row] for row in rows]

    @cached_property
    def judge(self) -> Judge | None:
        """Trained once and kept in the run; None if there is nothing that it could learn."""
        return judge_of(self.studio, self.images, self.labels, self.pixels, self.announce)

    def features(self, images_u8: np.ndarray) -> np.ndarray:
        """The judge's features of uint8 images (N, 3, S, S), or CLIP's where there is no judge."""
        return (self.judge or ClipFeatures(self.studio.clip)).features(images_u8)

    @property
    def priors(self) -> list[PriorName]:
        """Those that the run has, and none."""
        stages: list[tuple[PriorName, str]] = [("diffusion", "prior"), ("ar", "ar_prior")]
        return [*(name for name, stage in stages if is_trained(self.studio.folder, stage)), "none"]

    # ------------------------------------------------------------------ the measurements

    def retrieval(self) -> dict[str, float]:
        """Recall of CLIP among the validation images."""
        rows = spread(self.images.rows(VALID), 1000)
        image_ND, texts = self.workshop.embedded(self.studio.clip)
        return scores.retrieval(
            image_ND[rows].cpu().numpy(), texts.texts(rows).embedding.cpu().numpy(), texts.of_row[rows].numpy()
        )

    def prior(self, name: PriorName) -> dict[str, Any]:
        """Scores of the pictures that a prior leads to, and the seconds that one of its embeddings takes.

        The decoder sees the embedding alone, so that the prior is what is compared; and once, under "caption", the
        caption's words as well, as when pictures are generated.
        """
        self.announce(f"{len(self.real)} pictures, prior: {name}")
        result = self._compared(self._drawn(self.captions(self.real), name, caption=False))
        result["cosine"], result["seconds_per_embedding"] = self._embeddings(name)
        result["caption"] = self._compared(self.samples[name])
        if "held_out" in self.judged:
            for of, caption in ((result, False), (result["caption"], True)):
                made = self._drawn(self.captions(self.held_out), name, caption=caption)
                of["held_out"] = self._agreement(made, self.held_out)
        return result

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """A picture for each validation caption, by prior."""
        return {name: self._drawn(self.captions(self.real), name) for name in self.priors}

    def _drawn(
        self, captions: Sequence[str], prior: PriorName, indices: Sequence[int] | None = None, *, caption: bool = True
    ) -> np.ndarray:
        places = indices if indices is not None else range(len(captions))
        sampling = self.studio.sampling({"caption": caption})
        return to_uint8(self.studio.draw(captions, list(places), sampling, seed=self.seed, prior=prior))

    def of_own_embeddings(self) -> np.ndarray:
        """A picture from each validation image's own embedding: the best that a prior could give."""
        z = self.workshop.embedded(self.studio.clip)[0][self.real]
        keys = [seed_of(self.seed, "own", int(row)) for row in self.real]
        noise = self.studio.noise(keys)
        return to_uint8(self.studio.decoded(z, noise, self.studio.config.sample))

    def _embeddings(self, prior: PriorName) -> tuple[float, float]:
        """Mean cosine between the prior's embeddings and those of the images, and seconds per embedding."""
        rows = self.real[:64]
        texts = encode_texts(self.studio.clip, self.captions(rows))
        keys = [seed_of(self.seed, "timed", k) for k in range(len(rows))]
        began = time.perf_counter()
        z = self.studio.embed(texts, keys, prior, self.studio.config.sample).cpu()  # waits for the device
        seconds = (time.perf_counter() - began) / len(rows)
        own = self.workshop.embedded(self.studio.clip)[0][rows].cpu()
        return float((z * own).sum(-1).mean()), seconds

    def _compared(self, made: np.ndarray) -> dict[str, Any]:
        real, features = self.features(self.pixels(self.real)), self.features(made)
        kid, spread = scores.kid(real, features, seed=self.seed)
        found: dict[str, Any] = {"fid": scores.fid(real, features), "kid": kid, "kid_std": spread}
        return found if self.judge is None else {**found, "seen": self._agreement(made, self.real)}

    @property
    def judged(self) -> dict[str, Rows]:
        """Real images whose captions' pictures a judge can read; none without a judge."""
        named = {"seen": self.real, "held_out": self.held_out}
        return {} if self.judge is None else {name: rows for name, rows in named.items() if len(rows)}

    def _agreement(self, images: np.ndarray, rows: Rows) -> dict[str, float]:
        assert self.judge is not None
        return agreement(self.judge.predict(images), {name: codes[rows] for name, codes in self.labels.items()})

    def diversity(self) -> dict[str, float]:
        """How much pictures of one prompt differ, beside how much real images of one caption do."""
        centre = self.features(self.pixels(self.real)).mean(axis=0)
        captions = list(dict.fromkeys(self.captions(self.real)))[:PROMPTS]
        repeated = [caption for caption in captions for _ in range(SAMPLES)]
        made = self._drawn(repeated, self.priors[0], [k for _ in captions for k in range(SAMPLES)])
        found = {"made": scores.diversity(self.features(made) - centre, np.repeat(range(len(captions)), SAMPLES))}
        rows, groups = self._of_captions(captions)
        if np.bincount(groups).max(initial=0) > 1:
            found["real"] = scores.diversity(self.features(self.pixels(rows)) - centre, groups)
        return found

    def _of_captions(self, captions: Sequence[str]) -> tuple[Rows, np.ndarray]:
        """Training images of these captions, at most `SAMPLES` each, and which caption each has."""
        all_captions = np.asarray(self.images.captions, dtype=object)
        train = self.images.rows(TRAIN)
        groups = [train[all_captions[train] == caption][:SAMPLES] for caption in captions]
        return np.concatenate(groups), np.repeat(range(len(captions)), [len(rows) for rows in groups])

    @cached_property
    def train_features(self) -> np.ndarray:
        """Features of all training images."""
        parts = in_parts(self.images.rows(TRAIN))
        return np.concatenate([self.features(self.pixels(part)) for part in parts])

    def memorised(self) -> dict[str, float]:
        """Whether the pictures copy training images."""
        made, held_back = (self.features(images) for images in (self.samples[self.priors[0]], self.pixels(self.real)))
        try:
            return scores.memorised(made, self.train_features, held_back)
        except ValueError as error:
            raise DataError(
                f"copies of training images cannot be told: {error}",
                mend="Train with other validation images, --valid.",
            ) from None

    @cached_property
    def inverted(self) -> tuple[Rows, Tensor, Tensor, Tensor]:
        """Some validation images: rows, pixels in [−1, 1], embeddings, and the noise that leads to them."""
        rows = self.real[:EDITED]
        image, z = self.workshop.pixels(rows), self.workshop.embedded(self.studio.clip)[0][rows]
        return rows, image, z, self.studio.inverted(image, z, self.studio.config.sample)

    def inversion(self) -> dict[str, float]:
        """PSNR of images that are inverted and decoded again, and from random noise instead of that found, in dB."""
        _, image, z, x_T = self.inverted
        sampling = self.studio.config.sample
        random = self.studio.noise([seed_of(self.seed, "random", k) for k in range(len(z))])
        found: dict[str, float] = {"pictures": len(z)}
        for name, start in (("inverted", x_T), ("random", random)):
            made = self.studio.decoded_back(z, start, sampling)
            reached = decibels(image, made)
            found[name], found[f"{name}_worst"] = float(reached.mean()), float(reached.min())
        return found

    def upsampling(self) -> dict[str, float]:
        """PSNR of small real images made large, by the upsampler and by bicubic interpolation, in dB."""
        rows, small, _, _ = self.inverted
        large = self.workshop.pixels(rows, full=True)
        keys = [seed_of(self.seed, "upsampled", k) for k in range(len(rows))]
        made = {
            "upsampler": self.studio.enlarged(small, keys, self.studio.config.sample),
            "bicubic": interpolate(small, size=large.shape[-2:], mode="bicubic").clamp(-1, 1),
        }
        return {name: float(decibels(large, images).mean()) for name, images in made.items()}

    def edits(self) -> dict[str, Any]:
        """Text diffs: for each label, pictures are asked to change that label alone, at several θ.

        `changed` is the share whose label the judge then reads as asked, `kept` the share whose other labels it reads
        as they were.
        """
        rows, _, z, x_T = self.inverted
        sampling = self.studio.config.sample
        found: dict[str, dict[str, Any]] = {}
        if self.judge is None:
            return found
        for label, values in self.labels.items():
            pairs = [(k, other) for k, row in enumerate(rows) if (other := self._other(row, label)) is not None]
            if len(self.labels) < 2 or not pairs:
                continue
            places = [k for k, _ in pairs]
            target = np.array([values[other] for _, other in pairs])
            before = encode_texts(self.studio.clip, self.captions(rows[places])).embedding
            after = encode_texts(self.studio.clip, self.captions(np.array([other for _, other in pairs]))).embedding
            found[label] = {}
            for theta in THETAS:
                turned = text_diff(z[places], before, after, theta)
                made = self.studio.decoded_back(turned, x_T[places], sampling)
                judged = self.judge.predict(to_uint8(made))
                kept = {n: float((judged[n] == self.labels[n][rows[places]]).mean()) for n in judged if n != label}
                changed = float((judged[label] == target).mean())
                found[label][str(theta)] = {"changed": changed, "kept": kept, "pictures": len(places)}
        return found

    def examples(self, number: int = 8) -> list[tuple[int, str, str]]:
        """Edits to show: place of the image in `real`, its caption, and one with another value of one label."""
        found, labels = [], list(self.labels)
        for place in range(min(number, len(self.real)) if labels else 0):
            other = self._other(self.real[place], labels[place % len(labels)])
            if other is not None:
                found.append((place, self.images.captions[self.real[place]], self.images.captions[other]))
        return found

    def _other(self, row: int, label: str) -> int | None:
        """A training image whose labels are the row's but for one; None where there is none."""
        train = self._whole(self.images.rows(TRAIN))
        alike = np.all([codes[train] == codes[row] for name, codes in self.labels.items() if name != label], axis=0)
        fitting = train[alike & (self.labels[label][train] != self.labels[label][row])]
        if not len(fitting):
            return None
        return int(np.random.default_rng([self.seed, int(row)]).choice(fitting))

    def probe(self) -> dict[str, Any]:
        """What the judge still reads of pictures whose embedding has only its first principal components left."""
        rows, _, z, _ = self.inverted
        keys = [seed_of(self.seed, "probe", k) for k in range(len(z))]
        start = self.studio.noise(keys)
        dims = self.studio.probe_dims()
        by_dims: dict[str, Any] = {}
        for number in dims if self.judge is not None else ():
            made = self.studio.decoded(self.studio.first_components(z, number), start, self.studio.config.sample)
            by_dims[str(number)] = self._agreement(to_uint8(made), rows)
        held = self.studio.pca.variance.double()
        shares = {str(number): float(held[:number].sum() / held.sum()) for number in dims}
        return {"agreement": by_dims, "variance": shares}


def decibels(a: Tensor, b: Tensor) -> np.ndarray:
    """PSNR of each of the images in [−1, 1], at most 99 dB: of equal ones it would be infinite."""
    return np.minimum(scores.psnr(a.cpu().numpy(), b.cpu().numpy(), 2), MOST_DECIBELS)
