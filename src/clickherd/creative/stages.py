"""The stages of a creative run: what each trains and on what, how it is saved, and how it is loaded again.

clip → prior, ar_prior, decoder;   upsampler        each a folder of its name in the run folder
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from clickherd import checkpoint
from clickherd.creative.ar_prior import ARPrior
from clickherd.creative.captions import CaptionTable
from clickherd.creative.clip import Clip, load_clip, new_clip
from clickherd.creative.config import CreativeConfig
from clickherd.creative.dataset import ImageSet
from clickherd.creative.decoder import Decoder
from clickherd.creative.latent import PCA
from clickherd.creative.loop import PARTS, Loss, Stage, spread
from clickherd.creative.prior import DiffusionPrior
from clickherd.creative.sources import TRAIN, VALID
from clickherd.creative.upsampler import Upsampler, shrink
from clickherd.errors import RunError

STAGES = ("clip", "prior", "ar_prior", "decoder", "upsampler")
PCA_FILE = "pca.safetensors"
PIXELS_OF = 4096  # images that mean and spread of the pixels are taken of

Module = TypeVar("Module", bound=nn.Module)


class Workshop:
    """An image set as the stages see it, and the stages' networks."""

    def __init__(self, config: CreativeConfig, images: ImageSet, device: torch.device) -> None:
        self.config, self.images, self.device = config, images, device
        self.train_rows, self.valid_rows = images.rows(TRAIN), images.rows(VALID)
        self._embedded: tuple[Tensor, CaptionTable] | None = None

    def stage(self, name: str, clip: Callable[[], Clip]) -> Stage:
        """The stage of this name, with a new network; `clip` gives the trained CLIP to those that need it."""
        match name:
            case "clip":
                return self._clip()
            case "prior":
                return self._prior(clip())
            case "ar_prior":
                return self._ar_prior(clip())
            case "decoder":
                return self._decoder(clip())
            case "upsampler":
                return self._upsampler()
            case _:
                raise ValueError(f"no stage {name!r}: {', '.join(STAGES)}")

    def _clip(self) -> Stage:
        captions = np.asarray(self.images.captions, dtype=object)
        clip = new_clip(self.config.clip, self.config.decoder_size, captions[self.train_rows].tolist()).to(self.device)
        # in one part: every image is compared with the captions of the whole batch
        return self._stage("clip", clip, lambda rows, _: clip.loss(self.pixels(rows), captions[rows].tolist()), parts=1)

    def _prior(self, clip: Clip) -> Stage:
        image_ND, texts = self.embedded(clip)
        prior = new_prior(self.config, clip).to(self.device)
        prior.standardise(image_ND[self.train_rows])
        return self._stage("prior", prior, lambda rows, rng: prior.loss(image_ND[rows], texts.texts(rows), rng))

    def _ar_prior(self, clip: Clip) -> Stage:
        image_ND, texts = self.embedded(clip)
        train = image_ND[self.train_rows]
        prior = new_ar_prior(self.config, clip, PCA.fit(train).kept(self.config.ar_prior.variance)).to(self.device)
        prior.standardise(train, torch.cat([texts.texts(part).embedding for part in in_parts(self.train_rows)]))
        return self._stage("ar_prior", prior, lambda rows, rng: prior.loss(image_ND[rows], texts.texts(rows), rng))

    def _decoder(self, clip: Clip) -> Stage:
        image_ND, texts = self.embedded(clip)
        decoder = new_decoder(self.config, clip).to(self.device)
        decoder.standardise(image_ND[self.train_rows], self.pixels(spread(self.train_rows, PIXELS_OF)))
        return self._stage(
            "decoder",
            decoder,
            lambda rows, rng: decoder.loss(self.pixels(rows), image_ND[rows], texts.texts(rows), rng),
        )

    def _upsampler(self) -> Stage:
        upsampler = new_upsampler(self.config).to(self.device)
        return self._stage("upsampler", upsampler, lambda rows, rng: upsampler.loss(self.pixels(rows, full=True), rng))

    def _stage(self, name: str, module: nn.Module, loss: Loss, parts: int = PARTS) -> Stage:
        return Stage(name, module, getattr(self.config, name), loss, self.train_rows, self.valid_rows, parts)

    def pixels(self, rows: np.ndarray, *, full: bool = False) -> Tensor:
        """Images (B, 3, S, S) of these rows in [−1, 1], at the decoder's size or, `full`, at the data's."""
        parts = []
        for part in in_parts(rows):  # large images are made small some at a time
            images = torch.from_numpy(np.array(self.images.images[part])).to(self.device).float() / 127.5 - 1
            parts.append(images if full else shrink(images, self.images.size // self.config.decoder_size))
        return torch.cat(parts)

    def embedded(self, clip: Clip) -> tuple[Tensor, CaptionTable]:
        """Embeddings of all images (N, D), and the texts of their captions."""
        if self._embedded is None:
            with torch.no_grad():
                parts = [clip.encode_image(self.pixels(rows)) for rows in in_parts(np.arange(len(self.images)))]
            self._embedded = torch.cat(parts), CaptionTable(clip, self.images.captions)
        return self._embedded


def in_parts(rows: np.ndarray, size: int = 256) -> Sequence[np.ndarray]:
    """Row numbers, some at a time."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def new_prior(config: CreativeConfig, clip: Clip) -> DiffusionPrior:
    """An untrained diffusion prior for this CLIP."""
    return DiffusionPrior(config.prior, clip.embedding_dim, clip.text_width, clip.context_length)


def new_ar_prior(config: CreativeConfig, clip: Clip, components: int) -> ARPrior:
    """An untrained autoregressive prior for this CLIP."""
    return ARPrior(config.ar_prior, components, clip.embedding_dim, clip.text_width, clip.context_length)


def new_decoder(config: CreativeConfig, clip: Clip) -> Decoder:
    """An untrained decoder for this CLIP."""
    return Decoder(config.decoder, config.decoder_size, clip.embedding_dim, clip.text_width)


def new_upsampler(config: CreativeConfig) -> Upsampler:
    """An untrained upsampler."""
    return Upsampler(config.upsampler, config.data.size, config.data.size // config.decoder_size)


def save_pca(folder: Path, workshop: Workshop, clip: Clip) -> None:
    """Write the principal components of the training images' embeddings beside the CLIP, for probes."""
    found = PCA.fit(workshop.embedded(clip)[0][workshop.train_rows])
    tensors = {"mean": found.mean, "components": found.components, "variance": found.variance}
    checkpoint.save(folder / "clip" / PCA_FILE, tensors, {})


def load_pca(folder: Path) -> PCA:
    """What `save_pca` wrote.

    Raises:
        RunError: it has not been written.
    """
    return PCA(**checkpoint.load(folder / "clip" / PCA_FILE)[0])


def is_trained(folder: Path, name: str) -> bool:
    """Whether the run folder holds the stage."""
    return (folder / name / "model.safetensors").is_file()


def save_stage(folder: Path, name: str, module: nn.Module) -> None:
    """Write the stage: a folder of its name, all of it or nothing."""
    with checkpoint.new_folder(folder / name, f"Remove it to train stage {name} again.") as fresh:
        if isinstance(module, Clip):
            module.save(fresh)
        else:
            checkpoint.save(fresh / "model.safetensors", module.state_dict(), _facts(module))


def _facts(module: nn.Module) -> dict[str, int]:
    """What the shapes of its weights do not tell of a network."""
    if isinstance(module, ARPrior):
        return {"components": module.num_components}
    if isinstance(module, Decoder):
        return {"size": module.size}
    if isinstance(module, Upsampler):
        return {"size": module.size, "factor": module.factor}
    return {}


def load_clip_of(folder: Path) -> Clip:
    """The CLIP of a run folder.

    Raises:
        RunError: there is none, or it is damaged.
    """
    check_trained(folder, "clip")
    return load_clip(folder / "clip").eval().requires_grad_(False)


def load_prior(folder: Path, config: CreativeConfig, clip: Clip) -> DiffusionPrior:
    """The diffusion prior of a run folder."""
    return _filled(folder, "prior", new_prior(config, clip))


def load_ar_prior(folder: Path, config: CreativeConfig, clip: Clip) -> ARPrior:
    """The autoregressive prior of a run folder."""
    check_trained(folder, "ar_prior")
    facts = checkpoint.facts(folder / "ar_prior" / "model.safetensors") or {}
    return _filled(folder, "ar_prior", new_ar_prior(config, clip, facts["components"]))


def load_decoder(folder: Path, config: CreativeConfig, clip: Clip) -> Decoder:
    """The decoder of a run folder."""
    return _filled(folder, "decoder", new_decoder(config, clip))


def load_upsampler(folder: Path, config: CreativeConfig) -> Upsampler:
    """The upsampler of a run folder."""
    return _filled(folder, "upsampler", new_upsampler(config))


def check_trained(folder: Path, name: str) -> None:
    """See that the run folder holds the stage.

    Raises:
        RunError: it does not.
    """
    if not is_trained(folder, name):
        raise RunError(
            f"stage {name} is not trained",
            file=folder,
            mend=f"clickherd creative train --resume {folder} --stage {name} trains it.",
        )


def _filled(folder: Path, name: str, module: Module) -> Module:
    """The network with the weights of the run folder, each of them and no other.

    Raises:
        RunError: the stage is not trained, or its weights are those of another shape; the first that differs is told.
    """
    check_trained(folder, name)
    file = folder / name / "model.safetensors"
    tensors, facts = checkpoint.load(file)
    mend = (
        "The run's config.yaml, its clip folder and this file must belong together, and be of one version of clickherd."
    )
    if facts != _facts(module):
        raise RunError(f"trained with {facts}, and the settings say {_facts(module)}", file=file, mend=mend)
    wanted = module.state_dict()
    for weight in sorted({*tensors, *wanted}):
        has = tuple(tensors[weight].shape) if weight in tensors else "missing"
        needs = tuple(wanted[weight].shape) if weight in wanted else "not wanted"
        if has != needs:
            raise RunError(
                f"weight {weight} is {has} in the file and {needs} by the settings and the CLIP",
                file=file,
                mend=mend,
            )
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)
