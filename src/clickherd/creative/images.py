"""Images of any kind as pixels of one size, and pixels as files: one image opened and fitted, contact sheets, PNG.

Shapes: N images, S their side, 3 the channels red, green, blue.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from clickherd.data.locate import reading
from clickherd.errors import DataError, RunError

Fit = Literal["crop", "pad"]

# What Pillow's readers raise on damaged files, beside its own exceptions
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error, zlib.error)
_SHOWN = 128  # pixels that a contact sheet gives a small image at least
_FONT_SIZE, _LINE, _GAP = 13, 16, 4  # pixels
_MOST_LINES = 4  # of a column's title


def open_image(
    path_or_bytes: str | Path | bytes,
    size: int,
    *,
    name: str,
    background: tuple[int, int, int] = (255, 255, 255),
    fit: Fit = "crop",
) -> npt.NDArray[np.uint8]:
    """One image as uint8 (3, size, size), whatever its format, mode and orientation; of an animation the first frame.

    Args:
        path_or_bytes: a file, or what is in one.
        size: side of the result in pixels.
        name: what the user knows the image by; errors name it.
        background: red, green and blue under what is transparent and around what is padded.
        fit: "crop" keeps the middle square, "pad" the whole image.

    Raises:
        DataError: no image, a damaged or empty one, one of too many pixels to be safe to open, or one whose shorter
            side is less than half of `size`.
    """
    if isinstance(path_or_bytes, bytes):
        data = path_or_bytes
    else:
        with reading(name):
            data = Path(path_or_bytes).read_bytes()
    if not data:
        raise DataError("the image is empty (0 bytes)", file=name, mend="Copy it again, or leave it out.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities that it goes on after
        try:
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image, size, name)
                image.draft(None, (2 * size, 2 * size))  # lets JPEG decode at a fraction of its size
                rgb = _as_rgb(ImageOps.exif_transpose(image), background)
                fitted = _cropped(rgb, size) if fit == "crop" else _padded(rgb, size, background)
        except DataError:
            raise
        except Image.DecompressionBombError:
            mend = "Make it smaller, or leave it out."
            raise DataError("the image has too many pixels to be safe to open", file=name, mend=mend) from None
        except UnidentifiedImageError:
            mend = "Save it as PNG or JPEG, or leave it out."
            raise DataError("not an image of a known format", file=name, mend=mend) from None
        except _DAMAGED as error:
            said = str(error).strip().rstrip(".") or type(error).__name__
            raise DataError(
                f"the image is damaged or cut short: {said}", file=name, mend="Copy it again, or leave it out."
            ) from None
    return np.ascontiguousarray(np.asarray(fitted).transpose(2, 0, 1))


def contact_sheet(
    images_N3SS: npt.NDArray[np.uint8],
    columns: int,
    *,
    scale: int | None = None,
    row_titles: Sequence[str] | None = None,
    col_titles: Sequence[str] | None = None,
) -> Image.Image:
    """Images (N, 3, S, S) side by side, row by row, with titles at the left and on top.

    Args:
        images_N3SS: red, green and blue of 0 to 255.
        columns: images in a row.
        scale: how often each pixel is repeated; by default an image takes about 128 pixels.
        row_titles: one per row. Titles are wrapped, and cut where they would not fit.
        col_titles: one per column.

    Raises:
        ValueError: no image, or `columns` or `scale` below 1.
    """
    if not len(images_N3SS) or columns < 1 or (scale is not None and scale < 1):
        raise ValueError(f"{len(images_N3SS)} images, columns = {columns}, scale = {scale}: each is 1 or more")
    side = images_N3SS.shape[-1]
    scale = scale or max(1, round(_SHOWN / side))
    cell = side * scale
    rows = -(-len(images_N3SS) // columns)
    # Pillow's own font has no Greek letters and no arrows
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), _FONT_SIZE)
    tops = [_wrapped(title, cell, _MOST_LINES, font) for title in (col_titles or ())[:columns]]
    gutter = max(cell, _SHOWN) if row_titles else 0
    lefts = [_wrapped(title, gutter, max(1, cell // _LINE), font) for title in (row_titles or ())[:rows]]
    gutter = _GAP + max((_width(line, font) + 2 * _GAP for lines in lefts for line in lines), default=0)
    head = _GAP + max((len(lines) * _LINE + _GAP for lines in tops), default=0)

    step = cell + _GAP
    sheet = Image.new("RGB", (gutter + columns * step, head + rows * step), "white")
    pen = ImageDraw.Draw(sheet)
    for k, image_3SS in enumerate(images_N3SS):
        picture = Image.fromarray(np.ascontiguousarray(image_3SS.transpose(1, 2, 0)))
        row, column = divmod(k, columns)
        place = (gutter + column * step, head + row * step)
        sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), place)
    for column, lines in enumerate(tops):
        top = head - _GAP - len(lines) * _LINE
        for k, line in enumerate(lines):
            pen.text((gutter + column * step + (cell - _width(line, font)) // 2, top + k * _LINE), line, "black", font)
    for row, lines in enumerate(lefts):
        top = head + row * step + (cell - len(lines) * _LINE) // 2
        for k, line in enumerate(lines):
            pen.text((gutter - 2 * _GAP - _width(line, font), top + k * _LINE), line, "black", font)
    return sheet


def to_png(image_3SS: npt.NDArray[np.uint8]) -> bytes:
    """An image (3, S, S) of 0 to 255 as the bytes of a PNG file.

    Raises:
        DataError: it has another shape or type.
    """
    if image_3SS.ndim != 3 or image_3SS.shape[0] != 3 or image_3SS.dtype != np.uint8:
        raise DataError(
            f"an image of shape {image_3SS.shape} and type {image_3SS.dtype}", mend="Give uint8 of shape (3, S, S)."
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_3SS.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def save_png(image_3SS: npt.NDArray[np.uint8], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write an image (3, S, S) of 0 to 255 beside `path`, then rename: never half a file. `notes` are texts in the PNG.

    Raises:
        RunError: the disk is full or cannot be written; what stood at `path` still stands.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        for name, text in (notes or {}).items():
            info.add_text(name, text)
        Image.fromarray(np.ascontiguousarray(image_3SS.transpose(1, 2, 0))).save(beside, "PNG", pnginfo=info)
        os.replace(beside, path)  # noqa: PTH105  (atomic, also over an existing file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"cannot write: {error}", file=path, mend="Free some space or choose another --out.") from error


def _check_size(image: Image.Image, size: int, name: str) -> None:
    need = -(-size // 2)
    if min(image.size) < need:
        raise DataError(
            f"the image is too small: {image.width} × {image.height} pixels, where size = {size} needs {need} × {need}",
            file=name,
            mend="Find a larger one, choose a smaller size, or leave it out.",
        )


def _as_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_bytes(np.asarray(image, np.float64)))
    if image.has_transparency_data:
        under = Image.new("RGBA", image.size, background)
        return Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_bytes(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Numbers of 32 bits: their full scale is the smallest usual one that holds them all."""
    most = float(np.nan_to_num(grey).max(initial=0))
    full = next((full for full in (1.0, 255.0, 65535.0) if most <= full), most)
    return (np.nan_to_num(grey).clip(0) * (255 / full)).round().astype(np.uint8)


def _cropped(image: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def _padded(image: Image.Image, size: int, background: tuple[int, int, int]) -> Image.Image:
    longer = max(image.size)
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    canvas = Image.new("RGB", (size, size), background)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas.paste(small, ((size - width) // 2, (size - height) // 2))
    return canvas


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(-(-font.getlength(text) // 1))


def _wrapped(text: str, width: int, most_lines: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines no wider than `width` pixels; what does not fit into `most_lines` is cut off with three dots."""
    lines: list[str] = []
    for word in " ".join(text.split()).split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if not lines or _width(joined, font) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    cut = len(lines) > most_lines
    lines = lines[:most_lines]
    return [_clipped(line, width, font, cut and k == most_lines - 1) for k, line in enumerate(lines)]


def _clipped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, goes_on: bool) -> str:
    if not goes_on and _width(text, font) <= width:
        return text
    while text and _width(text + "...", font) > width:
        text = text[:-1]
    return text.rstrip() + "..."
