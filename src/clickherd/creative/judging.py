"""Who judges the pictures of a run: a judge of its own, or CLIP where a judge could learn nothing.

Without labels, and with captions that are nearly all different or all the same, nobody can tell how often pictures show
what was asked for. What needs features alone (FID, KID, diversity, copies) is then of the run's CLIP, which the decoder
follows: good for comparing samples of one run, and kinder than a judge would be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from clickherd.creative.clip import Clip
from clickherd.creative.dataset import ImageSet
from clickherd.creative.judge import ALL, MOST_VALUES, Judge, Labels, train_judge
from clickherd.creative.sources import HELD_OUT, TRAIN
from clickherd.creative.stages import in_parts

if TYPE_CHECKING:
    from clickherd.creative.studio import Studio

FEWEST_OF_CAPTION = 4  # images a caption, on average, for a judge to learn captions
CAPTION = "caption"  # the label of a set without labels
MEND = "--label names columns of classes when a run is trained"


def learnable(images: ImageSet) -> tuple[Labels, list[str]]:
    """What a judge can learn to read, and in words what it cannot: the label columns, or else which caption it is.

    A label has 2 to 1,000 values among the images that a judge learns from. Rows that lack a label have −1.
    """
    labels, faults = dict(images.labels), list[str]()
    if not labels:
        distinct, code = np.unique(np.asarray(images.captions, dtype=object), return_inverse=True)
        if len(distinct) * FEWEST_OF_CAPTION > len(code):
            few = f"fewer than {FEWEST_OF_CAPTION} of each"
            return {}, [f"there are no labels, and {len(distinct):,} captions of {len(code):,} images, {few}"]
        labels = {CAPTION: code.astype(np.int64)}
    while True:
        rows = rows_to_learn(images, labels)
        found = {name: fault for name, codes in labels.items() if (fault := _fault(name, codes[rows]))}
        if not found:
            return labels, faults
        faults += found.values()
        labels = {name: codes for name, codes in labels.items() if name not in found}


def _fault(name: str, codes: np.ndarray) -> str:
    number = len(np.unique(codes))
    if name == ALL:
        return f"a label cannot be called {name!r}, which stands for all of them"
    if number < 2:
        return f"label {name!r} has {number} value{'' if number == 1 else 's'} among the images to learn from"
    if number > MOST_VALUES:
        return f"label {name!r} has {number:,} values, {MOST_VALUES:,} at most: it may be an id"
    return ""


def whole(labels: Labels, rows: np.ndarray) -> np.ndarray:
    """The rows that lack no label."""
    lacking = np.zeros(len(rows), dtype=bool)
    for codes in labels.values():
        lacking |= codes[rows] < 0
    return rows[~lacking]


def rows_to_learn(images: ImageSet, labels: Labels) -> np.ndarray:
    """What a judge learns from: the training images, and every second one of the combinations held out."""
    return np.concatenate([whole(labels, images.rows(TRAIN)), whole(labels, images.rows(HELD_OUT))[1::2]])


def judge_of(
    studio: Studio,
    images: ImageSet,
    labels: Labels,
    pixels: Callable[[np.ndarray], np.ndarray],
    announce: Callable[[str], None],
) -> Judge | None:
    """The judge of a run, trained once and kept in its folder; None if there are no labels to learn."""
    if not labels:
        return None
    file, config = studio.folder / "judge" / "model.safetensors", studio.config.judge
    if file.exists():
        kept = Judge.load(file).to(studio.device)
        if kept.config == config:
            return kept
    rows = rows_to_learn(images, labels)
    announce(f"training a judge on {len(rows):,} real images, {config.steps:,} steps")
    same = images.size == studio.config.decoder_size
    seen = images.images if same else pixels(np.arange(len(images)))
    judge = train_judge(seen, labels, rows, config, studio.config.seed, device=str(studio.device))
    judge.save(file)
    return judge


@dataclass(frozen=True)
class ClipFeatures:
    """A CLIP's embeddings of images in the place of a judge's features."""

    clip: Clip

    @torch.no_grad()
    def features(self, images_u8: np.ndarray) -> np.ndarray:
        """Float32 (N, D) of uint8 images (N, 3, S, S), of length √D: numbers near 1, as a judge's are."""
        device, parts = self.clip.mean.device, in_parts(np.arange(len(images_u8)))
        found = [self.clip.encode_image(torch.from_numpy(images_u8[part]).to(device)).cpu().numpy() for part in parts]
        return np.concatenate(found) * np.float32(self.clip.embedding_dim**0.5)
