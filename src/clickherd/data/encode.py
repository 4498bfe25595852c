"""The fitted encoder: raw rows in, ids and numbers out, on any machine that has its folder.

encoder.json           schema, settings, and how every column is encoded
vocabularies.parquet   column, value: the vocabularies in the order of their ids
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clickherd.data.hashing import hash_texts
from clickherd.data.numeric import LogSquareBuckets, MinMax, QuantileBuckets, Scaling, Standard
from clickherd.data.parallel import in_parallel
from clickherd.data.schema import Schema
from clickherd.data.source import RawChunk
from clickherd.data.store import MISSING, TRUTH, Batch, FieldLayout, Layout
from clickherd.data.values import as_texts, last_parts, read_labels, read_numbers, read_parts, read_positions
from clickherd.data.vocabulary import HashBuckets, Ids, Vocabulary
from clickherd.errors import DataError, RunError, did_you_mean

_PARALLEL_ROWS = 4_096  # below, threads cost more than they save

Embedded = Vocabulary | HashBuckets | LogSquareBuckets | QuantileBuckets
Bag = tuple[Ids, npt.NDArray[np.int64]]


class Reading(BaseModel):
    """How cells are read: part of the encoder, so that new rows are read as the training rows were."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    null_values: tuple[str, ...]
    multi_separator: str
    positive: str | None
    label_values: tuple[str, ...]  # that training saw, the most frequent ones; empty when labels were 0 and 1
    max_length: int = 50  # of sequences


class _VocabularyEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["vocabulary"] = "vocabulary"
    num_values: int


_Entry = Annotated[
    _VocabularyEntry | HashBuckets | LogSquareBuckets | QuantileBuckets | MinMax | Standard, Field(discriminator="kind")
]


class _File(BaseModel):
    """encoder.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    data_schema: Schema
    reading: Reading
    encodings: dict[str, _Entry]  # by column


class Encoder:
    """Maps raw rows to the id space of a `Layout`.

    Attributes:
        schema: roles of the columns.
        embedded: encoding of each embedded column; a sequence has that of its target.
        layout: where each field's ids begin.
        unseen: per field, how many values `transform` has mapped to "unknown" since the last `unseen.clear()`.
    """

    def __init__(
        self, schema: Schema, reading: Reading, embedded: Mapping[str, Embedded], scaled: Mapping[str, Scaling]
    ) -> None:
        self.schema, self.reading = schema, reading
        multi = {column.name for column in schema.features if column.role == "multi"}
        names = [column.name for column in schema.features]
        order = [n for n in names if n in embedded and n not in multi] + [n for n in names if n in multi]
        self._own = {name: embedded[name] for name in order}
        self._targets_of = schema.sequences
        self.embedded = self._own | {name: self._own[target] for name, target in self._targets_of.items()}
        self.scaled = {name: scaled[name] for name in names if name in scaled}
        assert len(self.embedded) + len(self.scaled) == len(names)
        fields: dict[str, FieldLayout] = {}
        offset = 0
        for name, encoding in self._own.items():
            fields[name] = FieldLayout(name, offset, encoding.size, name in multi)
            offset += encoding.size
        for name, target in self._targets_of.items():
            place = fields[target]
            fields[name] = FieldLayout(name, place.offset, place.size, True, target, reading.max_length)
        self.layout = Layout(tuple(fields.values()), tuple(self.scaled))
        self.unseen: dict[str, int] = {}

    def with_labels(self, positive: str, label_values: tuple[str, ...]) -> Encoder:
        """The same encoder for rows whose labels are these texts."""
        reading = self.reading.model_copy(update={"positive": positive, "label_values": label_values})
        return Encoder(self.schema, reading, self._own, self.scaled)

    def columns_of(self, available: Iterable[str], file: str, *, labels: bool) -> list[str]:
        """The columns to read from a source that has the `available` ones; others are left alone.

        Raises:
            DataError: columns that training had are missing.
        """
        available = set(available)
        label = self.schema.label
        needed = [column.name for column in self.schema.features] + ([label] if labels else [])
        missing = [name for name in needed if name not in available]
        if missing == [label]:
            raise DataError(
                "the label's column is not there",
                file=file,
                column=label,
                mend=f"{self.label_mend()} {did_you_mean(label, available)}",
            )
        if missing:
            raise DataError(
                f"columns that the model needs are missing: {', '.join(missing)}",
                file=file,
                mend="Add them (empty cells count as missing values); further columns do no harm.",
            )
        extra = [name for name in (self.schema.group, TRUTH) if labels and name in available and name not in needed]
        return needed + [name for name in extra if name is not None]

    def label_mend(self) -> str:
        """The advice for rows whose labels are not those of training."""
        found, positive = self.reading.label_values, self.reading.positive
        values = "0 and 1" if positive is None else f"{', '.join(map(repr, found[:10]))} ({positive!r} is a click)"
        return f"The model's label is the column {self.schema.label!r} with {values}: write it here as in training."

    def transform(self, chunk: RawChunk, *, labels: bool) -> Batch:
        """Encode the chunk's rows; columns that training did not have are ignored.

        With `labels`, the batch also carries labels, hashed groups and known click probabilities as far as the
        chunk has those columns.

        Raises:
            DataError: a missing column, or a value that cannot be read, with file, column and row.
        """
        frame = chunk.frame
        self.columns_of(frame.columns, chunk.file, labels=labels)
        single = self.layout.fields[: self.layout.num_single]
        ids = np.empty((frame.height, len(single)), np.int32)
        numeric = np.empty((frame.height, len(self.scaled)), np.float32)
        bags: list[Bag] = [(np.empty(0, np.int32), np.empty(0, np.int64))] * (len(self.layout.fields) - len(single))

        def encode_single(position: int, field: FieldLayout) -> int:
            local = self._ids(frame[field.name], chunk)
            np.add(local, field.offset, out=ids[:, position])
            return int(np.count_nonzero(local == 0))

        def encode_multi(position: int, field: FieldLayout) -> int:
            bags[position], unknown = self._bag(chunk, field)
            return unknown

        def scale(position: int, name: str) -> None:
            numbers = read_numbers(frame[name], chunk, self.reading.null_values, fitted=True)
            numeric[:, position] = self.scaled[name].scale(numbers)

        jobs: list[Callable[[], int | None]] = [
            *(partial(encode_single, p, field) for p, field in enumerate(single)),
            *(partial(encode_multi, p, field) for p, field in enumerate(self.layout.fields[len(single) :])),
            *(partial(scale, p, name) for p, name in enumerate(self.scaled)),
        ]
        unknown = in_parallel(jobs) if frame.height >= _PARALLEL_ROWS else [job() for job in jobs]
        for field, count in zip(self.layout.fields, unknown, strict=False):
            self.unseen[field.name] = self.unseen.get(field.name, 0) + (count or 0)
        return Batch(ids, tuple(bags), numeric, *(self._targets(chunk) if labels else _NO_TARGETS))

    def _ids(self, values: pl.Series, chunk: RawChunk) -> Ids:
        encoding = self.embedded[values.name]
        if isinstance(encoding, Vocabulary | HashBuckets):
            return encoding.encode(values)
        return encoding.encode(read_numbers(values, chunk, self.reading.null_values, fitted=True))

    def _bag(self, chunk: RawChunk, field: FieldLayout) -> tuple[Bag, int]:
        """Global ids and offsets of a multi-valued column, and how many values are unknown."""
        encoding, values = self.embedded[field.name], chunk.frame[field.name]
        assert isinstance(encoding, Vocabulary | HashBuckets)
        if field.name in chunk.texts:
            positions, sizes = read_positions(values)
            local = encoding.encode(chunk.texts[field.name])[positions]
            return bag_of(local, sizes, field.offset), int(np.count_nonzero(local == 0))
        parts, sizes = read_parts(values, self.reading.multi_separator, self.reading.null_values)
        if field.max_length is not None:
            parts, sizes = last_parts(parts, sizes, field.max_length)
        local = encoding.encode(parts)
        return bag_of(local, sizes, field.offset), int(np.count_nonzero(local == 0))

    def _targets(
        self, chunk: RawChunk
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint64], npt.NDArray[np.float32]]:
        """Labels, groups and known click probabilities."""
        frame, null_values = chunk.frame, self.reading.null_values
        raw = frame[self.schema.label]
        labels = read_labels(raw, chunk, self.reading.positive, null_values, self.label_mend())
        groups, truth = _NO_TARGETS[1:]
        if self.schema.group in frame.columns:
            groups = hash_texts(as_texts(frame[self.schema.group]))
        if TRUTH in frame.columns:
            truth = read_numbers(frame[TRUTH], chunk, null_values, fitted=True).astype(np.float32)
        return labels, groups, truth

    def fingerprint(self) -> str:
        """A sha256 of all that the encoding depends on."""
        sha256 = hashlib.sha256(self._json().encode())
        for encoding in self._own.values():
            if isinstance(encoding, Vocabulary):
                sha256.update(hash_texts(encoding.values).tobytes())
        return sha256.hexdigest()

    def _json(self) -> str:
        entries = {
            name: _VocabularyEntry(num_values=len(encoding.values)) if isinstance(encoding, Vocabulary) else encoding
            for name, encoding in {**self._own, **self.scaled}.items()
        }
        file = _File(data_schema=self.schema, reading=self.reading, encodings=entries)
        return json.dumps(file.model_dump(mode="json"), indent=1, ensure_ascii=False)

    def save(self, folder: str | Path) -> None:
        """Write the encoder into a new or empty folder.

        Raises:
            OSError: the folder cannot be written, for instance because the disk is full.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {n: e.values.alias("value") for n, e in self._own.items() if isinstance(e, Vocabulary)}
        empty = pl.DataFrame(schema={"column": pl.String, "value": pl.String})
        frames = [values.to_frame().select(pl.lit(name).alias("column"), "value") for name, values in texts.items()]
        buffer = io.BytesIO()  # so that a full disk is an OSError of Python's, whatever polars would make of it
        pl.concat([empty, *frames]).write_parquet(buffer)
        (folder / "vocabularies.parquet").write_bytes(buffer.getbuffer())
        (folder / "encoder.json").write_text(self._json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Encoder:
        """Open what `save` wrote.

        Raises:
            RunError: a file is missing, damaged, or does not fit the other.
        """
        folder = Path(folder)
        try:
            file = _File.model_validate(json.loads((folder / "encoder.json").read_text(encoding="utf-8")))
            table = pl.read_parquet(io.BytesIO((folder / "vocabularies.parquet").read_bytes()))
        except FileNotFoundError as error:
            raise RunError("the encoder is incomplete: a file is missing", file=error.filename, mend=_MEND) from None
        except (ValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RunError(f"the encoder cannot be read: {error}", file=folder / "encoder.json", mend=_MEND) from None
        except pl.exceptions.PolarsError as error:
            path = folder / "vocabularies.parquet"
            raise RunError(f"the vocabularies cannot be read: {error}", file=path, mend=_MEND) from None
        if table.schema != {"column": pl.String, "value": pl.String}:
            raise RunError("the vocabularies have other columns", file=folder / "vocabularies.parquet", mend=_MEND)
        return cls._assemble(file, table, folder)

    @classmethod
    def _assemble(cls, file: _File, table: pl.DataFrame, folder: Path) -> Encoder:
        values = {str(name): part["value"] for (name,), part in table.partition_by("column", as_dict=True).items()}
        embedded: dict[str, Embedded] = {}
        scaled: dict[str, Scaling] = {}
        for name, entry in file.encodings.items():
            if isinstance(entry, MinMax | Standard):
                scaled[name] = entry
            elif isinstance(entry, _VocabularyEntry):
                texts = values.pop(name, pl.Series("value", [], pl.String))
                if len(texts) != entry.num_values or texts.has_nulls():
                    raise RunError(
                        f"encoder.json gives {entry.num_values} values, vocabularies.parquet {len(texts)}",
                        file=folder,
                        column=name,
                        mend=_MEND,
                    )
                embedded[name] = Vocabulary(texts, file.reading.null_values)
            else:
                embedded[name] = entry
        sequences = file.data_schema.sequences
        features = {column.name for column in file.data_schema.features} - sequences.keys()
        if values or features != {*embedded, *scaled} or not embedded.keys() >= {*sequences.values()}:
            odd = sorted({*values} | (features ^ {*embedded, *scaled}) | ({*sequences.values()} - embedded.keys()))
            raise RunError(f"schema and encodings do not fit: {', '.join(odd)}", file=folder, mend=_MEND)
        return cls(file.data_schema, file.reading, embedded, scaled)


_MEND = "The folder is damaged; train again, or copy it anew."
_NO_TARGETS = (np.empty(0, np.float32), np.empty(0, np.uint64), np.empty(0, np.float32))


def bag_of(local: Ids, sizes: npt.NDArray[np.int64], offset: int) -> Bag:
    """Global ids and offsets of a multi-valued field, from the local ids of all values and the number in each row."""
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(np.maximum(sizes, 1), out=offsets[1:])
    ids = np.full(offsets[-1], offset + MISSING, np.int32)
    filled = np.ones(len(ids), np.bool_)
    filled[offsets[:-1][sizes == 0]] = False
    ids[filled] = local + np.int32(offset)
    return ids, offsets
