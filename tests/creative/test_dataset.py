"""Encoded image sets: what is kept, what is skipped and told, and when it is read again."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clickherd.creative import dataset, products
from clickherd.creative.dataset import ImageSet
from clickherd.creative.sources import HELD_OUT, TRAIN, VALID
from clickherd.errors import DataError, RunError
from creative_images import GREYS, greys, png, write_images, write_parquet


def test_the_built_in_products_come_with_validation_and_held_out_combinations(read: Callable[..., ImageSet]) -> None:
    images = read("products", number=120, valid_fraction=0.25)
    assert images.images.shape == (120 + 30 + 96, 3, 8, 8)
    assert isinstance(images.images, np.memmap)
    assert [len(images.rows(split)) for split in (TRAIN, VALID, HELD_OUT)] == [120, 30, 96]
    assert set(images.labels) == {"object", "colour", "background", "position"}
    pairs = [
        (images.values["object"][o], images.values["colour"][c])
        for o, c in zip(images.labels["object"], images.labels["colour"], strict=True)
    ]
    assert {pairs[k] for k in images.rows(HELD_OUT)} == products.HELD_OUT
    assert not {pairs[k] for k in [*images.rows(TRAIN), *images.rows(VALID)]} & products.HELD_OUT
    object_, colour = pairs[7]
    assert f"{colour} {object_} " in images.captions[7]
    drawn = [image for _, image in products.drawn(120, 8, 0)]
    assert np.array_equal(images.images[7], drawn[7].transpose(2, 0, 1))
    assert not np.array_equal(images.images[0], images.images[120])
    assert read.told[-1] == "120 images of 8 × 8 pixels for training, 30 for validation, 96 of held-out combinations"


def test_products_take_templates_and_few_of_them_still_have_validation(read: Callable[..., ImageSet]) -> None:
    images = read("products", number=4, caption="{colour} {object}", labels=("colour",))
    assert len(images.rows(VALID)) == 2
    assert list(images.labels) == ["colour"]
    assert images.captions[0].split() == [
        images.values["colour"][images.labels["colour"][0]],
        images.captions[0].split()[1],
    ]


def test_a_parquet_file_with_labels_and_a_drawn_validation_set(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    path = tmp_path / "log.parquet"
    write_parquet(path, [png(g) for g in GREYS], [f"  grey\n {g}" for g in GREYS], kind=["b", None, "a", "b", "c"])
    images = read(path, labels=("kind",), valid_fraction=0.4)
    assert greys(images) == list(GREYS)
    assert images.captions == [f"grey {g}" for g in GREYS]
    assert images.names[4] == "log.parquet row 5"
    assert images.values == {"kind": ["a", "b", "c"]}
    assert images.labels["kind"].tolist() == [1, -1, 0, 1, 2]
    assert len(images.rows(VALID)) == 2
    assert len(images.rows(TRAIN)) == 3
    assert (read(path, "again", 0, valid_fraction=0.4).split == images.split).all()
    assert not len(read(path, "none", valid_fraction=0).rows(VALID))


def test_unusable_rows_are_skipped_counted_and_listed(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    path = tmp_path / "a.parquet"
    broken = [png(10)[:50], png(10, size=3), None, png(10)]
    write_parquet(path, [*map(png, GREYS), *broken], [*"abcde", "f", "g", "h", " "])
    images = read(path)
    assert greys(images) == list(GREYS)
    assert images.captions == list("abcde")
    names, reasons = zip(*images.skipped, strict=True)
    assert names == tuple(f"a.parquet row {k}" for k in (6, 7, 8, 9))
    assert "too small: 3 × 3" in reasons[1]
    assert reasons[2:] == ("no image", "no caption")
    told = read.told[-1]
    assert told.startswith("skipped 4 of 9 rows (a.parquet row 6: ")
    assert "row 8" in told
    assert "row 9" not in told
    assert told.endswith(f"all are in {tmp_path / 'encoded' / 'facts.json'}")
    assert len(json.loads((tmp_path / "encoded" / "facts.json").read_text())["skipped"]) == 4


def test_more_unusable_rows_than_usable_ones_are_an_error(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [png(1), png(2), b"no", b"", b"no"], list("abcde"))
    with pytest.raises(DataError, match=r"3 of 5 images .* not an image of a known format \(file a\.parquet row 3\)"):
        read(path)
    write_parquet(path, [png(1)], ["a"])
    with pytest.raises(DataError, match="1 images, where training needs 2"):
        read(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_background_and_fit_are_used(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), "red").save(file, "PNG")
    path = tmp_path / "a.parquet"
    write_parquet(path, [file.getvalue()] * 2, ["a", "b"])
    padded = read(path, background="#0000ff", fit="pad")
    assert padded.images[0, :, 0, 0].tolist() == [0, 0, 255]
    assert read(path, "crop").images[0, :, 0, 0].tolist() == [255, 0, 0]


def test_encoded_images_are_used_again_until_something_changes(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [png(10), png(60)], ["a", "b"])
    first = read(path)
    again = read(path)
    assert read.told == [f"the images in {tmp_path / 'encoded'} are up to date"]
    assert again.captions == first.captions
    assert (again.split == first.split).all()

    write_parquet(path, [png(110), png(160)], ["c", "d"])
    os.utime(path, ns=(1, 1))
    assert read(path).captions == ["c", "d"]
    assert greys(read(path)) == [110, 160]
    read(path, seed=1)
    assert len(read.told) > 1
    read(path, seed=1, caption="{caption}!")
    assert len(read.told) > 1
    (tmp_path / "encoded" / "images.npy").unlink()
    assert greys(read(path, seed=1, caption="{caption}!")) == [110, 160]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "encoded"]


def test_a_changed_image_in_a_folder_is_noticed(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    write_images(tmp_path / "in", ["x/a.png", "x/b.png"])
    assert greys(read(tmp_path / "in")) == [10, 60]
    (tmp_path / "in" / "x" / "b.png").write_bytes(png(200))
    os.utime(tmp_path / "in" / "x" / "b.png", ns=(1, 1))
    assert greys(read(tmp_path / "in")) == [10, 200]


def test_after_a_failure_the_old_images_still_stand_and_nothing_else(
    tmp_path: Path, read: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [png(10), png(60)], ["a", "b"])
    read(path)
    write_parquet(path, [b"no", b"no", png(1)], ["a", "b", "c"])
    with pytest.raises(DataError, match="2 of 3 images"):
        read(path)
    write_parquet(path, [png(1), png(2)], ["c", "d"])
    os.utime(path, ns=(1, 1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "write_text", full)
    with pytest.raises(RunError, match="No space left"):
        read(path)
    assert ImageSet.load(tmp_path / "encoded").captions == ["a", "b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "encoded"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    (tmp_path / "encoded").mkdir()
    (tmp_path / "encoded" / "thesis.txt").write_text("all of it")
    with pytest.raises(RunError, match="something else than encoded images"):
        read("products", number=4)
    assert (tmp_path / "encoded" / "thesis.txt").exists()


def test_loading_what_is_missing_or_damaged_is_an_error(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    with pytest.raises(RunError, match="no encoded images"):
        ImageSet.load(tmp_path)
    read("products", number=4)
    path = tmp_path / "encoded" / "images.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match="damaged"):
        ImageSet.load(tmp_path / "encoded")


def test_real_images_are_read(real_data: Path, read: Callable[..., ImageSet]) -> None:
    path = real_data / "images" / "clothing_small_96_validation.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    images = read(path, image="jpg_96", caption="a photo of a {label}", labels=("label",))
    assert len(images) == 341
    assert len(images.values["label"]) == 10
    emoji = read(real_data / "images" / "emojione_v2_64.parquet", "emoji", image="png", caption="name")
    assert len(emoji) == 1832
