"""From raw data to the encoded store, through a cache: the same data and settings are encoded once.

    <cache>/<key>/
      encoder/        see `encode`
      train/          encoded rows, see `store`; likewise valid/ and test/ where there are such rows
      profile.json    what is known of the columns

The key hashes the data's content, the settings and the format, so a moved file is recognised and a changed one is not
mistaken. A folder is written beside its final place and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clickherd.data import kept
from clickherd.data.config import DataConfig
from clickherd.data.encode import Encoder
from clickherd.data.fit import Fitted, LabelTally, LabelValues, fit, no_positive
from clickherd.data.parallel import ahead
from clickherd.data.profile import SplitTally, build_profile
from clickherd.data.recorded import RecordedRows, disk_full, store_bytes
from clickherd.data.schema import SAMPLE_ROWS, infer_schema
from clickherd.data.source import CHUNK_ROWS, DataLike, Source, open_source
from clickherd.data.split import NAMES, RandomSplit, plan_split
from clickherd.data.store import Batch, Layout, Store, StoreWriter
from clickherd.data.values import as_label_texts, check_known
from clickherd.errors import DataError

FORMAT = 5  # raise it when the same data would be encoded or described in another way
_STALE_SECONDS = 86_400  # a partial folder that was not touched for so long belongs to a run that was killed


@dataclass(frozen=True)
class Prepared:
    """Encoded rows, ready to train on."""

    encoder: Encoder
    train: Store
    valid: Store | None
    test: Store | None
    profile: dict[str, Any]  # see `profile`
    path: Path
    reused: bool  # found in the cache
    seconds: float


def quiet(message: str) -> None:
    """Announce nothing."""


def prepare(
    data: DataLike,
    config: DataConfig,
    *,
    valid: DataLike | None = None,
    test: DataLike | None = None,
    seed: int = 0,
    cache_dir: Path | None = None,
    announce: Callable[[str], None] = quiet,
) -> Prepared:
    """Find the columns' roles, fit the encoder on the training rows and encode all rows, or reuse what is cached.

    Memory is bounded by the vocabularies and a chunk of rows. `cache_dir` defaults to the environment's
    CLICKHERD_CACHE, then to ~/.cache/clickherd.

    Raises:
        DataError: the data cannot be used, or the disk is full; the message says where and how to mend it.
        ConfigError: settings that do not fit the data.
    """
    began = time.perf_counter()
    if config.kept_values is not None:
        kept.load_kept(config.kept_values)  # a file that is at fault is told before the rows are read
    source = open_source(data, config)
    # Labels that cannot be used are told before all rows are read for their hash
    LabelTally(config.label, config).add(next(source.chunks([config.label], SAMPLE_ROWS)))
    given: dict[str, Source] = {}
    for name, more in (("valid", valid), ("test", test)):
        if more is not None:
            given[name] = open_source(more, config, names=source.columns, earlier=(source, *given.values()))
    random_split = config.split == "random" and "valid" not in given
    settings = {
        "format": FORMAT,
        "sources": {name: s.fingerprint() for name, s in {"train": source, **given}.items()},
        "data": config.model_dump(mode="json")
        | {"kept_values": kept.fingerprint(config.kept_values) if config.kept_values else None},
        "seed": seed if random_split else None,  # nothing else is random
    }
    cache = _cache_dir(cache_dir)
    folder = cache / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    if folder.exists():
        try:
            prepared = _open(folder, True, began)
        except (OSError, ValueError, KeyError) as error:
            announce(f"the encoded rows in {folder} are damaged ({error}); encoding again")
            shutil.rmtree(folder)
        else:
            announce(f"reusing the encoded rows in {folder}")
            for warning in single_parts(prepared.profile, config):
                announce(warning)
            return prepared
    with _partial(cache) as partial:
        _Build(source, given, config, seed, partial, announce).run()
        _publish(partial, folder)
    prepared = _open(folder, False, began)
    announce(f"encoded {_rows(prepared.profile)} in {prepared.seconds:.1f} s")
    for warning in single_parts(prepared.profile, config):
        announce(warning)
    return prepared


def single_parts(profile: dict[str, Any], config: DataConfig) -> list[str]:
    """A warning for each multi-valued column whose separator is found in no value."""
    return [
        f"{column['name']} is multi-valued, but no value holds the separator {config.multi_separator!r}; "
        "another one is set with --set data.multi_separator=VALUE"
        for column in profile["columns"]
        if column.get("separated") is False
    ]


def _open(folder: Path, reused: bool, began: float) -> Prepared:
    profile = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    stores = {name: Store(folder / name) for name in profile["rows"]}
    encoder = Encoder.load(folder / "encoder")
    return Prepared(
        encoder=encoder,
        train=stores["train"],
        valid=stores.get("valid"),
        test=stores.get("test"),
        profile=profile,
        path=folder,
        reused=reused,
        seconds=time.perf_counter() - began,
    )


def _rows(profile: dict[str, Any]) -> str:
    return " + ".join(f"{rows:,} {name}" for name, rows in profile["rows"].items()) + " rows"


class _Build:
    """One encoding of raw data into a folder."""

    def __init__(
        self,
        source: Source,
        given: dict[str, Source],
        config: DataConfig,
        seed: int,
        folder: Path,
        announce: Callable[[str], None],
    ) -> None:
        self.source, self.given, self.config, self.folder, self.announce = source, given, config, folder, announce
        self.schema = infer_schema(source, config, settle=False)  # fit decides on constant columns
        self.splitter = plan_split(
            source, config, self.schema.time_column, valid_given="valid" in given, test_given="test" in given, seed=seed
        )

    def run(self) -> None:
        """Count and record all rows, then make ids of what was recorded."""
        self.announce(f"counting the values of {len(self.schema.features)} columns in {self.source.name}")
        recorded = RecordedRows(self.folder / "recorded")
        fitted = fit(self.source, self.schema, self.config, self.splitter, recorded)
        for other in self.given.values():
            fitted.encoder.columns_of(other.columns, other.name, labels=True)
        self._check_splits(fitted)
        for column in fitted.encoder.schema.columns:
            if column.role == "ignored" and column.note != "as set":
                self.announce(f"ignoring {column.name}: {column.note}")
        self._check_space(fitted, recorded)
        with contextlib.ExitStack() as writing:
            tallies = self._write(fitted, recorded, writing)
        fitted.encoder.unseen.clear()
        fitted.encoder.save(self.folder / "encoder")
        profile = build_profile(fitted, tallies)
        (self.folder / "profile.json").write_text(json.dumps(profile, indent=1), encoding="utf-8")

    def _check_splits(self, fitted: Fitted) -> None:
        """See that every split that is asked for has rows."""
        if self.splitter is None:
            return
        fractions = {"valid": self.config.valid_fraction, "test": 0.0 if self.given else self.config.test_fraction}
        for name, fraction in fractions.items():
            if fraction > 0 and not fitted.rows.get(name):
                what = "a random split" if isinstance(self.splitter, RandomSplit) else "a split by time"
                raise DataError(
                    f"{what} of {sum(fitted.rows.values()):,} rows leaves none for {name}",
                    file=self.source.name,
                    mend=f"Give more rows, a file with --{name}, or another data.{name}_fraction (now {fraction}).",
                )

    def _check_space(self, fitted: Fitted, recorded: RecordedRows) -> None:
        """Say beforehand that the disk is too small; what was recorded makes place as it is encoded."""
        needed = store_bytes(len(fitted.encoder.schema.features), sum(fitted.rows.values()))
        if needed - recorded.num_bytes > shutil.disk_usage(self.folder).free:
            raise disk_full(self.folder.parent, needed)

    def _write(self, fitted: Fitted, recorded: RecordedRows, writing: contextlib.ExitStack) -> dict[str, SplitTally]:
        """Write the stores; returns what each split's rows were like."""
        encoder = fitted.encoder
        writers: dict[str, StoreWriter] = {}
        tallies = {name: SplitTally(encoder.layout) for name in NAMES}

        def write(name: str, batch: Batch) -> None:
            if name not in writers:
                writers[name] = writing.enter_context(_writer(self.folder / name, encoder.layout, batch))
            writers[name].append(batch)
            tallies[name].add(batch)

        self.announce(f"encoding {self.source.name}")
        for batches in ahead(recorded.batches(encoder, fitted.tables())):
            for name, batch in batches:
                write(name, batch)
        for name, source in self.given.items():
            self.announce(f"encoding {source.name}")
            for batch in encode_labelled(encoder, source, strict=True):
                write(name, batch)
            if name not in writers:
                raise DataError("there are no rows", file=source.name, mend="Check the file.")
        return {name: tallies[name] for name in NAMES if name in writers}


def _writer(path: Path, layout: Layout, first: Batch) -> StoreWriter:
    return StoreWriter(path, layout, has_groups=len(first.groups) > 0, has_truth=len(first.truth) > 0)


def encode_labelled(encoder: Encoder, source: Source, *, strict: bool, rows: int = CHUNK_ROWS) -> Iterator[Batch]:
    """Labelled batches.

    `strict`: the positive label has to occur, and one other beside it at most. Otherwise all labels have to be known.

    Raises:
        DataError: a value that cannot be read, or labels that differ from those of training.
    """
    columns = encoder.columns_of(source.columns, source.name, labels=True)
    positive, known = encoder.reading.positive, set(encoder.reading.label_values)
    clicked, found, values = False, set[str](), LabelValues()
    for chunk in source.chunks(columns, rows):
        batch = encoder.transform(chunk, labels=True)
        if positive is not None:
            labels = chunk.frame[encoder.schema.label]
            if not strict:
                check_known(labels, chunk, known, encoder.label_mend())
            else:
                values.add(labels, chunk)
                if not clicked:
                    clicked = bool(batch.labels.any())
                    found |= set(as_label_texts(labels).unique().head(100))
        yield batch
    if positive is not None and found and not clicked:
        raise no_positive(positive, tuple(sorted(found)), source.name, encoder.schema.label, encoder.label_mend())


def encode_stream(encoder: Encoder, source: Source, *, labels: bool, rows: int = 65_536) -> Iterator[Batch]:
    """Encode new raw rows in bounded memory, at most `rows` at a time.

    Raises:
        DataError: a missing column, or a value that cannot be read, with file, column and row.
    """
    if labels:
        yield from encode_labelled(encoder, source, strict=False, rows=rows)
        return
    for chunk in source.chunks(encoder.columns_of(source.columns, source.name, labels=False), rows):
        yield encoder.transform(chunk, labels=False)


def encode_to_store(encoder: Encoder, source: Source, path: Path) -> Store:
    """Encode labelled raw rows into a new store folder with an encoder that is already fitted.

    Raises:
        DataError: as `encode_stream`; also if there are no rows, or the disk is full.
    """
    writer = None
    with _disk_full_explained(path.parent), contextlib.ExitStack() as writing:
        for batch in encode_stream(encoder, source, labels=True, rows=CHUNK_ROWS):
            writer = writer or writing.enter_context(_writer(path, encoder.layout, batch))
            writer.append(batch)
        if writer is None:
            raise DataError("there are no rows", file=source.name, mend="Check the file.")
    return Store(path)


def _cache_dir(cache_dir: Path | None) -> Path:
    """The cache's folder, made if need be."""
    folder = cache_dir or Path(os.environ.get("CLICKHERD_CACHE") or Path.home() / ".cache" / "clickherd")
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache's folder cannot be made: {error.strerror}",
            file=folder,
            mend="Set CLICKHERD_CACHE to a folder that can be written.",
        ) from None
    for stale in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):  # another run may be removing it just now
            newest = max(path.stat().st_mtime for path in (stale, *stale.rglob("*")))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(stale)
    return folder


@contextlib.contextmanager
def _partial(cache: Path) -> Iterator[Path]:
    """A new folder that is gone afterwards, unless it was renamed."""
    folder = cache / f".{uuid.uuid4().hex}.partial"
    try:
        with _disk_full_explained(cache):
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _disk_full_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(folder, None) from error


def _publish(partial: Path, folder: Path) -> None:
    """Rename into place; if another run was first, its result is as good."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise


__all__ = ["Prepared", "encode_labelled", "encode_stream", "encode_to_store", "prepare", "single_parts"]
