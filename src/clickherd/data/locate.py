"""From what a user writes (files, globs, folders, URLs) to a list of files that can be opened."""

from __future__ import annotations

import glob
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from clickherd.errors import DataError

Kind = Literal["text", "parquet", "arrow"]
SUFFIXES: dict[str, Kind] = {
    ".csv": "text",
    ".tsv": "text",
    ".tab": "text",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_ALSO_WHEN_NAMED: dict[str, Kind] = {".txt": "text"}  # in a folder a .txt is as likely a README
_COMPRESSED = (".gz", ".zst")
_FORMATS: dict[str, Kind] = {
    "csv": "text",
    "tsv": "text",
    "criteo": "text",
    "parquet": "parquet",
    "arrow": "arrow",
}
_KNOWN = (
    "Known: .csv, .tsv, .tab and .txt (also with .gz or .zst), .parquet, .pq, .arrow, .feather, .ipc. "
    "For another name say what it is: --set data.format=csv (or tsv, parquet, arrow, criteo)."
)
# What remote drivers raise beside OSError: module → name of the exception, looked up only if the driver was loaded
_DRIVER_ERRORS = {
    "botocore.exceptions": "BotoCoreError",
    "aiohttp": "ClientError",
    "google.auth.exceptions": "GoogleAuthError",
    "gcsfs.retry": "HttpError",
    "azure.core.exceptions": "AzureError",
}
_digests: dict[tuple[str, int, int], str] = {}  # (path, size, mtime in ns) → sha256, for the life of the process


@dataclass(frozen=True)
class DataFile:
    """One file: its name as the user would recognise it, where it lies, and what it holds."""

    name: str
    path: str
    kind: Kind
    filesystem: Any = None  # an fsspec file system; None for a local path
    partition: tuple[tuple[str, str], ...] = ()  # from folders such as day=2024-05-01 below the one that was named

    def open(self) -> BinaryIO:
        """The raw bytes, unbuffered for a local file. Wrap the use in `reading`."""
        if self.filesystem is None:
            return cast(BinaryIO, Path(self.path).open("rb", buffering=0))
        return cast(BinaryIO, self.filesystem.open(self.path, "rb"))

    @cached_property
    def key(self) -> tuple[str, int, int] | None:
        """What changes when a local file's content does; None for a remote one."""
        if self.filesystem is not None:
            return None
        with reading(self.name):
            stat = Path(self.path).stat()
        return str(Path(self.path).resolve()), stat.st_size, stat.st_mtime_ns

    def digest(self) -> str:
        """The sha256 of the bytes, read once by a process; of a remote file the store's own checksum."""
        with reading(self.name):
            if self.key is None:
                return str(self.filesystem.ukey(self.path))
            if self.key not in _digests:
                with Path(self.path).open("rb", buffering=0) as file:
                    _digests[self.key] = hashlib.file_digest(file, "sha256").hexdigest()
            return _digests[self.key]


def _driver_errors() -> tuple[type[BaseException], ...]:
    modules = ((sys.modules.get(module), name) for module, name in _DRIVER_ERRORS.items())
    return (OSError, *(getattr(module, name) for module, name in modules if hasattr(module, name)))


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the failures of the operating system, remote drivers and pyarrow into errors that name the file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError("no such file", file=name, mend="Check the path.") from None
    except PermissionError:
        raise DataError("no permission to read it", file=name, mend="Check its access rights.") from None
    except (pa.ArrowException, *_driver_errors()) as error:
        what = str(error).strip().rstrip(".") or type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"cannot be read: {what}", file=name, mend="Check the disk or the network.") from None
        if "://" in name:
            mend = "Check the URL, the credentials of that store, and that the file is whole."
            raise DataError(f"cannot be read: {what}", file=name, mend=mend) from None
        mend = "Copy or write it again, or say what it is with --set data.format=..."
        raise DataError(f"the file is damaged or not what its name says: {what}", file=name, mend=mend) from None


def kind_of(name: str) -> Kind | None:
    """What a file holds, going by its name; None when the name does not say."""
    path = PurePosixPath(name.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix
    kind = SUFFIXES.get(suffix) or _ALSO_WHEN_NAMED.get(suffix)
    return None if path.suffix in _COMPRESSED and kind != "text" else kind


def locate(data: Sequence[str | Path], file_format: str) -> list[DataFile]:
    """All files that `data` names, in order, each once.

    Raises:
        DataError: nothing there, an unknown suffix, files of different kinds, or a URL that cannot be reached.
    """
    files: dict[str, DataFile] = {}
    for item in data:
        for file in _expand(str(item), _FORMATS.get(file_format)):
            files.setdefault(f"{id(file.filesystem)}:{file.path}", file)
    found = list(files.values())
    first = found[0]
    for file in found[1:]:
        if file.kind != first.kind:
            raise DataError(
                f"files of different kinds: this one and {first.name}",
                file=file.name,
                mend="Give files of one kind, or convert them.",
            )
    return found


def _expand(item: str, kind: Kind | None) -> list[DataFile]:
    if not item.strip():
        raise DataError("an empty path", mend="Name a file, a glob, a folder or a URL.")
    if item.startswith("file://"):
        item = unquote(urlsplit(item).path)
    if "://" in item:
        return _expand_url(item, kind)
    path = Path(item).expanduser()
    with reading(item):
        if path.is_file():
            return [_file(item, str(path), kind)]
        if path.is_dir():
            inside = (p for p in sorted(path.rglob("*")) if p.is_file())
            names = [(str(p), str(p.relative_to(path))) for p in inside]
            return [_file(p, p, kind, None, _partition(below)) for p, below in _data_files(item, names, kind)]
        if path.exists():
            raise DataError("neither a file nor a folder", file=item, mend="Name a regular file.")
        if glob.has_magic(item):
            matched = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not matched:
                raise DataError("no file matches the pattern", file=item, mend="Check the pattern.")
            return [file for match in matched for file in _expand(match, kind)]
    raise DataError("no such file or folder", file=item, mend="Check the path.")


def _expand_url(url: str, kind: Kind | None) -> list[DataFile]:
    import fsspec

    try:
        with reading(url):
            filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f"a driver is missing: {error}", file=url, mend="Install it with pip.") from None
    except DataError:
        raise
    except ValueError as error:
        raise DataError(str(error), file=url, mend="See fsspec's documentation for its protocols.") from None
    with reading(url):
        if glob.has_magic(path):
            matched = sorted(filesystem.glob(path))
            if not matched:
                raise DataError("no file matches the pattern", file=url, mend="Check the pattern.")
        else:
            matched = [path]
        files = []
        for match in matched:
            if filesystem.info(match)["type"] == "directory":
                base = match.rstrip("/") + "/"
                inside = [(p, p.removeprefix(base)) for p in sorted(filesystem.find(match))]
                paths = _data_files(url, inside, kind)
            else:
                paths = [(match, "")]
            files += [
                _file(filesystem.unstrip_protocol(p), p, kind, filesystem, _partition(below)) for p, below in paths
            ]
    return files


def _data_files(folder: str, inside: Iterable[tuple[str, str]], kind: Kind | None) -> list[tuple[str, str]]:
    """The data files among `inside`, given as (path, path below the folder)."""
    known = [
        (path, below)
        for path, below in inside
        if not any(part[0] in "._" for part in PurePosixPath(below).parts)
        and (kind or (PurePosixPath(below).suffix.lower() != ".txt" and kind_of(below)))
    ]
    if not known:
        raise DataError("no data file in the folder", file=folder, mend=_KNOWN)
    return known


def _partition(below: str) -> tuple[tuple[str, str], ...]:
    """The column names and values in a path such as day=2024-05-01/hour=7/part-0.parquet."""
    pairs = (part.partition("=") for part in PurePosixPath(below).parent.parts)
    return tuple((name, unquote(value)) for name, equals, value in pairs if equals and name)


def _file(
    name: str, path: str, kind: Kind | None, filesystem: Any = None, partition: tuple[tuple[str, str], ...] = ()
) -> DataFile:
    kind = kind or kind_of(path)
    if kind is None:
        raise DataError(f"unknown kind of file: {PurePosixPath(path).name!r}", file=name, mend=_KNOWN)
    return DataFile(name, path, kind, filesystem, partition)
