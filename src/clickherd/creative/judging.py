"""Who judges the pictures of a run: a judge of its own if there is something that it could learn, else CLIP.

Without labels, and with captions that are nearly all different, nobody can tell how often pictures show what was asked
for. What needs features alone (FID, KID, diversity, copies) is then of the run's CLIP, which the decoder follows: good
for comparing samples of one run, and kinder than a judge would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from clickherd.creative.clip import Clip
from clickherd.creative.dataset import ImageSet
from clickherd.creative.judge import Judge, Labels, train_judge
from clickherd.creative.sources import HELD_OUT, TRAIN
from clickherd.creative.stages import in_parts
from clickherd.creative.studio import Studio

MEND = "Name columns of classes with --label when training."


def whole(labels: Labels, rows: np.ndarray) -> np.ndarray:
    """The rows that lack no label."""
    lacking = np.zeros(len(rows), dtype=bool)
    for codes in labels.values():
        lacking |= codes[rows] < 0
    return rows[~lacking]


def judge_of(
    studio: Studio,
    images: ImageSet,
    labels: Labels,
    pixels: Callable[[np.ndarray], np.ndarray],
    announce: Callable[[str], None],
) -> Judge | None:
    """The judge of a run, trained once and kept in its folder; None if it has nothing to learn, which is announced.

    It learns from the training images, and from every second one of the combinations held out.
    """
    file, config = studio.folder / "judge" / "model.safetensors", studio.config.judge
    if file.exists():
        kept = Judge.load(file).to(studio.device)
        if kept.config == config:
            return kept
    try:
        if not labels:
            raise ValueError("there are no labels, and the captions are too many or all the same")
        rows = np.concatenate([whole(labels, images.rows(TRAIN)), whole(labels, images.rows(HELD_OUT))[1::2]])
        same = images.size == studio.config.decoder_size
        seen = images.images if same else pixels(np.arange(len(images)))
        announce(f"training a judge on {len(rows):,} real images, {config.steps:,} steps")
        judge = train_judge(seen, labels, rows, config, studio.config.seed, device=str(studio.device))
    except ValueError as error:
        announce(f"no judge: {error}. {MEND} What needs features alone is told by CLIP's.")
        return None
    judge.save(file)
    return judge


@dataclass(frozen=True)
class ClipFeatures:
    """A CLIP's unit embeddings of images, in the place of a judge's features."""

    clip: Clip

    @torch.no_grad()
    def features(self, images_u8: np.ndarray) -> np.ndarray:
        """Float32 (N, D) of uint8 images (N, 3, S, S)."""
        device, parts = self.clip.mean.device, in_parts(np.arange(len(images_u8)))
        found = [self.clip.encode_image(torch.from_numpy(images_u8[part]).to(device)).cpu().numpy() for part in parts]
        return np.concatenate(found)
