"""Where images and captions come from: files and folders of each kind, and what is told of those that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from clickherd.creative.dataset import ImageSet
from clickherd.creative.sources import DataConfig
from clickherd.errors import ConfigError, DataError
from clickherd.settings import validated
from creative_images import GREYS, greys, png, write_images, write_parquet


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


def test_settings_out_of_range_are_errors_in_words() -> None:
    with pytest.raises(ConfigError, match=r"size = 36: .*multiple of 8"):
        validated(DataConfig, {"size": 36})
    with pytest.raises(ConfigError, match="background = 'pinkish': give white, black, grey or #rrggbb"):
        validated(DataConfig, {"background": "pinkish"})
    with pytest.raises(ConfigError, match="bring their own validation images"):
        validated(DataConfig, {"valid": "photos"})
    assert DataConfig(background="#0a0B0c").background_rgb == (10, 11, 12)
