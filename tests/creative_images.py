"""Grey squares in files of every kind, for tests that read image sets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from clickherd.creative.dataset import ImageSet

GREYS = (10, 60, 110, 160, 210)


def png(grey: int, size: int = 16) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size), grey).save(file, "PNG")
    return file.getvalue()


def write_images(folder: Path, names: Sequence[str]) -> None:
    for name, grey in zip(names, GREYS, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(grey))


def write_parquet(path: Path, images: Sequence[Any], captions: Sequence[str | None], **columns: Any) -> None:
    pq.write_table(pa.table({"image": images, "caption": captions, **columns}), path, row_group_size=2)


def greys(images: ImageSet) -> list[int]:
    return [int(image.mean()) for image in images.images]
