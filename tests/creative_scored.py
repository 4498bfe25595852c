"""Short evaluations of tiny runs, and image sets of a user's own to run them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from clickherd.creative import evaluation as module
from clickherd.creative import page
from clickherd.creative.evaluation import evaluate


def make_few(patch: pytest.MonkeyPatch) -> None:
    """Few pictures for each score and sheet."""
    for name, few in (("EDITED", 4), ("PROMPTS", 2), ("SAMPLES", 2), ("THETAS", (0.25, 0.5))):
        patch.setattr(module, name, few)
    for name in ("PROMPTS", "EACH", "COPIES"):
        patch.setattr(page, name, 2)


def quickly(folder: Path, **more: Any) -> dict[str, Any]:
    steps = {"prior_steps": 2, "decoder_steps": 2, "invert_steps": 2, "candidates": 1}
    return evaluate(folder, **{"number": 6, "sample": steps, "threads": 1, **more})


def write_set(folder: Path, captions: list[str], **labels: list[Any]) -> Path:
    """Images whose colour is that of the caption's number, in a folder with metadata.csv."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    places = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    for i, caption in enumerate(captions):
        colour = np.array([60 * (places[caption] % 3), 25 * (places[caption] % 7), 90])
        pixels = rng.integers(0, 60, (16, 16, 3)) + colour
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:04}.png")
    names = [f"{i:04}.png" for i in range(len(captions))]
    pl.DataFrame({"file_name": names, "caption": captions, **labels}).write_csv(folder / "metadata.csv")
    return folder


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
