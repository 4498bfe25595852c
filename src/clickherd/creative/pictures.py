"""Pictures that were made, in rows and columns, with what each row and column is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clickherd.creative.images import contact_sheet, save_png

NOTE = "clickherd"  # text in a sheet's PNG: how many rows and columns of pictures lie beside it


@dataclass(frozen=True)
class Pictures:
    """uint8 images (rows, columns, 3, S, S). Shows itself in a notebook."""

    images: npt.NDArray[np.uint8]
    rows: list[str]
    columns: list[str]

    @classmethod
    def of(cls, images_u8: npt.NDArray[np.uint8], rows: Sequence[str], columns: Sequence[str]) -> Pictures:
        """From images (rows · columns, 3, S, S), row by row."""
        return cls(images_u8.reshape(len(rows), len(columns), *images_u8.shape[1:]), list(rows), list(columns))

    def sheet(self) -> Image.Image:
        """All of them on one contact sheet, with titles."""
        flat = self.images.reshape(-1, *self.images.shape[2:])
        return contact_sheet(flat, len(self.columns), row_titles=self.rows, col_titles=self.columns)

    def save(self, folder: str | Path) -> list[Path]:
        """Write sheet.png, and each picture as ROW-COLUMN.png; returns the files, the sheet first.

        The sheet knows how many pictures were saved with it: those of an earlier one that are no more are removed.
        """
        sheet = Path(folder) / "sheet.png"
        files = [sheet, *_files(sheet, len(self.rows), len(self.columns))]
        stale = set(_saved_with(sheet)).difference(files)
        for image, file in zip(self.images.reshape(-1, *self.images.shape[2:]), files[1:], strict=True):
            save_png(image, file)
        self.save_sheet(sheet)
        for file in stale:
            file.unlink(missing_ok=True)
        return files

    def save_sheet(self, file: Path) -> None:
        """Write the contact sheet as a PNG."""
        note = {NOTE: f"{len(self.rows)} {len(self.columns)}"}
        save_png(np.asarray(self.sheet()).transpose(2, 0, 1), file, note)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.sheet().save(buffer, "PNG")
        return buffer.getvalue()


def _files(sheet: Path, rows: int, columns: int) -> list[Path]:
    return [sheet.with_name(f"{i + 1:02}-{k + 1:02}.png") for i in range(rows) for k in range(columns)]


def _saved_with(sheet: Path) -> list[Path]:
    """The pictures that were saved with a sheet; none of a file that is no sheet of ours."""
    try:
        with Image.open(sheet) as image:
            rows, columns = str(image.info[NOTE]).split()
            return _files(sheet, int(rows), int(columns))
    except (OSError, KeyError, ValueError):
        return []
