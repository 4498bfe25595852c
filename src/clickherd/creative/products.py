"""The built-in product shots: object × colour × background × position, drawn on the spot, with exact captions.

A shot's attributes are exact while size, place, tilt, light and shadow vary, so that no two drawings are alike. Some
pairs of object and colour are held out, to ask later whether a model combines what it has only seen apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clickherd.errors import UserError

OBJECTS = ("mug", "bottle", "shoe", "bag", "shirt", "lamp", "hat", "chair")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
BACKGROUNDS = ("white", "grey", "sky", "sand")
POSITIONS = ("left", "centre", "right")
HELD_OUT = frozenset(zip(OBJECTS, ("yellow", "purple", "green", "red", "pink", "black", "blue", "orange"), strict=True))

RGB: dict[str, tuple[int, int, int]] = {
    "red": (205, 30, 38),
    "orange": (243, 120, 20),
    "yellow": (250, 212, 20),
    "green": (38, 150, 62),
    "blue": (30, 82, 205),
    "purple": (122, 50, 168),
    "pink": (250, 130, 185),
    "black": (40, 40, 44),
}
BACKGROUND_RGB: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "grey": (182, 184, 188),
    "sky": (186, 222, 246),
    "sand": (230, 208, 168),
}
_CENTRE = {"left": 0.29, "centre": 0.5, "right": 0.71}  # of the width
_PHRASE = {"left": "on the left", "centre": "in the centre", "right": "on the right"}

_RADIUS = 0.245  # half an object's extent, of the width
_SUPERSAMPLE = 4
_DARK, _BODY, _LIGHT = 70, 128, 200  # tones of a part: towards black, the colour itself, towards white

_Points = npt.NDArray[np.float64]  # (corners, 2), x to the right and y down, the object within −1 … 1
_Part = tuple[int, _Points]  # its tone and its outline


@dataclass(frozen=True)
class Shot:
    """What one product shot shows."""

    object: str
    colour: str
    background: str
    position: str

    @property
    def caption(self) -> str:
        """`a red mug on the left, grey background`."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.object} {_PHRASE[self.position]}, {self.background} background"

    def draw(self, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A drawing (size, size, 3). With equal `rng` another size shows the same scene."""
        scale, tilt = rng.uniform(0.92, 1.06), rng.uniform(-0.09, 0.09)
        x, y = _CENTRE[self.position] + rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.035, 0.035)
        light, strength = rng.uniform(-2.6, -0.5), rng.uniform(0.10, 0.22)
        gloss, bright, tint = rng.uniform(0.1, 0.3), rng.uniform(0.95, 1.06), rng.uniform(-3, 3, 3)
        fall, darkness, blur = rng.uniform(-0.05, 0.05, 2), rng.uniform(0.25, 0.45), rng.uniform(0.7, 1.2)

        radius = _RADIUS * scale
        tone_SS, cover_SS = _layers(self.object, size, x, y, radius, tilt)
        v_SS, u_SS = (np.mgrid[:size, :size] + 0.5) / size

        canvas_SSC = np.add(BACKGROUND_RGB[self.background], tint) * np.ones((size, size, 1))
        canvas_SSC *= (1 + fall[0] * (u_SS - 0.5) + fall[1] * (v_SS - 0.5))[:, :, None]
        bottom, half_width = _foot(self.object)
        away_SS = ((u_SS - x + 0.02 * np.cos(light)) / (radius * half_width * 1.15)) ** 2
        away_SS += ((v_SS - y - radius * bottom) / (0.045 * blur)) ** 2
        canvas_SSC *= (1 - darkness * np.exp(-away_SS))[:, :, None]

        across_SS = ((u_SS - x) * np.cos(light) + (v_SS - y) * np.sin(light)) / radius
        lit_SS = bright * (1 + strength * np.clip(across_SS, -1, 1))
        shine_SS = gloss * np.exp(-4 * (across_SS - 0.55) ** 2)
        rgb_SSC = _toned(RGB[self.colour], tone_SS) * lit_SS[:, :, None]
        rgb_SSC += (255 - rgb_SSC).clip(0) * shine_SS[:, :, None] * 0.5
        canvas_SSC += (rgb_SSC - canvas_SSC) * cover_SS[:, :, None]
        return canvas_SSC.round().clip(0, 255).astype(np.uint8)


def shots(number: int, seed: int, *, heldout: bool = False) -> list[Shot]:
    """`number` shots in random order, every allowed combination as often as any other, give or take one.

    Args:
        number: how many.
        seed: draws the order, and what is left of the last round through the combinations.
        heldout: whether to draw from HELD_OUT alone, or from all other pairs of object and colour.

    Raises:
        UserError: `number` or `seed` is below 0.
    """
    if number < 0 or seed < 0:
        raise UserError(f"number = {number}, seed = {seed}", mend="Both are 0 or more.")
    allowed = [
        Shot(*attributes)
        for attributes in itertools.product(OBJECTS, COLOURS, BACKGROUNDS, POSITIONS)
        if (attributes[:2] in HELD_OUT) == heldout
    ]
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(allowed)) for _ in range(-(-number // len(allowed)))]
    order_N = rng.permutation(np.concatenate([np.empty(0, np.int64), *rounds])[:number])
    return [allowed[k] for k in order_N]


def drawn(number: int, size: int, seed: int, *, heldout: bool = False) -> Iterator[tuple[Shot, npt.NDArray[np.uint8]]]:
    """The shots of a seed, each with its drawing (size, size, 3); see `shots`."""
    rng = np.random.default_rng((seed, int(heldout)))
    for shot in shots(number, seed, heldout=heldout):
        yield shot, shot.draw(size, rng)


def _toned(colour: tuple[int, int, int], tone_SS: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each pixel's colour (S, S, 3): as it is at tone _BODY, black at 0, white at 255."""
    if max(colour) < 64:  # of what is black, a dark part would not show, and a light one would be grey
        tone_SS = _BODY + np.abs(tone_SS - _BODY) * np.where(tone_SS < _BODY, 0.33, 0.6)
    tone_SSC = tone_SS[:, :, None]
    base = np.array(colour, np.float64)
    return np.where(
        tone_SSC <= _BODY, base * tone_SSC / _BODY, base + (255 - base) * (tone_SSC - _BODY) / (255 - _BODY)
    )


def _layers(
    object: str,  # noqa: A002
    size: int,
    x: float,
    y: float,
    radius: float,
    tilt: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The tone (0 … 255) and the coverage (0 … 1) of each pixel, both (S, S)."""
    canvas = size * _SUPERSAMPLE
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    image = Image.new("LA", (canvas, canvas))
    pen = ImageDraw.Draw(image)
    for tone, outline in _parts(object):
        points = (outline @ turn * radius + (x, y)) * canvas - 0.5
        pen.polygon(points.ravel().tolist(), fill=(tone, 255))
    layers_SSC = np.asarray(image.reduce(_SUPERSAMPLE), np.float64)
    return layers_SSC[:, :, 0], layers_SSC[:, :, 1] / 255


@cache
def _foot(object: str) -> tuple[float, float]:  # noqa: A002
    """Where the object ends below, and half its width there."""
    points = np.concatenate([outline for _, outline in _parts(object)])
    bottom = float(points[:, 1].max())
    return bottom, float(np.abs(points[points[:, 1] > bottom - 0.25, 0]).max())


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> _Points:
    """Along an ellipse, in degrees clockwise from the right."""
    angle = np.radians(np.linspace(start, end, max(3, int(abs(end - start) / 9))))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _band(x: float, y: float, rx: float, ry: float, width: float, start: float, end: float) -> _Points:
    """An arc with a width."""
    outer, inner = (_arc(x, y, rx + side, ry + side, start, end) for side in (width / 2, -width / 2))
    return np.concatenate([outer, inner[::-1]])


def _box(left: float, top: float, right: float, bottom: float, round_: float = 0.06) -> _Points:
    """A rectangle with round corners."""
    corners = ((right - round_, bottom - round_), (left + round_, bottom - round_), (left + round_, top + round_))
    centres = (*corners, (right - round_, top + round_))
    return np.concatenate([_arc(x, y, round_, round_, 90 * k, 90 * k + 90) for k, (x, y) in enumerate(centres)])


def _polygon(*corners: tuple[float, float]) -> _Points:
    return np.array(corners, np.float64)


def _bar(x0: float, y0: float, x1: float, y1: float, width: float) -> _Points:
    """A straight line with a width."""
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) / np.hypot(*along) * width / 2
    start, end = np.array([x0, y0]), np.array([x1, y1])
    return np.stack([start + side, end + side, end - side, start - side])


def _mug() -> Sequence[_Part]:
    return (
        (_BODY, _band(0.42, 0.05, 0.36, 0.36, 0.2, -100, 100)),
        (_BODY, np.concatenate([_arc(-0.15, 0.62, 0.6, 0.2, 0, 180), _arc(-0.15, -0.6, 0.6, 0.16, 180, 360)])),
        (_LIGHT, _arc(-0.15, -0.6, 0.6, 0.17, 0, 351)),
        (_DARK, _arc(-0.15, -0.58, 0.5, 0.12, 0, 351)),
    )


def _bottle() -> Sequence[_Part]:
    right = [(0.14, -0.7), (0.15, -0.45), (0.22, -0.3), (0.4, -0.16), (0.45, 0.0), (0.45, 0.85), (0.38, 0.94)]
    outline = [*right, *((-x, y) for x, y in reversed(right))]
    return (
        (_BODY, _polygon(*outline)),
        (_DARK, _box(-0.19, -0.98, 0.19, -0.72, 0.05)),
        (_LIGHT, _box(-0.45, 0.2, 0.45, 0.56, 0.01)),
    )


def _shoe() -> Sequence[_Part]:
    upper = [(-0.93, -0.42), (-0.8, -0.5), (-0.62, -0.36), (-0.4, -0.36), (-0.22, -0.56), (-0.08, -0.52)]
    front = [(0.2, -0.16), (0.5, -0.02), (0.8, 0.06), (0.96, 0.2), (1.0, 0.42), (-0.95, 0.42)]
    return (
        (_BODY, _polygon(*upper, *front)),
        (_LIGHT, _box(-0.98, 0.36, 1.02, 0.58, 0.1)),
        (_LIGHT, _bar(-0.16, -0.2, 0.02, -0.36, 0.1)),
        (_LIGHT, _bar(0.06, -0.04, 0.24, -0.2, 0.1)),
        (_DARK, _polygon((-0.93, -0.1), (-0.6, -0.1), (-0.5, 0.36), (-0.95, 0.36))),
    )


def _bag() -> Sequence[_Part]:
    return (
        (_DARK, _band(0, -0.18, 0.38, 0.62, 0.15, 180, 360)),
        (_BODY, _polygon((-0.68, -0.24), (0.68, -0.24), (0.88, 0.78), (0.8, 0.86), (-0.8, 0.86), (-0.88, 0.78))),
        (_DARK, _polygon((-0.69, -0.24), (0.69, -0.24), (0.72, -0.06), (0.12, 0.26), (-0.12, 0.26), (-0.72, -0.06))),
        (_LIGHT, _box(-0.13, 0.1, 0.13, 0.36, 0.08)),
    )


def _shirt() -> Sequence[_Part]:
    collar = [(float(x), float(y)) for x, y in _arc(0, -0.82, 0.28, 0.24, 0, 180)]
    left = [(-0.5, -0.78), (-1.0, -0.32), (-0.76, 0.02), (-0.54, -0.14), (-0.54, 0.86)]
    return (
        (_BODY, _polygon(*collar, *left, *((-x, y) for x, y in reversed(left)))),
        (_DARK, _band(0, -0.82, 0.31, 0.27, 0.1, 0, 180)),
        (_DARK, _bar(-0.94, -0.36, -0.7, -0.02, 0.09)),
        (_DARK, _bar(0.94, -0.36, 0.7, -0.02, 0.09)),
    )


def _lamp() -> Sequence[_Part]:
    return (
        (_DARK, _bar(0, -0.1, 0, 0.85, 0.14)),
        (_DARK, np.concatenate([_arc(0, 0.9, 0.46, 0.2, 180, 360), _arc(0, 0.9, 0.46, 0.06, 0, 180)])),
        (_BODY, np.concatenate([_arc(0, 0.0, 0.82, 0.1, 0, 180), _arc(0, -0.92, 0.4, 0.05, 180, 360)])),
    )


def _hat() -> Sequence[_Part]:
    crown = [(-0.56, 0.34), (-0.5, -0.36), (-0.36, -0.58), (-0.14, -0.56), (0, -0.48), (0.14, -0.56), (0.36, -0.58)]
    return (
        (_BODY, _arc(0, 0.34, 1.0, 0.24, 0, 351)),
        (_BODY, _polygon(*crown, (0.5, -0.36), (0.56, 0.34), (0.3, 0.42), (-0.3, 0.42))),
        (_DARK, _polygon((-0.54, 0.1), (0.54, 0.1), (0.57, 0.34), (0.3, 0.42), (-0.3, 0.42), (-0.57, 0.34))),
    )


def _chair() -> Sequence[_Part]:
    shade = 100  # the legs are too thin to bear _DARK
    return (
        (shade, _bar(-0.44, 0.2, -0.54, 0.96, 0.18)),
        (shade, _bar(0.0, 0.2, 0.04, 0.84, 0.14)),
        (shade, _bar(0.54, 0.2, 0.66, 0.96, 0.18)),
        (_BODY, _polygon((-0.66, -0.98), (-0.38, -1.0), (-0.22, 0.1), (-0.5, 0.1))),
        (_BODY, _box(-0.54, 0.0, 0.7, 0.32, 0.12)),
    )


_DRAWINGS: dict[str, Callable[[], Sequence[_Part]]] = {
    "mug": _mug,
    "bottle": _bottle,
    "shoe": _shoe,
    "bag": _bag,
    "shirt": _shirt,
    "lamp": _lamp,
    "hat": _hat,
    "chair": _chair,
}


@cache
def _parts(object: str) -> tuple[_Part, ...]:  # noqa: A002
    """An object's parts from back to front."""
    return tuple(_DRAWINGS[object]())
