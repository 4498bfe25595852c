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

        Pictures that were saved there before with another sheet are removed.
        """
        folder = Path(folder)
        files = [folder / "sheet.png"]
        before = set(folder.glob("[0-9][0-9]-[0-9][0-9].png")) if files[0].exists() else set()
        self.save_sheet(files[0])
        for i, row in enumerate(self.images):
            for k, image in enumerate(row):
                files.append(folder / f"{i + 1:02}-{k + 1:02}.png")
                save_png(image, files[-1])
        for stale in before.difference(files):
            stale.unlink()
        return files

    def save_sheet(self, file: Path) -> None:
        """Write the contact sheet as a PNG."""
        save_png(np.asarray(self.sheet()).transpose(2, 0, 1), file)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.sheet().save(buffer, "PNG")
        return buffer.getvalue()
