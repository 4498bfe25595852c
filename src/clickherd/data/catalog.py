"""The public data sets that `clickherd data get` knows.

Each data set has one source file. It is taken from $CLICKHERD_DATA/<name>/<source> if it is there; otherwise it is
downloaded, where its publisher offers it without a login. Nothing of these data sets ships with this package.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import MappingProxyType

import polars as pl

from clickherd.errors import ConfigError, DataError, did_you_mean

FOLDER_VARIABLE = "CLICKHERD_DATA"
_TIMEOUT = 60  # seconds without an answer
_RESEARCH = "research use; no redistribution, no commercial use"


@dataclass(frozen=True)
class Dataset:
    """A public data set. An MD5 is given where the publisher states one."""

    name: str
    size: str
    label: str
    licence: str
    origin: str  # the page that describes it
    source: str  # the file as published
    written: str = ""  # what the source is called when it is kept as it is
    url: str = ""  # of the source; empty where a login or an acceptance of terms stands before it
    md5: str = ""  # of the source
    members: Mapping[str, str] = field(default_factory=dict)  # files to take out of the source, with their MD5s


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="movielens-1m",
            size="1,000,209 rows",
            label="rating of 4 or 5",
            licence=_RESEARCH,
            origin="https://grouplens.org/datasets/movielens/1m/",
            source="ml-1m.zip",
            url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            md5="c4d9eecfca2ab87c1945afe126590906",
        ),
        Dataset(
            name="frappe",
            size="288,609 rows",
            label="app used",
            licence=_RESEARCH,
            origin="https://huggingface.co/datasets/reczoo/Frappe_x1",
            source="Frappe_x1.zip",
            url="https://huggingface.co/datasets/reczoo/Frappe_x1/resolve/main/Frappe_x1.zip",
            members=MappingProxyType(
                {
                    "train.csv": "ba7306e6c4fc19dd2cd84f2f0596d158",
                    "valid.csv": "88d51bf2173505436d3a8f78f2a59da8",
                    "test.csv": "3470f6d32713dc5f7715f198ca7c612a",
                }
            ),
        ),
        Dataset(
            name="criteo-kaggle",
            size="45,840,617 rows",
            label="click",
            licence="terms of the Kaggle competition",
            origin="https://www.kaggle.com/c/criteo-display-ad-challenge",
            source="train.txt",
            written="train.txt",
        ),
        Dataset(
            name="avazu",
            size="40,428,967 rows",
            label="click",
            licence="terms of the Kaggle competition",
            origin="https://www.kaggle.com/c/avazu-ctr-prediction",
            source="train.gz",
            written="train.csv.gz",  # the name that says what is inside
        ),
    )
}


def list_datasets() -> list[Dataset]:
    """The data sets by name."""
    return sorted(DATASETS.values(), key=lambda dataset: dataset.name)


def get(name: str, out: Path) -> list[Path]:
    """Write the data set into the folder `out`, which is created, and return the files.

    MovieLens becomes one flat Parquet file, the archive of Frappe is unpacked, the others stay as they are. Files
    reach `out` only when all of them are complete; files of the same names are replaced.

    Raises:
        ConfigError: no data set of this name, or `out` is not a folder.
        DataError: the source has to be fetched by hand, cannot be downloaded or written, or is damaged.
    """
    if name not in DATASETS:
        raise ConfigError(f"no data set is called {name!r}", mend=did_you_mean(name, DATASETS))
    dataset = DATASETS[name]
    if out.exists() and not out.is_dir():
        raise ConfigError("this is a file, not a folder", file=out, mend="Name a folder to write to.")
    local = _local(dataset)
    if local is None and not dataset.url:
        raise _by_hand(dataset)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=f".{name}-") as beside:
            staged = _stage(dataset, local, Path(beside))
            return sorted(path.replace(out / path.name) for path in staged)
    except OSError as error:
        mend = "Check the folder, its permissions and the space left."
        raise DataError(f"{name} could not be written: {error}", file=out, mend=mend) from error


def _place(dataset: Dataset) -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or f"${FOLDER_VARIABLE}") / dataset.name / dataset.source


def _local(dataset: Dataset) -> Path | None:
    place = _place(dataset)
    return place if os.environ.get(FOLDER_VARIABLE) and place.is_file() else None


def _by_hand(dataset: Dataset) -> DataError:
    unset = "" if os.environ.get(FOLDER_VARIABLE) else f", where {FOLDER_VARIABLE} names a folder of your choice"
    return DataError(
        f"{dataset.name} can only be fetched by hand, because its terms must be accepted first",
        mend=f"Log in at {dataset.origin}, fetch {dataset.source} and put it at {_place(dataset)}{unset}.",
    )


def _stage(dataset: Dataset, local: Path | None, beside: Path) -> list[Path]:
    """The files of the data set, complete and checked, in the folder `beside`."""
    finished = beside / "finished"
    finished.mkdir()
    source = local or _download(dataset, beside / dataset.source)
    if dataset.md5:
        with source.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != dataset.md5:
            raise _damaged(dataset, f"its MD5 is {found}, not {dataset.md5}", local)
    if dataset.written:
        return [Path(shutil.copyfile(source, finished / dataset.written))]
    try:
        with zipfile.ZipFile(source) as archive:
            if not dataset.members:
                return [_flatten_movielens(archive, finished / f"{dataset.name}.parquet")]
            return _unpack(dataset, archive, finished, local)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _damaged(dataset, str(error), local) from error


def _download(dataset: Dataset, target: Path) -> Path:
    try:
        with urllib.request.urlopen(dataset.url, timeout=_TIMEOUT) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (OSError, http.client.HTTPException) as error:
        mend = f"Check the network, or fetch {dataset.source} by hand (see {dataset.origin}) and put it at "
        raise DataError(f"{dataset.url} cannot be downloaded: {error}", mend=f"{mend}{_place(dataset)}.") from error
    return target


def _damaged(dataset: Dataset, why: str, local: Path | None) -> DataError:
    mend = "Fetch it again." if local else "Try again; if it stays so, the publisher has changed the file."
    return DataError(f"{dataset.source} of {dataset.name} is damaged: {why}", file=local or dataset.url, mend=mend)


def _unpack(dataset: Dataset, archive: zipfile.ZipFile, folder: Path, local: Path | None) -> list[Path]:
    inside = {PurePosixPath(member).name: member for member in archive.namelist()}
    for name, md5 in dataset.members.items():
        if name not in inside:
            raise _damaged(dataset, f"it holds no {name}", local)
        with archive.open(inside[name]) as packed, (folder / name).open("w+b") as file:
            shutil.copyfileobj(packed, file)
            file.seek(0)
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise _damaged(dataset, f"the MD5 of {name} is {found}, not {md5}", local)
    return [folder / name for name in dataset.members]


def _flatten_movielens(archive: zipfile.ZipFile, target: Path) -> Path:
    """One row per rating, in the order of ratings.dat, with the user's and the film's columns beside it.

    The rating itself is left out, since it gives the label away. Age and occupation are codes and stay text.
    """
    integer, text = pl.Int32(), pl.String()
    ratings = _movielens_table(
        archive, "ratings", {"user_id": integer, "movie_id": integer, "rating": pl.Int8(), "timestamp": pl.Int64()}
    )
    users = _movielens_table(
        archive, "users", {"user_id": integer, "gender": text, "age": text, "occupation": text, "zip": text}
    )
    movies = _movielens_table(archive, "movies", {"movie_id": integer, "title": text, "genres": text})
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int16).alias("year")
    flat = ratings.join(users, on="user_id", how="left", maintain_order="left").join(
        movies.with_columns(year), on="movie_id", how="left", maintain_order="left"
    )
    label = (pl.col("rating") >= 4).cast(pl.Int8).alias("label")
    user, movie = ("gender", "age", "occupation", "zip"), ("genres", "year")
    flat.select(label, "user_id", "movie_id", *user, *movie, "timestamp").write_parquet(target)
    return target


def _movielens_table(archive: zipfile.ZipFile, name: str, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    # Fields are parted by "::", but the reader takes one byte; no field holds a tab.
    lines = archive.read(f"ml-1m/{name}.dat").decode("latin-1").replace("::", "\t")
    return pl.read_csv(lines.encode(), has_header=False, separator="\t", quote_char=None, schema=schema)
