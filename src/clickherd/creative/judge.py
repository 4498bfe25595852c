"""An independent judge of generated images: a small network that reads from an image what it was asked to show.

It is trained on real images and their labels alone, and shares nothing with CLIP, prior or decoder, so it cannot be won
over by what they have in common. Its features stand in for Inception's in FID and KID, on images of the user's domain.

    image → at most `size` pixels a side, with two channels that tell x and y → 4×4 convolution, stride 2
          → residual block → (3×3 convolution, stride 2 → residual block) twice → mean over the pixels → one linear map

Residual blocks are of He et al. 2016 (https://arxiv.org/abs/1603.05027, pre-activation) with GroupNorm (Wu & He 2018),
the coordinates of Liu et al. 2018 (https://arxiv.org/abs/1807.03247): pooling would else blur "left" and "right".

Shapes: B batch, N images, S side in pixels, D = 2·width features, K values of all labels together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clickherd import checkpoint
from clickherd.errors import RunError
from clickherd.runtime import seeded
from clickherd.settings import Settings, validated

Ints = npt.NDArray[np.int64]
Labels = Mapping[str, npt.NDArray[Any]]

GROUPS = 8  # of GroupNorm
MOST_VALUES = 1000  # of a label
ALL = "all"
# Augmentation: of the side; of the range [−1, 1]. None of them can turn left into right or red into orange.
MOST_SHIFT, MOST_BRIGHTNESS, MOST_NOISE = 1 / 16, 0.08, 0.08
REPORT_EVERY = 20  # steps


class JudgeConfig(Settings):
    """The network's size and how it is trained."""

    width: int = Field(48, ge=GROUPS, multiple_of=GROUPS)  # 48: half a million parameters
    size: int = Field(32, ge=16, le=64)  # larger images are shrunk to this side first
    steps: int = Field(350, ge=1)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)


class Judge(nn.Module):
    """Tells the labels of images. `classes` holds the values that each label can take, in the order of its logits."""

    def __init__(self, config: JudgeConfig, classes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.config = config
        self.classes = {name: np.array(values, np.int64) for name, values in classes.items()}
        width = config.width
        self.trunk = nn.Sequential(
            nn.Conv2d(3 + 2, width, 4, stride=2, padding=1),
            _Block(width),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            _Block(2 * width),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            _Block(2 * width),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.SiLU(),
        )
        self.heads = nn.Linear(2 * width, sum(map(len, self.classes.values())))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by label, (B, values of it), of images (B, 3, S, S), floats in [−1, 1]."""
        return self._parted(self._pooled(images))

    def features(self, images_u8: Any, batch_size: int = 256) -> npt.NDArray[np.float32]:
        """What the heads see, (N, D): the domain's own features, for FID and KID.

        Args:
            images_u8: uint8 array, memory map or tensor, (N, 3, S, S), S from 16 to 128 and as in training.
            batch_size: images that go through the network at a time.
        """
        with torch.no_grad():
            parts = [self._pooled(_floats(part)).cpu().numpy() for part in self._batches(images_u8, batch_size)]
        return np.concatenate([np.zeros((0, self.heads.in_features), np.float32), *parts])

    def predict(self, images_u8: Any, batch_size: int = 256) -> dict[str, Ints]:
        """The likeliest value of each label, (N,), of images as `features` takes them."""
        with torch.no_grad():
            features = torch.from_numpy(self.features(images_u8, batch_size)).to(self.heads.weight.device)
            logits = self._parted(features)
        return {name: self.classes[name][part.argmax(dim=1).cpu().numpy()] for name, part in logits.items()}

    def save(self, path: Path) -> None:
        """Write weights, settings and classes to one file of safetensors.

        Raises:
            RunError: the file cannot be written.
        """
        classes = {name: values.tolist() for name, values in self.classes.items()}
        checkpoint.save(path, self.state_dict(), {"judge": self.config.model_dump(), "classes": classes})

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Read what `save` wrote, onto the CPU.

        Raises:
            RunError: no such file, or not a judge's, or weights that do not fit its settings.
        """
        tensors, facts = checkpoint.load(path)
        if not {"judge", "classes"} <= facts.keys():
            raise RunError("the file holds no judge", file=path, mend="Give one that Judge.save wrote.")
        with seeded(0):  # the weights drawn here are replaced at once
            judge = cls(validated(JudgeConfig, facts["judge"], source=path), facts["classes"])
        try:
            judge.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(f"the weights do not fit the judge's settings: {error}", file=path) from None
        return judge.eval()

    def shrunk(self, images: Tensor) -> Tensor:
        """Images of floats, at most `config.size` a side, without aliasing."""
        if images.shape[-1] <= self.config.size:
            return images
        return F.interpolate(images, size=(self.config.size, self.config.size), mode="bilinear", antialias=True)

    def _pooled(self, images: Tensor) -> Tensor:
        small = self.shrunk(images)
        line = torch.linspace(-1, 1, small.shape[-1], device=small.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x, y]).expand(len(small), -1, -1, -1)
        pooled: Tensor = self.trunk(torch.cat([small, places], dim=1)).mean(dim=(2, 3))
        return pooled

    def _parted(self, pooled: Tensor) -> dict[str, Tensor]:
        logits = self.heads(pooled).split([len(values) for values in self.classes.values()], dim=1)
        return dict(zip(self.classes, logits, strict=True))

    def _batches(self, images_u8: Any, batch_size: int) -> Iterator[Tensor]:
        _check_images(images_u8)
        device = self.heads.weight.device
        for start in range(0, len(images_u8), batch_size):
            yield torch.tensor(np.asarray(images_u8[start : start + batch_size]), device=device)


class _Block(nn.Module):
    """x + conv(norm(conv(norm(x)))), the width kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.change(x)
        return changed


def train_judge(
    images: Any,
    labels: Labels,
    rows: npt.ArrayLike,
    config: JudgeConfig,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
    *,
    device: str = "cpu",
) -> Judge:
    """Train a judge on real images: AdamW, warm-up over a tenth of the steps, then a cosine to zero.

    Each image is shifted by up to 1/16 of its side, made a little brighter or darker, blurred a little and given noise,
    so that samples' softness does not put the judge off. It is never flipped and its hue never changed: labels such as
    "left" or "red" stay true. On a CPU the same seed gives the same weights, and torch's own random numbers go on as if
    nothing had been drawn.

    Args:
        images: (N, 3, S, S) uint8, an array, memory map or tensor, S from 16 to 128.
        labels: whole numbers by name, (N,) each. A label that has one value in `rows` teaches nothing and is left out.
        rows: which images to train on. They should hold every combination of labels that samples will be asked for,
            also those that the generator never saw: the judge, too, reads worse what it only knows apart.
        config: settings.
        seed: of the weights, the order and the augmentation.
        progress: told the steps done and the last batch's loss (the labels' mean cross-entropy in nats) now and then.
        device: where to train; the judge stays there.

    Raises:
        ValueError: images or labels of a wrong shape or type, no rows, a label with over 1,000 values, or no label with
            two.
    """
    _check_images(images)
    chosen = np.asarray(rows, np.int64)
    if chosen.ndim != 1 or not len(chosen):
        raise ValueError(f"rows has shape {chosen.shape}: at least one index of an image, (n,), is needed")
    classes = _classes(labels, chosen, len(images))
    targets = {name: np.searchsorted(values, labels[name]) for name, values in classes.items()}
    order = _order(chosen, config.steps, config.batch_size, seed)
    with seeded(seed):
        judge = Judge(config, {name: values.tolist() for name, values in classes.items()}).to(device).train()
        optimizer, schedule = _optimizer(judge, config)
        for step, batch in enumerate(order, start=1):
            pixels = torch.from_numpy(np.asarray(images[batch])).to(device)
            logits = judge(augmented(judge.shrunk(_floats(pixels))))
            losses = [
                F.cross_entropy(logits[name], torch.from_numpy(target[batch]).to(device))
                for name, target in targets.items()
            ]
            loss = torch.stack(losses).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if progress is not None and (step % REPORT_EVERY == 0 or step == config.steps):
                progress(step, loss.item())
    return judge.eval()


def augmented(images: Tensor) -> Tensor:
    """Images (B, 3, S, S) in [−1, 1] as they might also have been, drawn from torch's random numbers.

    Shifts of part of a pixel soften as well as move; a share between none and all of a 3×3 mean softens further.
    """
    count, device = len(images), images.device

    def drawn(*shape: int) -> Tensor:
        return torch.rand(count, *shape, device=device)

    shift = torch.eye(2, 3, device=device).repeat(count, 1, 1)
    shift[:, :, 2] = (2 * drawn(2) - 1) * 2 * MOST_SHIFT  # the grid's side is 2 long
    grid = F.affine_grid(shift, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(moved, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blurred = torch.lerp(moved, soft, drawn(1, 1, 1))
    brightness = (2 * drawn(1, 1, 1) - 1) * MOST_BRIGHTNESS
    return blurred + brightness + torch.randn_like(images) * MOST_NOISE * drawn(1, 1, 1)


def agreement(judged: Labels, asked: Labels) -> dict[str, float]:
    """The share of images that show what was asked for, by label, and `all`: every label right at once.

    The judge errs too: the most to hope for is its share on real images that it was not trained on.

    Args:
        judged: what `Judge.predict` says, (N,) each.
        asked: what the prompts said, (N,) each. Labels that only one of the two holds do not count.

    Raises:
        ValueError: no label in both, no images, or numbers of images that differ.
    """
    names = [name for name in judged if name in asked]
    if not names:
        raise ValueError(f"no label is both judged ({', '.join(judged)}) and asked for ({', '.join(asked)})")
    right = {}
    for name in names:
        told, wanted = np.asarray(judged[name]), np.asarray(asked[name])
        if told.shape != wanted.shape or told.ndim != 1 or not len(told):
            raise ValueError(f"label {name!r}: {told.shape} judged and {wanted.shape} asked for; equal (N,) are needed")
        right[name] = told == wanted
    shares = {name: float(hits.mean()) for name, hits in right.items()}
    return {**shares, ALL: float(np.logical_and.reduce(list(right.values())).mean())}


def _check_images(images: Any) -> None:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or str(images.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"images have shape {shape} and type {images.dtype}: (N, 3, S, S) of uint8 is needed")


def _floats(images_u8: Tensor) -> Tensor:
    """Bytes to [−1, 1]."""
    return images_u8.float() / 127.5 - 1


def _classes(labels: Labels, rows: Ints, num_images: int) -> dict[str, Ints]:
    """The values of each label in `rows`, ascending, of those labels that have two or more."""
    classes = {}
    for name, column in labels.items():
        if name == ALL:
            raise ValueError(f"a label may not be called {ALL!r}: `agreement` gives all labels together that name")
        if column.shape != (num_images,) or column.dtype.kind not in "iu":
            raise ValueError(
                f"label {name!r} has shape {column.shape} and type {column.dtype}: ({num_images},) of whole numbers"
            )
        values = np.unique(column[rows]).astype(np.int64)
        if len(values) > MOST_VALUES:
            raise ValueError(f"label {name!r} has {len(values)} values: {MOST_VALUES} at most; is it an id?")
        if len(values) > 1:
            classes[name] = values
    if not classes:
        raise ValueError(
            f"no label to learn: none of {', '.join(labels) or 'none'} has two or more values in the {len(rows)} rows"
        )
    return classes


def _order(rows: Ints, steps: int, batch_size: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows of each step, (steps, batch_size): one shuffled pass after the other."""
    rng = np.random.default_rng(seed)
    passes = math.ceil(steps * batch_size / len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(passes)])[: steps * batch_size].reshape(steps, -1)


def _optimizer(judge: Judge, config: JudgeConfig) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW, which shrinks matrices and kernels only, and its schedule."""
    weights = [p for p in judge.parameters() if p.ndim > 1]
    vectors = [p for p in judge.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )
    warm_up = max(config.steps // 10, 1)

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / config.steps))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
