"""A training set of images with captions: read from wherever it lies, fitted to one size and kept as one array.

Shapes: N images, S their side, 3 the channels red, green, blue.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from clickherd.checkpoint import new_folder, write_text
from clickherd.creative.images import open_image
from clickherd.creative.sources import (
    HELD_OUT,
    PRODUCTS,
    TRAIN,
    VALID,
    DataConfig,
    Row,
    Source,
    caption_of,
    sources_of,
    text_of,
)
from clickherd.data.locate import reading
from clickherd.errors import DataError, RunError

_FORMAT = 1  # of the encoded folder
_HEADER_BYTES = 128  # of images.npy
_LISTED = 3  # skipped rows that are announced


@dataclass(frozen=True)
class ImageSet:
    """Encoded images with their captions.

    `images` is uint8 (N, 3, S, S), mapped from disk, and `split` uint8 (N,): 0 training, 1 validation, 2 the built-in
    products' held-out pairs of object and colour. `labels` holds codes, int64 (N,), which count into `values`; −1 is
    a missing one. `skipped` pairs the names and places of rows that could not be used with the reason.
    """

    images: npt.NDArray[np.uint8]
    captions: list[str]
    names: list[str]
    labels: dict[str, npt.NDArray[np.int64]]
    values: dict[str, list[str]]
    split: npt.NDArray[np.uint8]
    size: int
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, split: int) -> npt.NDArray[np.int64]:
        """The row numbers of one split: TRAIN, VALID or HELD_OUT."""
        return np.flatnonzero(self.split == split)

    @classmethod
    def load(cls, folder: Path) -> ImageSet:
        """What `encode` wrote.

        Raises:
            RunError: the folder holds no encoded images, or they are damaged.
        """
        try:
            facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
            frame = pl.read_parquet(folder / "rows.parquet")
            images = np.load(folder / "images.npy", mmap_mode="r")
            if len(images) != len(frame):
                raise ValueError(f"{len(images)} images, {len(frame)} rows")
            values: dict[str, list[str]] = facts["values"]
            codes = {name: {value: k for k, value in enumerate(values[name])} for name in values}
            labels = {
                name: np.array([codes[name].get(value, -1) for value in frame[f"label.{name}"]], np.int64)
                for name in values
            }
            return cls(
                images,
                frame["caption"].to_list(),
                frame["name"].to_list(),
                labels,
                values,
                frame["split"].to_numpy(),
                facts["config"]["size"],
                [(name, reason) for name, reason in facts["skipped"]],
            )
        except FileNotFoundError:
            raise RunError("no encoded images", file=folder, mend="Encode them first.") from None
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            mend = "Remove the folder and encode again."
            raise RunError(f"the encoded images are damaged: {error}", file=folder, mend=mend) from None


def encode(config: DataConfig, folder: Path, seed: int, announce: Callable[[str], None]) -> ImageSet:
    """Read, fit and keep the images in `folder`: images.npy, rows.parquet and facts.json, all of them or nothing.

    A folder that holds the same already (settings, seed, the files' sizes and times) is used as it is; an older one is
    replaced once the new one is complete. Rows without a caption or with an image that cannot be used are skipped.

    Args:
        config: what to read.
        folder: where to keep it.
        seed: draws the built-in products, or the rows for validation.
        announce: takes one line of text at a time.

    Raises:
        DataError: a source or a column is missing, most rows are unusable or fewer than two are usable.
        RunError: `folder` holds something else, or cannot be written.
    """
    sources = sources_of(config, seed)
    key = {"format": _FORMAT, "config": config.model_dump(mode="json"), "seed": seed, "files": _stamps(sources)}
    if _is_ours(folder, key):
        announce(f"the images in {folder} are up to date")
        return ImageSet.load(folder)
    announce(f"encoding images from {' and '.join(dict.fromkeys(source.name for source in sources.values()))}")
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    with new_folder(fresh, "Free some space or choose another folder.") as part:
        frame, skipped = _write_images(part / "images.npy", sources, config)
        if config.valid is None and config.source != PRODUCTS:
            frame = _held_out(frame, config.valid_fraction, seed)
        names = [column.removeprefix("label.") for column in frame.columns if column.startswith("label.")]
        values = {name: sorted(frame[f"label.{name}"].drop_nulls().unique().to_list()) for name in names}
        frame.write_parquet(part / "rows.parquet")
        facts = {"skipped": skipped, **key, "values": values}  # what is looked for comes first
        write_text(part / "facts.json", json.dumps(facts, indent=1))
    _replace(folder, fresh)
    _announce(frame, skipped, config.size, folder, announce)
    return ImageSet.load(folder)


def _is_ours(folder: Path, key: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the very images of `key`; if not, it can be replaced."""
    if not folder.exists():
        return False
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        made_here = isinstance(facts, dict) and {"format", "files", "skipped"} <= facts.keys()
    except (OSError, ValueError):
        made_here = False
    if not made_here and not (folder.is_dir() and not any(folder.iterdir())):
        mend = "Choose another folder."
        raise RunError("there is something else than encoded images in the way", file=folder, mend=mend)
    whole = all((folder / name).is_file() for name in ("images.npy", "rows.parquet"))
    return made_here and whole and all(facts.get(name) == value for name, value in key.items())


def _replace(folder: Path, fresh: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except OSError as error:
        mend = "Choose another folder."
        raise RunError(f"cannot be replaced: {error.strerror}", file=folder, mend=mend) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _stamps(sources: Mapping[int, Source]) -> list[list[Any]]:
    stamps: list[list[Any]] = []
    for source in sources.values():
        for path in source.files:
            with reading(str(path)):
                stat = path.stat()
            stamps.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return stamps


def _write_images(
    path: Path, sources: Mapping[int, Source], config: DataConfig
) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """Append each image as it is read; the header comes last, when their number is known."""
    skipped: list[tuple[str, str]] = []
    rows: list[dict[str, Any]] = []
    labels = config.labels or (() if config.source != PRODUCTS else ("object", "colour", "background", "position"))
    with path.open("wb") as file:
        _write_header(file, 0, config.size)
        for split, source in sources.items():
            faults = Counter({"good": 0, "bad": 0})
            first: DataError | None = None
            for row in source.rows():
                if row.fault:  # named twice: neither good nor bad
                    skipped.append((row.where, row.fault))
                    continue
                try:
                    caption = caption_of(config.caption, row)
                    file.write(_pixels(row, config).tobytes())
                except DataError as error:
                    skipped.append((row.where, error.what))
                    first = first or error
                    faults["bad"] += 1
                    continue
                faults["good"] += 1
                cells = {f"label.{label}": text_of(row.cells[label]) for label in labels}
                rows.append({"name": row.name, "caption": caption, "split": split, **cells})
            _check_enough(source.name, faults["good"], faults["bad"], first)
        _write_header(file, len(rows), config.size)
    schema = {"name": pl.String, "caption": pl.String, "split": pl.UInt8, **{f"label.{k}": pl.String for k in labels}}
    return pl.DataFrame(rows, schema=schema), skipped


def _write_header(file: BinaryIO, number: int, size: int) -> None:
    """NumPy pads the header for a first axis of any length, so it can be written again in place."""
    file.seek(0)
    facts = {"descr": "|u1", "fortran_order": False, "shape": (number, 3, size, size)}
    np.lib.format.write_array_header_1_0(file, facts)
    assert file.tell() == _HEADER_BYTES


def _check_enough(name: str, good: int, bad: int, first: DataError | None) -> None:
    if first is not None and (bad > good or good < 2):
        raise DataError(
            f"{bad:,} of {good + bad:,} images in {name} cannot be used; the first: {first.what}",
            file=first.file,
            mend=first.mend,
        )
    if good < 2:
        raise DataError(f"{good} images, where training needs 2 or more", file=name, mend="Give more images.")


def _held_out(frame: pl.DataFrame, fraction: float, seed: int) -> pl.DataFrame:
    """The frame with a drawn part of its rows in VALID: at least one, unless the fraction is 0."""
    number = min(max(1, round(len(frame) * fraction)), len(frame) - 1) if fraction > 0 else 0
    split_N = np.full(len(frame), TRAIN, np.uint8)
    split_N[np.random.default_rng(seed).permutation(len(frame))[:number]] = VALID
    return frame.with_columns(pl.Series("split", split_N))


def _announce(
    frame: pl.DataFrame,
    skipped: Sequence[tuple[str, str]],
    size: int,
    folder: Path,
    announce: Callable[[str], None],
) -> None:
    counts = Counter(frame["split"].to_list())
    held_out = f", {counts[HELD_OUT]:,} of held-out combinations" if counts[HELD_OUT] else ""
    announce(
        f"{counts[TRAIN]:,} images of {size} × {size} pixels for training, {counts[VALID]:,} for validation{held_out}"
    )
    if skipped:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:_LISTED])
        where = folder / "facts.json"
        announce(f"skipped {len(skipped):,} of {len(frame) + len(skipped):,} rows ({listed}); all are in {where}")


def _pixels(row: Row, config: DataConfig) -> npt.NDArray[np.uint8]:
    if row.picture is None:
        raise DataError("no image", file=row.where, mend="Leave the row out.")
    if isinstance(row.picture, np.ndarray):
        return row.picture
    return open_image(row.picture, config.size, name=row.where, background=config.background_rgb, fit=config.fit)
