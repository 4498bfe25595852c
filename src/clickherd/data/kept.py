"""Values that keep an id of their own, as a file: what `clickherd select --method optfs` writes.

A Parquet table of `column`, `kind` and `value`, all text. Columns that are not in it keep all their values; of those
that are, the values left out become "unknown". The kind is `value`, or `bucket` for those of whole numbers, which stand
there by their number; hashed values and buckets of quantiles have nothing that could be left out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from clickherd.data.files import replace_file
from clickherd.data.numeric import LogSquareBuckets, QuantileBuckets
from clickherd.data.vocabulary import HashBuckets, Vocabulary
from clickherd.errors import ConfigError

Embedded = Vocabulary | HashBuckets | LogSquareBuckets | QuantileBuckets
Kept = dict[str, pl.DataFrame]  # of a column: `kind` and `value`
_SCHEMA = {"column": pl.String, "kind": pl.String, "value": pl.String}


def kind_of(encoding: Embedded) -> str | None:
    """What the values are that can be left out; None where none can."""
    if isinstance(encoding, Vocabulary):
        return "value"
    return "bucket" if isinstance(encoding, LogSquareBuckets) else None


def values_of(encoding: Embedded) -> pl.Series | None:
    """The values that have an id of their own, in the order of their ids; None where none can be left out."""
    if isinstance(encoding, Vocabulary):
        return encoding.values
    if isinstance(encoding, LogSquareBuckets):
        return pl.Series("value", [str(bucket) for bucket in encoding.buckets], pl.String)
    return None


def restricted(encoding: Embedded, kept: pl.DataFrame, column: str) -> Embedded:
    """The encoding without the values that are not kept.

    Raises:
        ConfigError: what is kept are values of another kind than the column has.
    """
    own, kinds = values_of(encoding), kept["kind"].unique().to_list()
    if own is None or kinds != [kind_of(encoding)]:
        raise ConfigError(
            f"the values that are kept are of another kind ({', '.join(kinds)}) than the column's "
            f"({kind_of(encoding) or 'none that could be left out'})",
            column=column,
            mend="Give the column the role and encoding that it had in clickherd select, or select anew.",
        )
    stays = own.is_in(kept["value"].implode())
    if isinstance(encoding, Vocabulary):
        return Vocabulary(encoding.values.filter(stays), encoding.null_values)
    assert isinstance(encoding, LogSquareBuckets)
    buckets = [bucket for bucket, stay in zip(encoding.buckets, stays, strict=True) if stay]
    return LogSquareBuckets(buckets=tuple(buckets))


def save_kept(path: Path, kept: Mapping[str, tuple[str, pl.Series]]) -> None:
    """Write the file: of each column the kind and the values."""
    frames = [pl.DataFrame(schema=_SCHEMA)]
    for name, (kind, values) in kept.items():
        number = len(values)
        frames.append(pl.DataFrame({"column": [name] * number, "kind": [kind] * number, "value": values}, _SCHEMA))
    buffer = io.BytesIO()  # so that a full disk is an OSError of Python's, whatever polars would make of it
    pl.concat(frames).write_parquet(buffer)
    replace_file(path, buffer.getbuffer())


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
        mend = "It has to be Parquet with the columns `column`, `kind` and `value`, as clickherd select writes it."
        raise ConfigError("no table of values that are kept", file=path, mend=mend)
    return {str(name): part.drop("column") for (name,), part in table.partition_by("column", as_dict=True).items()}


def fingerprint(path: str | Path) -> str:
    """A sha256 of the file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
