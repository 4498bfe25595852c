"""Images with captions from wherever they lie: what is read, what is skipped and told, and when it is read again."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clickherd.creative import dataset, products
from clickherd.creative.dataset import ImageSet, encode
from clickherd.creative.sources import HELD_OUT, TRAIN, VALID, DataConfig
from clickherd.errors import ConfigError, DataError, RunError
from clickherd.settings import validated

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


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ImageSet]:
    """`read(source, setting=…)`, in a folder of the test's own; what was announced is in `read.told`."""

    def call(source: Path | str, folder: str = "encoded", seed: int = 0, **settings: Any) -> ImageSet:
        config = DataConfig(source=str(source), size=8, **settings)
        call.told = []
        return encode(config, tmp_path / folder, seed, call.told.append)

    return call


def greys(images: ImageSet) -> list[int]:
    return [int(image.mean()) for image in images.images]


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


def test_structs_of_bytes_and_path_globs_and_a_validation_source(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    (tmp_path / "extra.png").write_bytes(png(77))
    structs = [{"bytes": png(10), "path": "x.png"}, {"bytes": png(60), "path": None}]
    write_parquet(tmp_path / "part-0.parquet", structs, ["a", "b"])
    write_parquet(tmp_path / "part-1.parquet", [structs[0], {"bytes": None, "path": "extra.png"}], ["c", "d"])
    write_parquet(tmp_path / "valid.parquet", [png(110), png(160)], ["e", "f"])
    images = read(tmp_path / "part-*.parquet", valid=str(tmp_path / "valid.parquet"))
    assert greys(images) == [10, 60, 10, 77, 110, 160]
    assert images.split.tolist() == [0, 0, 0, 0, 1, 1]


def test_captions_from_words_with_columns_in_braces(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    path = tmp_path / "a.parquet"
    columns = {"class name": ["hat", "shoe", None], "size": [3, 4, 5], "tags": [["x", "y"], [""], ["z"]]}
    write_parquet(path, [png(g) for g in GREYS[:3]], ["", "", ""], **columns)
    images = read(path, caption="a {class name} of size {size}")
    assert images.captions == ["a hat of size 3", "a shoe of size 4"]
    assert images.skipped == [("a.parquet row 3", "no caption, for 'class name' is empty")]
    assert read(path, "tags", caption="tags").captions == ["x", "z"]


def test_missing_columns_are_errors_that_name_the_file_and_the_likely_column(
    tmp_path: Path, read: Callable[..., ImageSet]
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [png(10)] * 2, ["a", "b"], label=["x", "y"])
    with pytest.raises(DataError, match=r"a\.parquet, column 'lable'.*Did you mean 'label'.*--caption"):
        read(path, caption="a photo of a {lable}")
    with pytest.raises(DataError, match=r"a\.parquet, column 'text'.*Valid names: caption, image, label"):
        read(path, caption="text")
    with pytest.raises(DataError, match=r"a\.parquet, column 'lable'.*Did you mean 'label'.*--label"):
        read(path, labels=("lable",))
    with pytest.raises(DataError, match=r"a\.parquet, column 'jpg'.*Name a column of bytes \(--image\): image\."):
        read(path, image="jpg")
    with pytest.raises(DataError, match=r"string instead of an image's bytes .*column 'label'.*: image\."):
        read(path, image="label")
    with pytest.raises(DataError, match=r"column 'kind'.*Valid names: background, caption, colour"):
        read("products", labels=("kind",))
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_sources_that_are_not_there_or_no_images_are_errors(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    with pytest.raises(DataError, match=r"no such file or folder .*nowhere.*products"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no file matches"):
        read(tmp_path / "*.parquet")
    (tmp_path / "a.csv").write_text("a,b")
    with pytest.raises(DataError, match="not a Parquet file"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_text("a,b")
    with pytest.raises(DataError, match=r"a\.parquet"):
        read(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"no images .*metadata\.csv.*\.txt beside.*sub-folder per class.*\.webp"):
        read(tmp_path / "folder")
    write_images(tmp_path / "folder", ["a.png"])
    with pytest.raises(DataError, match=r"1 images in the folder, and no captions"):
        read(tmp_path / "folder")


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


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("metadata.csv", 'file_name,caption\na.png,"one, two"\nsub/b.png,three\n'),
        ("metadata.jsonl", '{"file_name":"a.png","caption":"one, two"}\n{"file_name":"sub/b.png","caption":"three"}\n'),
        ("captions.csv", 'caption,image\n"one, two",a.png\nthree,sub/b.png\n'),
        ("captions.tsv", "path\tcaption\na.png\tone, two\nsub/b.png\tthree\n"),
        ("captions.txt", "file\tcaption\na.png\tone, two\nsub/b.png\tthree\n"),
        ("captions.txt", '\ufefffile,caption\na.png,"one, two"\nsub/b.png,three\n'),
    ],
)
def test_folders_with_a_table_of_captions(tmp_path: Path, read: Callable[..., ImageSet], table: str, text: str) -> None:
    write_images(tmp_path / "in", ["a.png", "sub/b.png", "unnamed.png"])
    (tmp_path / "in" / table).write_text(text, encoding="utf-8")
    images = read(tmp_path / "in")
    assert images.captions == ["one, two", "three"]
    assert images.names == ["a.png", "sub/b.png"]
    assert greys(images) == [10, 60]


def test_tables_with_columns_of_other_names_and_labels(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png"])
    frame = pl.DataFrame({"photo": ["a.png", "b.png"], "text": ["one", "two"], "year": [2020, 2021]})
    frame.write_parquet(tmp_path / "in" / "metadata.parquet")
    images = read(tmp_path / "in", image="photo", caption="text", labels=("year",))
    assert images.captions == ["one", "two"]
    assert images.values == {"year": ["2020", "2021"]}
    with pytest.raises(DataError, match=r"no column of file names among photo, text, year .*file_name, file, image"):
        read(tmp_path / "in")
    with pytest.raises(DataError, match=r"metadata\.parquet, column 'caption'"):
        read(tmp_path / "in", image="photo")


def test_files_named_twice_and_files_that_are_not_there_are_skipped(
    tmp_path: Path, read: Callable[..., ImageSet]
) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png"])
    rows = ["a.png,one", "a.png,again", "a.png,and again", "b.png,two", "c.png,three", ",four"]
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]))
    images = read(tmp_path / "in")
    assert images.captions == ["one", "two"]
    assert images.skipped == [
        ("a.png (metadata.csv row 2)", "named again"),
        ("a.png (metadata.csv row 3)", "named again"),
        ("c.png (metadata.csv row 5)", "no such file"),
        ("metadata.csv row 6", "no image"),
    ]


def test_folders_with_a_text_beside_each_image(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    write_images(tmp_path / "in", ["a.png", "sub/b.JPG", "c.png", ".hidden/d.png"])
    (tmp_path / "in" / "a.txt").write_text("one\n")
    (tmp_path / "in" / "sub" / "b.txt").write_text("two")
    (tmp_path / "in" / "README.txt").write_text("about")
    images = read(tmp_path / "in")
    assert images.captions == ["one", "two"]
    assert images.skipped == [("c.png", "no caption")]


def test_folders_with_a_sub_folder_per_class(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    write_images(tmp_path / "in", ["dress/a.png", "t-shirt/b.png", "t-shirt/c.png", "train/long_sleeve/d.png"])
    images = read(tmp_path / "in", labels=("class",))
    assert images.captions == ["dress", "t shirt", "t shirt", "long sleeve"]
    assert images.values == {"class": ["dress", "long sleeve", "t shirt"]}
    assert images.labels["class"].tolist() == [0, 2, 2, 1]
    assert read(tmp_path / "in", "b", caption="a photo of a {class}").captions[0] == "a photo of a dress"
    with pytest.raises(DataError, match=r"sub-folder per class.*column 'kind'.*Valid names: caption, class"):
        read(tmp_path / "in", caption="{kind}")


def test_folders_of_parquet_files(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    (tmp_path / "in" / "data").mkdir(parents=True)
    write_parquet(tmp_path / "in" / "data" / "train-0.parquet", [png(10), png(60)], ["a", "b"])
    assert read(tmp_path / "in").captions == ["a", "b"]


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


def test_settings_out_of_range_are_errors_in_words() -> None:
    with pytest.raises(ConfigError, match=r"size = 36: .*multiple of 8"):
        validated(DataConfig, {"size": 36})
    with pytest.raises(ConfigError, match="background = 'pinkish': give white, black, grey or #rrggbb"):
        validated(DataConfig, {"background": "pinkish"})
    with pytest.raises(ConfigError, match="bring their own validation images"):
        validated(DataConfig, {"valid": "photos"})
    assert DataConfig(background="#0a0B0c").background_rgb == (10, 11, 12)


def test_real_images_are_read(real_data: Path, read: Callable[..., ImageSet]) -> None:
    path = real_data / "images" / "clothing_small_96_validation.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    images = read(path, image="jpg_96", caption="a photo of a {label}", labels=("label",))
    assert len(images) == 341
    assert len(images.values["label"]) == 10
    emoji = read(real_data / "images" / "emojione_v2_64.parquet", "emoji", image="png", caption="name")
    assert len(emoji) == 1832


def test_a_file_whose_first_row_has_no_caption_takes_that_of_a_later_one(
    tmp_path: Path, read: Callable[..., ImageSet]
) -> None:
    write_images(tmp_path / "in", ["a.png", "b.png"])
    rows = ["a.png,", "a.png,one", "b.png,two", "a.png,again"]
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(["file_name,caption", *rows]))
    images = read(tmp_path / "in")
    assert images.captions == ["one", "two"]
    assert images.skipped == [
        ("a.png (metadata.csv row 1)", "no caption"),
        ("a.png (metadata.csv row 4)", "named again"),
    ]
