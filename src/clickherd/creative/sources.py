"""Where images and captions come from: the built-in products, Parquet files, folders of several kinds.

Each source gives rows of a name, an image as it lies there, and the cells that captions and labels are made of.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator, model_validator

from clickherd.creative import products
from clickherd.creative.images import Fit
from clickherd.data.locate import reading
from clickherd.errors import DataError, did_you_mean
from clickherd.settings import Settings

TRAIN, VALID, HELD_OUT = 0, 1, 2
PRODUCTS = "products"  # the name of the built-in source

_BATCH = 256  # rows of a Parquet file in memory at a time
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "captions.csv", "captions.tsv", "captions.txt")
_FILE_COLUMNS = ("file_name", "file", "image", "path")
_BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
_BRACES = re.compile(r"\{([^{}]+)\}")
_FEWEST_HELD_OUT = 96  # every held-out combination of the built-in products once


class DataConfig(Settings):
    """Where images and captions come from, and what becomes of them."""

    source: str = Field(
        PRODUCTS,
        description="products is the built-in generator; otherwise a Parquet file, a glob of such, or a folder of "
        "images with metadata.csv|jsonl|parquet or captions.csv|tsv|txt, a .txt beside each, or a sub-folder per class",
    )
    valid: str | None = Field(None, description="a source for validation; without one, part of the first is held out")
    size: int = Field(32, ge=8, le=1024, multiple_of=8, description="side of the images in pixels")
    image: str = Field("image", description="column with the bytes of the images, or with a struct of bytes and path")
    caption: str = Field(
        "caption",
        min_length=1,
        description='column of the captions, or words with columns in braces: "a photo of a {class_name}"',
    )
    labels: tuple[str, ...] = Field((), description="columns of classes that a judge of generated images may learn")
    background: str = Field(
        "white", description="under what is transparent, around what is padded: white, black, grey or #rrggbb"
    )
    fit: Fit = Field("crop", description="crop keeps an image's middle square, pad the whole image")
    number: int = Field(12_000, ge=2, description="training images that the built-in generator draws")
    valid_fraction: float = Field(0.1, ge=0, lt=1, description="part of the images held out where valid is not given")

    @field_validator("background")
    @classmethod
    def _is_a_colour(cls, value: str) -> str:
        if value not in _BACKGROUNDS and not re.fullmatch("#[0-9a-fA-F]{6}", value):
            raise ValueError("give white, black, grey or #rrggbb")
        return value

    @model_validator(mode="after")
    def _products_stand_alone(self) -> DataConfig:
        if self.valid is not None and PRODUCTS in (self.source, self.valid):
            raise ValueError(f"the built-in {PRODUCTS} bring their own validation images: leave valid out")
        return self

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """Red, green and blue of the background, 0 to 255."""
        if self.background in _BACKGROUNDS:
            return _BACKGROUNDS[self.background]
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


@dataclass(frozen=True)
class Row:
    """One image as it lies there: where, or its bytes, or its pixels (3, S, S); `fault` says why it does not count.

    `place` is the row of the table that names the file, if that is where it is named.
    """

    name: str
    picture: Path | bytes | npt.NDArray[np.uint8] | None
    cells: Mapping[str, Any]
    fault: str = ""
    place: str = ""

    @property
    def where(self) -> str:
        """What to look at when something is wrong with it."""
        return f"{self.name} ({self.place})" if self.place else self.name


@dataclass(frozen=True)
class Source:
    """Rows that can be read once or again, and the files whose change makes them other rows."""

    name: str
    files: Sequence[Path]
    rows: Callable[[], Iterator[Row]]


def text_of(cell: Any) -> str | None:
    """A cell as words, of a list the first entry; None for a missing or an empty one."""
    if isinstance(cell, list | tuple):
        return next((text for text in map(text_of, cell) if text), None)
    return None if cell is None else " ".join(str(cell).split()) or None


def caption_of(template: str, row: Row) -> str:
    """The row's caption: a column, or words with columns in braces.

    Raises:
        DataError: it is empty.
    """
    cells = {column: text_of(row.cells[column]) for column in _caption_columns(template, row.cells)}
    missing = [column for column, text in cells.items() if text is None]
    if missing:
        what = "no caption" if template in cells else f"no caption, for {missing[0]!r} is empty"
        raise DataError(what, file=row.where, column=missing[0], mend="Write one, or leave the row out.")
    if template in cells:
        return str(cells[template])
    return _BRACES.sub(lambda found: str(cells[found[1]]), template)


def _caption_columns(template: str, columns: Iterable[str]) -> list[str]:
    """The columns that a caption is made of: the one of that name, or those in braces."""
    return [template] if template in columns or not _BRACES.search(template) else _BRACES.findall(template)


def _needed(config: DataConfig, columns: Sequence[str], file: str) -> list[str]:
    """The columns of captions and labels.

    Raises:
        DataError: one of them is missing.
    """
    needed = [*_caption_columns(config.caption, columns), *config.labels]
    for column in needed:
        if column not in columns:
            if column in config.labels:
                settable = "Name labels among them (--label)."
            else:
                settable = "Name one of them (--caption), or give words with some of them in braces."
            mend = f"{did_you_mean(column, columns)} {settable}"
            raise DataError("no such column", file=file, column=column, mend=mend)
    return list(dict.fromkeys(needed))


def sources_of(config: DataConfig, seed: int) -> dict[int, Source]:
    """Split → where its rows come from."""
    if config.source == PRODUCTS:
        return _products(config, seed)
    sources = {TRAIN: _located(config.source, config)}
    if config.valid is not None:
        sources[VALID] = _located(config.valid, config)
    return sources


def _located(source: str, config: DataConfig) -> Source:
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, config)
    if path.is_file():
        return _parquet(source, [path], config)
    if glob.has_magic(source):
        matched = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matched:
            raise DataError("no file matches the pattern", file=source, mend="Check the pattern.")
        return _parquet(source, matched, config)
    mend = f"Name a Parquet file, a glob of such, a folder of images, or {PRODUCTS!r} for the built-in ones."
    raise DataError("no such file or folder", file=source, mend=mend)


def _products(config: DataConfig, seed: int) -> dict[int, Source]:
    _needed(config, [*products.Shot.__annotations__, "caption"], "the built-in products")

    def source(split: int, number: int) -> Source:
        def rows() -> Iterator[Row]:
            shots = products.drawn(number, config.size, 2 * seed + split % 2, heldout=split == HELD_OUT)
            for k, (shot, image_SS3) in enumerate(shots, 1):
                cells = {"caption": shot.caption, **vars(shot)}
                yield Row(f"{names[split]} {k}", image_SS3.transpose(2, 0, 1), cells)

        return Source("the built-in products", (), rows)

    names = {TRAIN: "training shot", VALID: "validation shot", HELD_OUT: "held-out shot"}
    numbers = {
        TRAIN: config.number,
        VALID: max(2, round(config.number * config.valid_fraction)) if config.valid_fraction > 0 else 0,
        HELD_OUT: max(_FEWEST_HELD_OUT, config.number // 12),
    }
    return {split: source(split, number) for split, number in numbers.items() if number}


def _parquet(name: str, paths: Sequence[Path], config: DataConfig) -> Source:
    needed: dict[Path, list[str]] = {}
    for path in paths:
        with reading(str(path)):
            if path.suffix.lower() not in (".parquet", ".pq"):
                mend = "Give a Parquet file, or a folder of images."
                raise DataError("not a Parquet file", file=path, mend=mend)
            schema = pq.read_schema(path)
        columns = _needed(config, schema.names, str(path))
        _check_image_column(schema, config.image, str(path))
        needed[path] = list(dict.fromkeys([config.image, *columns]))

    def rows() -> Iterator[Row]:
        for path, columns in needed.items():
            with reading(str(path)), pq.ParquetFile(path) as file:
                number = 0
                for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                    for cells in batch.to_pylist():
                        number += 1
                        yield Row(f"{path.name} row {number}", _picture(cells[config.image], path.parent), cells)

    return Source(name, paths, rows)


def _picture(cell: Any, folder: Path) -> bytes | Path | None:
    """Bytes, or the bytes or the file of a struct such as the `datasets` library writes."""
    if isinstance(cell, dict):
        path = cell.get("path")
        return cell["bytes"] if cell["bytes"] is not None else path and folder / path
    assert cell is None or isinstance(cell, bytes)
    return cell


def _check_image_column(schema: pa.Schema, column: str, file: str) -> None:
    def holds_bytes(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    candidates = [field.name for field in schema if holds_bytes(field.type)]
    mend = f"Name a column of bytes (--image): {', '.join(candidates) or 'there is none'}."
    if column not in schema.names:
        raise DataError("no such column", file=file, column=column, mend=f"{mend} {did_you_mean(column, schema.names)}")
    if column not in candidates:
        raise DataError(f"{schema.field(column).type} instead of an image's bytes", file=file, column=column, mend=mend)


def _folder(folder: Path, config: DataConfig) -> Source:
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is not None:
        return _with_table(folder, table, config)
    files = sorted(p for p in folder.rglob("*") if not any(part[0] == "." for part in p.relative_to(folder).parts))
    images = [path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file()]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    if any(path.with_suffix("") in texts for path in images):
        return _with_texts(folder, images, texts, config)
    if any(path.parent != folder for path in images):
        return _with_classes(folder, images, config)
    parquet = [path for path in files if path.suffix.lower() == ".parquet"]
    if parquet and not images:
        return _parquet(str(folder), parquet, config)
    raise DataError(
        f"{len(images):,} images in the folder, and no captions" if images else "no images in the folder",
        file=folder,
        mend=f"Looked for {', '.join(_TABLES[:-1])} or {_TABLES[-1]}, for a .txt beside each image, for a sub-folder "
        f"per class, and for Parquet files. Images end in {', '.join(sorted(_IMAGE_SUFFIXES))}.",
    )


def _with_table(folder: Path, table: Path, config: DataConfig) -> Source:
    frame = _read_table(table)
    texts = [column for column, kind in frame.schema.items() if kind == pl.String]
    file_column = next((column for column in (config.image, *_FILE_COLUMNS) if column in texts), None)
    if file_column is None:
        mend = f"Name the column of the images' files one of {', '.join(_FILE_COLUMNS)}, or give its name (--image)."
        raise DataError(f"no column of file names among {', '.join(frame.columns)}", file=table, mend=mend)
    kept = frame.select(list(dict.fromkeys([file_column, *_needed(config, frame.columns, str(table))])))
    named = frame[file_column].drop_nulls().unique(maintain_order=True)
    files = [path for path in (folder / name for name in named) if path.is_file()]

    def rows() -> Iterator[Row]:
        seen: set[str] = set()
        for number, cells in enumerate(kept.iter_rows(named=True), 1):
            name, place = cells[file_column], f"{table.name} row {number}"
            if not name:
                yield Row(place, None, cells)
                continue
            yield Row(name, folder / name, cells, "named again" if name in seen else "", place)
            if all(text_of(cells[column]) for column in _caption_columns(config.caption, cells)):
                seen.add(name)

    return Source(str(folder), [table, *files], rows)


def _read_table(table: Path) -> pl.DataFrame:
    try:
        with reading(str(table)):
            if table.suffix == ".parquet":
                return pl.read_parquet(table)
            if table.suffix == ".jsonl":
                return pl.read_ndjson(table, infer_schema_length=None)
            with table.open(encoding="utf-8", errors="replace") as file:
                header = file.readline()
            return pl.read_csv(table, separator="\t" if "\t" in header else ",", infer_schema=False)
    except pl.exceptions.PolarsError as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"cannot be read: {said}", file=table, mend="Open it in an editor and mend it.") from None


def _with_texts(folder: Path, images: Sequence[Path], texts: Mapping[Path, Path], config: DataConfig) -> Source:
    _needed(config, ["caption"], f"{folder} (images with a .txt beside each)")

    def rows() -> Iterator[Row]:
        for path in images:
            text = texts.get(path.with_suffix(""))
            caption = None
            if text is not None:
                with reading(str(text)):
                    caption = text.read_text(encoding="utf-8-sig", errors="replace")
            yield Row(str(path.relative_to(folder)), path, {"caption": caption})

    captions = [texts[path.with_suffix("")] for path in images if path.with_suffix("") in texts]
    return Source(str(folder), [*images, *dict.fromkeys(captions)], rows)


def _with_classes(folder: Path, images: Sequence[Path], config: DataConfig) -> Source:
    _needed(config, ["caption", "class"], f"{folder} (a sub-folder per class)")

    def rows() -> Iterator[Row]:
        for path in images:
            name = None if path.parent == folder else re.sub("[_-]+", " ", path.parent.name)
            yield Row(str(path.relative_to(folder)), path, {"caption": name, "class": name})

    return Source(str(folder), images, rows)
