"""Values that keep an id of their own, as a file: what `clickherd select --method optfs` writes.

A Parquet table of `column` and `value`, both text. Columns that are not in it keep all their values; of those that are,
the values left out become "unknown". Buckets of whole numbers stand there by their number; hashed values and buckets of
quantiles have nothing that could be left out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from clickherd.data.numeric import LogSquareBuckets, QuantileBuckets
from clickherd.data.vocabulary import HashBuckets, Vocabulary
from clickherd.errors import ConfigError

Embedded = Vocabulary | HashBuckets | LogSquareBuckets | QuantileBuckets
Kept = dict[str, pl.Series]
_SCHEMA = {"column": pl.String, "value": pl.String}


def values_of(encoding: Embedded) -> pl.Series | None:
    """The values that have an id of their own, in the order of their ids; None where none can be left out."""
    if isinstance(encoding, Vocabulary):
        return encoding.values
    if isinstance(encoding, LogSquareBuckets):
        return pl.Series("value", [str(bucket) for bucket in encoding.buckets], pl.String)
    return None


def restricted(encoding: Embedded, values: pl.Series) -> Embedded:
    """The encoding without the values that are not among `values`."""
    own = values_of(encoding)
    if own is None:
        return encoding
    stays = own.is_in(values.implode())
    if isinstance(encoding, Vocabulary):
        return Vocabulary(encoding.values.filter(stays), encoding.null_values)
    assert isinstance(encoding, LogSquareBuckets)
    buckets = [bucket for bucket, stay in zip(encoding.buckets, stays, strict=True) if stay]
    return LogSquareBuckets(buckets=tuple(buckets))


def save_kept(path: Path, kept: Mapping[str, pl.Series]) -> None:
    """Write the file."""
    frames = [pl.DataFrame(schema=_SCHEMA)]
    frames += [
        pl.DataFrame({"column": [name] * len(values), "value": values}, _SCHEMA) for name, values in kept.items()
    ]
    buffer = io.BytesIO()  # so that a full disk is an OSError of Python's, whatever polars would make of it
    pl.concat(frames).write_parquet(buffer)
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(buffer.getbuffer())
    beside.replace(path)


def load_kept(path: str | Path) -> Kept:
    """The values by column.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    table = pl.DataFrame()
    try:
        table = pl.read_parquet(io.BytesIO(Path(path).read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"cannot read the values that are kept: {error.strerror}", file=path, mend="Check data.kept_values."
        ) from None
    except pl.exceptions.PolarsError:
        pass  # told below
    if table.schema != _SCHEMA:
        mend = "It has to be Parquet with the columns `column` and `value`, as clickherd select writes it."
        raise ConfigError("no table of values that are kept", file=path, mend=mend)
    return {str(name): part["value"] for (name,), part in table.partition_by("column", as_dict=True).items()}


def fingerprint(path: str | Path) -> str:
    """A sha256 of the file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
