"""Every setting of a creative run, and the presets.

The defaults are the preset `cpu`: 32 px from scratch on two cores. `gpu` is 64 px on one accelerator, `paper` has the
sizes of Ramesh et al. 2022 (Table 3), as far as they are published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from clickherd.config import merge
from clickherd.creative.diffusion import steps_allowed
from clickherd.creative.judge import JudgeConfig
from clickherd.creative.sources import DataConfig
from clickherd.errors import ConfigError, did_you_mean
from clickherd.settings import Settings, validated

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Settings):
    """What the training of every stage has: AdamW, warm-up, cosine decay, and an average of the weights."""

    steps: Positive
    batch_size: Positive
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    beta2: float = Field(default=0.99, gt=0, lt=1)
    warmup: Share = 0.05
    """Share of the steps in which the rate rises."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Of the averaged weights, which are the ones kept; at first it is (1 + step) / (10 + step), while that is less. 0
    keeps the last weights."""
    clip_norm: float = Field(default=1.0, gt=0)


def check_heads(width: int, heads: int) -> None:
    """See that a width can be shared out among attention's heads."""
    if width % heads:
        raise ValueError(f"width {width} is not divisible by heads {heads}")


class TowerConfig(Settings):
    """A transformer encoder of CLIP."""

    width: Positive = 128
    layers: Positive = 3
    heads: Positive = 4

    @model_validator(mode="after")
    def _heads_divide(self) -> TowerConfig:
        check_heads(self.width, self.heads)
        return self


class ClipConfig(StageConfig):
    """CLIP (Radford et al. 2021): trained from scratch, or taken from `path`."""

    path: str | None = None
    """A folder with a CLIP in the format of transformers. It is used as it is, and the stage is not trained."""
    embedding_dim: Positive = 128
    image: TowerConfig = TowerConfig()
    text: TowerConfig = TowerConfig()
    patch_size: Positive = 8
    context_length: int | None = Field(default=None, ge=4)
    """Tokens of a caption at most, with the one at its beginning and the one at its end; by default a quarter more than
    the longest caption of the training images has, and 24 to 77: a word that none of them has takes several."""
    vocabulary_size: int = Field(default=4096, ge=300)
    """Tokens of the tokenizer at most; it is learned from the captions."""
    steps: Positive = 300
    batch_size: Positive = 256
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)


class PriorConfig(StageConfig):
    """The diffusion prior: text to image embedding (section 2.2)."""

    width: Positive = 128
    layers: Positive = 3
    heads: Positive = 4
    drop_text: Share = 0.1
    """How often the text is hidden in training, for classifier-free guidance."""
    steps: Positive = 650
    batch_size: Positive = 128
    learning_rate: float = Field(default=1e-3, gt=0)
    beta2: float = Field(default=0.96, gt=0, lt=1)
    weight_decay: float = Field(default=0.06, ge=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> PriorConfig:
        check_heads(self.width, self.heads)
        return self


class ARPriorConfig(PriorConfig):
    """The autoregressive prior: the same, one quantised principal component after the other (section 2.2)."""

    variance: float = Field(default=0.98, gt=0, le=1)
    """Share of the embeddings' variance that the principal components kept hold; 0.99 in the paper. What comes after it
    is noise to the captions of product shots (docs/log.md)."""
    buckets: int = Field(default=128, ge=2)
    """Values that a component is quantised to; 1,024 in the paper."""
    learning_rate: float = Field(default=2e-3, gt=0)
    steps: Positive = 450
    """The time of the diffusion prior's 650 on two cores, with the 13 components of product shots."""


class DecoderConfig(StageConfig):
    """The decoder: image embedding (and text) to image (section 2.1), a diffusion U-Net."""

    size: Positive | None = None
    """Side of its images; that of the data when not given. With an upsampler it is smaller than that."""
    channels: tuple[Positive, ...] = Field(default=(64, 64, 128), min_length=1)
    """Of each level; all but the first attend to the embedding and the text. The first must be wide: with 32 channels
    pictures stay grainy (docs/log.md)."""
    layers: Positive = 1
    """Residual blocks of each level."""
    patch: Literal[1, 2, 4] = 2
    """Pixels are folded into channels (pixel unshuffle) by this side first."""
    head_dim: Positive = 32
    context_dim: Positive = 64
    embedding_tokens: Positive = 4
    """Tokens that the image embedding becomes, to be attended to."""
    text: bool = True
    """Attend to the caption's tokens too."""
    drop_embedding: Share = 0.1
    drop_text: Share = 0.5
    high_noise: float = Field(default=0.5, ge=0, le=4)
    """Timesteps are drawn in training with a density that rises as t to this power: shapes are learned sooner, fine
    grain later (docs/log.md). 0 is uniform, as in the paper."""
    steps: Positive = 900
    batch_size: Positive = 64
    learning_rate: float = Field(default=2e-3, gt=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderConfig:
        odd = [width for width in self.channels if width % min(self.head_dim, width) or width % 8]
        if odd:
            raise ValueError(f"channels {odd[0]}: must be divisible by 8 and by head_dim {self.head_dim}")
        return self


class UpsamplerConfig(StageConfig):
    """An upsampler: small image to large one, a diffusion U-Net that sees neither text nor embedding (section 2.1)."""

    on: bool = False
    channels: tuple[Positive, ...] = Field(default=(32, 64, 96), min_length=1)
    layers: Positive = 1
    patch: Literal[1, 2, 4] = 2
    crop: float = Field(default=0.5, gt=0, le=1)
    """Side of the crops that it learns from, as a share of the image's: a quarter of the image in the paper."""
    blur: float = Field(default=0.6, ge=0)
    """Standard deviation in pixels of the blur of the small images in training."""
    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: float = Field(default=1e-3, gt=0)
    beta2: float = Field(default=0.999, gt=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _groups_divide(self) -> UpsamplerConfig:
        odd = [width for width in self.channels if width % 8]
        if odd:
            raise ValueError(f"channels {odd[0]}: must be divisible by 8")
        return self


class SampleConfig(Settings):
    """How samples are drawn when nothing else is said."""

    prior_steps: Positive = 50
    prior_guidance: float = Field(default=1.0, ge=0)
    candidates: Positive = 2
    """Image embeddings drawn for each picture; the one nearest the text is kept."""
    caption: bool = True
    """Whether the decoder sees the prompt's words too, or the image embedding alone."""
    decoder_steps: Positive = 20
    decoder_guidance: float = Field(default=1.5, ge=0)
    """1 is none, and half the time."""
    upsampler_steps: Positive = 20
    invert_steps: Positive = 25

    @field_validator("prior_steps", "decoder_steps", "upsampler_steps", "invert_steps")
    @classmethod
    def _divides(cls, steps: int) -> int:
        return steps_allowed(steps)


class CreativeConfig(Settings):
    """All of it."""

    data: DataConfig = DataConfig()
    clip: ClipConfig = ClipConfig()
    prior: PriorConfig = PriorConfig()
    ar_prior: ARPriorConfig = ARPriorConfig()
    decoder: DecoderConfig = DecoderConfig()
    upsampler: UpsamplerConfig = UpsamplerConfig()
    judge: JudgeConfig = JudgeConfig()
    sample: SampleConfig = SampleConfig()
    seed: int = Field(default=0, ge=0)
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of matrix products and convolutions; auto is bf16 on a GPU that has it, fp32 elsewhere."""
    threads: Positive | None = None

    @property
    def decoder_size(self) -> int:
        """Side of the decoder's images, in pixels."""
        return self.decoder.size or self.data.size

    @model_validator(mode="after")
    def _sizes_fit(self) -> CreativeConfig:
        size, deepest = self.decoder_size, self.decoder.patch * 2 ** (len(self.decoder.channels) - 1)
        if size % deepest:
            raise ValueError(
                f"images of {size} px cannot be halved {len(self.decoder.channels) - 1} times after patches of "
                f"{self.decoder.patch}: a multiple of {deepest} can"
            )
        if self.upsampler.on and (self.data.size <= size or self.data.size % size):
            raise ValueError(
                f"the upsampler goes from decoder.size = {size} to data.size = {self.data.size}, which must be a "
                "multiple of it"
            )
        large = self.upsampler.patch * 2 ** (len(self.upsampler.channels) - 1)
        if self.upsampler.on and self.data.size % large:
            raise ValueError(
                f"images of {self.data.size} px cannot be halved {len(self.upsampler.channels) - 1} times after "
                f"patches of {self.upsampler.patch}, as the upsampler does: a multiple of {large} can"
            )
        if not self.upsampler.on and self.data.size != size:
            raise ValueError(f"decoder.size = {size} is not data.size = {self.data.size}, and upsampler.on is false")
        if self.clip.path is None and size % self.clip.patch_size:
            raise ValueError(f"clip.patch_size = {self.clip.patch_size} does not divide images of {size} px")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "device": "cuda",
        "data": {"size": 64},
        "clip": {
            "embedding_dim": 256,
            "image": {"width": 256, "layers": 6, "heads": 8},
            "text": {"width": 256, "layers": 4, "heads": 8},
            "context_length": 32,
            "steps": 5000,
            "batch_size": 1024,
        },
        "prior": {"width": 512, "layers": 6, "heads": 8, "steps": 20_000, "batch_size": 1024, "learning_rate": 5e-4},
        "ar_prior": {
            "width": 512,
            "layers": 6,
            "heads": 8,
            "variance": 0.99,
            "steps": 10_000,
            "batch_size": 512,
            "learning_rate": 5e-4,
        },
        "decoder": {
            "channels": (128, 256, 384, 512),
            "layers": 2,
            "patch": 1,
            "head_dim": 64,
            "context_dim": 256,
            "steps": 40_000,
            "batch_size": 256,
            "learning_rate": 2e-4,
            "ema_decay": 0.9999,
            "high_noise": 0.0,
        },
        # what the defaults say of sampling and of high noise was measured at 32 px alone
        "sample": {"decoder_steps": 50, "decoder_guidance": 1.0, "invert_steps": 50},
    },
    # Table 3 of the paper; what it leaves open (the U-Net's inner layout) is as near as diffusers' blocks come.
    "paper": {
        "device": "cuda",
        "data": {"size": 256},
        "clip": {
            "embedding_dim": 1024,
            "image": {"width": 1280, "layers": 32, "heads": 16},
            "text": {"width": 1024, "layers": 24, "heads": 16},
            "patch_size": 16,
            "context_length": 77,
            "vocabulary_size": 49_408,
            "steps": 600_000,
            "batch_size": 32_768,
            "learning_rate": 4e-4,
        },
        "prior": {
            "width": 2048,
            "layers": 24,
            "heads": 32,
            "steps": 600_000,
            "batch_size": 4096,
            "learning_rate": 1.1e-4,
            "ema_decay": 0.9999,
        },
        "ar_prior": {
            "width": 2048,
            "layers": 24,
            "heads": 32,
            "variance": 0.99,
            "buckets": 1024,
            "steps": 1_000_000,
            "batch_size": 4096,
            "learning_rate": 1.6e-4,
            "ema_decay": 0.999,
        },
        "decoder": {
            "size": 64,
            "channels": (512, 1024, 1536, 2048),
            "layers": 3,
            "patch": 1,
            "head_dim": 64,
            "context_dim": 1024,
            "high_noise": 0.0,
            "steps": 800_000,
            "batch_size": 2048,
            "learning_rate": 1.2e-4,
            "ema_decay": 0.9999,
        },
        "upsampler": {
            "on": True,
            "channels": (320, 640, 960, 1280),
            "layers": 3,
            "patch": 1,
            "steps": 1_000_000,
            "batch_size": 1024,
            "learning_rate": 1.2e-4,
            "ema_decay": 0.9999,
        },
        "sample": {
            "prior_steps": 50,
            "prior_guidance": 2.0,
            "decoder_guidance": 2.0,
            "decoder_steps": 250,
            "upsampler_steps": 25,
        },
    },
}


def creative_config(
    settings: Mapping[str, Any], preset: str = "cpu", source: str | Path | None = None
) -> CreativeConfig:
    """The preset with `settings` over it.

    Raises:
        ConfigError: no such preset, an unknown setting, or a value that it cannot take.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}", mend=did_you_mean(preset, PRESETS))
    return validated(CreativeConfig, merge(PRESETS[preset], settings), source=source)


def dump(config: CreativeConfig) -> str:
    """YAML of all settings, which `creative_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
