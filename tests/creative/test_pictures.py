"""Pictures on disk and on the screen: what saving them again removes, and what it must not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from clickherd.creative.pictures import Pictures


def test_saving_again_leaves_no_pictures_of_before_and_whatever_else_lies_there(tmp_path: Path) -> None:
    images = np.zeros((101, 3, 8, 8), dtype=np.uint8)
    for name in ("12-24.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"the user's own")
    Pictures.of(images, ["a"], [str(k) for k in range(101)]).save(tmp_path)
    assert (tmp_path / "01-101.png").exists()
    Pictures.of(images[:6], ["a", "b"], ["1", "2", "3"]).save(tmp_path)
    Pictures.of(images[:2], ["a"], ["1", "2"]).save(tmp_path)
    left = ["01-01.png", "01-02.png", "12-24.png", "notes.txt", "sheet.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_a_sheet_of_somebody_else_says_nothing_about_what_lies_beside_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "sheet.png")
    (tmp_path / "01-02.png").write_bytes(b"the user's own")
    Pictures.of(np.zeros((1, 3, 8, 8), dtype=np.uint8), ["a"], ["1"]).save(tmp_path)
    assert (tmp_path / "01-02.png").exists()


def test_pictures_show_themselves_in_a_notebook() -> None:
    images = np.arange(2 * 3 * 3 * 8 * 8, dtype=np.uint8).reshape(6, 3, 8, 8)
    made = Pictures.of(images, ["one", "two"], ["a", "b", "c"])
    assert (made.images[1, 0] == images[3]).all()
    with Image.open(io.BytesIO(made._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert shown.size == made.sheet().size
