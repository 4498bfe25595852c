"""The role of every column, found from a sample of the rows and the settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl
from pydantic import ConfigDict, TypeAdapter

from clickherd.data.config import DataConfig, NumericEncoding, Role
from clickherd.data.cross import ALL_SAME, cross_name, cross_note
from clickherd.data.kinds import are_fractions, are_times, as_numbers, without_odd
from clickherd.data.source import Source
from clickherd.data.store import TRUTH
from clickherd.data.values import read_parts, without_nulls
from clickherd.errors import ConfigError, DataError, did_you_mean

SAMPLE_ROWS = 50_000
FEATURE_ROLES = ("numeric", "categorical", "multi", "sequence")
GROUP_NAMES = ("user_id", "user", "uid", "userid", "user_idx")

# Words within a column's name
_MEASURE = re.compile(
    "counts?|cnt|num|amount|amt|price|age|hours|days|minutes|seconds|duration|weight|score|gain|loss|size|length|"
    "clicks|views|impressions|rate|ratio|percent|pct|avg|mean|total|quantity|qty|balance|salary|revenue|distance"
)
_ID = re.compile("ids?|uid|idx|index|key|code|zip|zipcode|postcode|hash")
_TIME = re.compile("time|timestamp|ts|date|datetime|epoch")
_THING = re.compile("user|item|ad|site|page|movie|product|device|city|country|region|campaign|creative")  # whole names
_EPOCHS = ((1e8, 1e10), (1e11, 1e13), (1e14, 1e16))  # seconds, milliseconds and microseconds of 1973 to 2286
_CRITEO = {*(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))}  # counts and categories

_MIN_ROWS_OF_AN_ID = 100
_ID_SHARE = 0.95  # of values that differ
_MIN_VALUES_OF_A_KIND = 10  # fewer say nothing about a file
_MANY = 0.3  # of values that differ, in a column that may be a measure
_MULTI_SHARE = 0.05  # of rows that hold the separator
_OTHER_SEPARATORS, _OTHER_SHARE = "|;,", 0.5  # in most rows they are worth a hint


@dataclass(frozen=True)
class Column:
    """What a column is used as, and why if that is not obvious."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    role: Role
    note: str = ""
    encoding: NumericEncoding | None = None  # of numeric columns; never "auto"
    target: str | None = None  # of sequences: the column whose values they list


@dataclass(frozen=True)
class Schema:
    """The columns of a data set, in their order."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    columns: tuple[Column, ...]
    label: str
    group: str | None = None  # by which GAUC groups rows
    time_column: str | None = None

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that a model sees."""
        return tuple(column for column in self.columns if column.role in FEATURE_ROLES)

    @property
    def sequences(self) -> dict[str, str]:
        """Sequence → its target."""
        return {column.name: column.target for column in self.columns if column.target is not None}

    def to_json(self) -> dict[str, Any]:
        """As plain dicts and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Schema:
        """The inverse of `to_json`; raises pydantic's ValidationError on anything else."""
        return TypeAdapter(cls).validate_python(data)

    def lines(self) -> list[str]:
        """An aligned table for printing: name, role, encoding, note."""
        rows = [(c.name, c.role, c.encoding or "", self._marks(c)) for c in self.columns]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return [
            "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
        ]

    def _marks(self, column: Column) -> str:
        groups = "groups rows for GAUC" if column.name == self.group else ""
        return "; ".join(text for text in (column.note, groups) if text)


def infer_schema(source: Source, config: DataConfig, *, settle: bool = True) -> Schema:
    """The role of each column of `source`.

    A column that is constant or empty in the sample may vary later. `settle` looks through all rows for that; without
    it, such columns are left as features (for `fit`, which counts all rows anyway).

    Raises:
        ConfigError: a setting names a column that is not there, or two settings contradict each other.
        DataError: no feature is left, or a column that says nothing was asked for as a feature.
    """
    _check_names(source, config)
    heads = source.heads(SAMPLE_ROWS)
    _check_kinds(heads, config)
    sample = pl.concat([frame for _, frame in heads])
    criteo = config.format == "criteo" or set(source.columns) >= _CRITEO
    columns = tuple(_column(sample[name], config, criteo=criteo) for name in source.columns)
    if settle:
        doubtful = [c.name for c in columns if c.role in FEATURE_ROLES and _is_uniform(sample[c.name], config)]
        reasons = _uniform_columns(source, doubtful, config)
        columns = tuple(drop(c, reasons[c.name], config) if c.name in reasons else c for c in columns)
    times = [column.name for column in columns if column.role == "timestamp"]
    groups = [name for word in GROUP_NAMES for name in source.columns if name.lower() == word and name != config.label]
    schema = Schema(
        note_crosses(columns, config),
        config.label,
        config.group or next(iter(groups), None),
        config.time_column or next(iter(times), None),
    )
    return check_features(schema, source.name)


def check_features(schema: Schema, file: str) -> Schema:
    """The schema itself, if a feature is left."""
    if not schema.features:
        reasons = "; ".join(f"{c.name}: {c.note or c.role}" for c in schema.columns if c.role != "label")
        raise DataError(
            f"no column is left to predict from{f' ({reasons})' if reasons else ''}",
            file=file,
            mend="Add columns, or give one a role with --role COLUMN=categorical.",
        )
    return schema


def check_target(sequence: str, target: Column, file: str) -> None:
    """See that the target of a sequence has embeddings, one a row.

    Raises:
        DataError: it has none.
    """
    if target.role != "categorical":
        raise DataError(
            f"{sequence!r} lists values of {target.name!r}, which has to be categorical but is {target.role}"
            f"{f': {target.note}' if target.note else ''}",
            file=file,
            column=target.name,
            mend=f"Choose another target, or say --role {sequence}=multi to use the list by itself.",
        )


def note_crosses(columns: Sequence[Column], config: DataConfig) -> tuple[Column, ...]:
    """The columns, with a note on each cross of an ignored one."""
    useless = {c.name: c.note for c in columns if c.role == "ignored" and c.note != "as set"}
    notes = {cross_name(crossed): cross_note(crossed, useless) for crossed in config.crosses}
    noted = [c.name in notes and c.note.startswith("crossed") for c in columns]
    return tuple(replace(c, note=notes[c.name]) if is_cross else c for c, is_cross in zip(columns, noted, strict=True))


def drop(column: Column, reason: str, config: DataConfig) -> Column:
    """The column as ignored, for `reason`.

    Raises:
        DataError: the settings ask for it as a feature.
    """
    if config.roles.get(column.name) in FEATURE_ROLES:
        raise DataError(
            f"the column cannot be {config.roles[column.name]}: {reason}",
            column=column.name,
            mend="Leave its role out, or say --role " + f"{column.name}=ignored.",
        )
    return Column(column.name, "ignored", reason)


def _check_names(source: Source, config: DataConfig) -> None:
    """See that settings name columns that are there and do not contradict each other."""
    named: list[tuple[str, Iterable[str]]] = [
        ("features", config.features),
        ("roles", config.roles),
        ("hash_buckets", config.hash_buckets),
        ("numeric_columns", config.numeric_columns),
        ("group", [config.group] if config.group else []),
        ("time_column", [config.time_column] if config.time_column else []),
    ]
    for setting, names in named:
        for name in names:
            if name not in source.columns:
                raise ConfigError(
                    f"data.{setting} names {name!r}, which is no column", mend=did_you_mean(name, source.columns)
                )
    for name, role in config.roles.items():
        if (role == "label") != (name == config.label):
            raise ConfigError(
                f"data.roles makes {name!r} {role}, but the label is {config.label!r}", mend="Set --label."
            )
    if config.label in config.features:
        raise ConfigError(f"data.features names {config.label!r}, which is the label", mend="Take it out.")
    for name, target in config.targets.items():
        if config.features and name in config.features and target not in config.features:
            raise ConfigError(
                f"data.features names {name!r}, but not {target!r}, whose values it lists", mend=f"Add {target!r}."
            )
    _check_sequences(source, config)
    for name in config.hash_buckets:
        if config.hash_buckets[name] < 1:
            raise ConfigError(f"data.hash_buckets.{name} = {config.hash_buckets[name]}", mend="Give 1 or more.")
    wants: list[tuple[str, Iterable[str], tuple[str, ...]]] = [
        ("hash_buckets", config.hash_buckets, ("categorical", "multi")),
        ("numeric_columns", config.numeric_columns, ("numeric",)),
    ]
    for setting, names, roles in wants:
        for name in names:
            given = "label" if name == config.label else config.roles.get(name)
            if (given is not None and given not in roles) or (
                setting == "hash_buckets" and name in config.numeric_columns
            ):
                raise ConfigError(
                    f"data.{setting} is for {' and '.join(roles)} columns, but {name!r} is {given or 'numeric'}",
                    mend="Take one of the two settings out.",
                )


def _check_sequences(source: Source, config: DataConfig) -> None:
    """See that sequences list values of a column that may be a categorical feature."""
    for name, target in config.targets.items():
        title = f"the history {name!r}" if name in config.histories else f"the sequence {name}:{target}"
        for column in (name, target):
            if column not in source.columns:
                raise ConfigError(
                    f"{title} names {column!r}, which is no column", mend=did_you_mean(column, source.columns)
                )
        if name == target or target in config.targets or config.label in (name, target):
            raise ConfigError(
                f"{title} is none: a sequence lists values of another feature",
                mend="Write --sequence COLUMN:TARGET, such as hist_items:item_id.",
            )
        for column, role in ((name, "sequence"), (target, "categorical")):
            given = config.roles.get(column, "numeric" if column in config.numeric_columns else role)
            if given != role:
                raise ConfigError(
                    f"{column!r} is set to be {given}, but {title} needs it {role}",
                    mend="Take one of the two settings out.",
                )
        if name in config.hash_buckets:
            raise ConfigError(
                f"data.hash_buckets names {name!r}, which shares the ids of {target!r}",
                mend=f"Name {target!r} instead.",
            )
    for name, role in config.roles.items():
        if role == "sequence" and name not in config.targets:
            raise ConfigError(
                f"data.roles makes {name!r} a sequence, but not of which column's values",
                mend=f"Say --sequence {name}:COLUMN instead.",
            )


def _check_kinds(heads: list[tuple[str, pl.DataFrame]], config: DataConfig) -> None:
    """See that no column holds numbers only in one file and no number at all in another."""
    numeric: dict[str, str] = {}  # column → a file where it holds numbers only
    worded: dict[str, str] = {}  # column → a file where it holds no number
    for file, frame in heads if len(heads) > 1 else ():
        for name in set(frame.columns) - {config.label, *config.roles, *config.targets}:
            present = without_nulls(frame[name], config.null_values).drop_nulls()
            if present.dtype != pl.String or len(present) < _MIN_VALUES_OF_A_KIND:
                continue
            numbers = present.str.strip_chars().cast(pl.Float64, strict=False)
            if not numbers.has_nulls():
                numeric.setdefault(name, file)
            elif numbers.null_count() == len(numbers):
                worded.setdefault(name, file)
    for name in sorted(numeric.keys() & worded.keys()):
        raise DataError(
            f"the column's type changes between files: numbers in {numeric[name]}, but text such as "
            f"{_first_present(heads, worded[name], name, config)!r} here",
            file=worded[name],
            column=name,
            mend=f"Mend the file, or say --role {name}=categorical (or ignored).",
        )


def _first_present(heads: list[tuple[str, pl.DataFrame]], file: str, name: str, config: DataConfig) -> object:
    values = next(frame[name] for found, frame in heads if found == file)
    return without_nulls(values, config.null_values).drop_nulls()[0]


def _column(values: pl.Series, config: DataConfig, *, criteo: bool) -> Column:
    name = values.name
    if name == config.label:
        return Column(name, "label")
    if name == TRUTH:
        note = "known click probability of the built-in log: never a feature"
        return drop(Column(name, "ignored"), note, config)
    if config.roles.get(name) == "ignored":
        return Column(name, "ignored", "as set")
    present = without_nulls(values, config.null_values).drop_nulls()
    found = _given(present, config, criteo=criteo) or _inferred(present, config)
    if config.features and name not in config.features and found.role in FEATURE_ROLES:
        return Column(name, "ignored", "as set")
    _check_role(found, present)
    if found.role != "numeric":
        return found
    encoding = config.numeric_columns.get(name, config.numeric)
    if encoding == "auto":
        numbers = present.cast(pl.Float64, strict=False).drop_nulls()
        encoding = "log_square" if (numbers.floor() == numbers).all() else "quantile"
    return Column(name, "numeric", found.note, encoding)


def _check_role(column: Column, present: pl.Series) -> None:
    """See that values of such a type can play the role."""
    is_list = isinstance(present.dtype, pl.List)
    readable = present.dtype in (pl.String, pl.Boolean) or present.dtype.is_numeric()
    if (is_list and column.role not in ("multi", "sequence")) or (column.role == "numeric" and not readable):
        raise DataError(
            f"the column cannot be {column.role}: it holds {present.dtype}",
            column=column.name,
            mend=f"Say --role {column.name}={'multi' if is_list else 'categorical'}, or leave its role out.",
        )


def _is_uniform(values: pl.Series, config: DataConfig) -> bool:
    return without_nulls(values, config.null_values).n_unique() <= 1


def _uniform_columns(source: Source, names: list[str], config: DataConfig) -> dict[str, str]:
    """Those of the columns that are the same in all rows, and how so. Reading ends once none is left."""
    first: dict[str, pl.Series] = {}
    for chunk in source.chunks(names) if names else ():
        for name in names:
            values = without_nulls(chunk.frame[name], config.null_values)
            first[name] = pl.concat([first.get(name, values.head(0)), values.unique()]).unique()
        names = [name for name in names if len(first[name]) <= 1]
        if not names:
            break
    return {name: says_nothing(len(first[name].drop_nulls()), 1, 1) for name in names}


def says_nothing(present: int, distinct: int, rows: int) -> str:
    """Why a column cannot tell rows apart; empty when it may."""
    if rows and not present:
        return "every value is missing"
    return ALL_SAME if distinct == 1 and present == rows else ""


def _given(present: pl.Series, config: DataConfig, *, criteo: bool) -> Column | None:
    """The role that settings or the format give."""
    name = present.name
    if name in config.targets:
        return Column(name, "sequence", f"of {config.targets[name]}", target=config.targets[name])
    if name in config.roles:
        return Column(name, config.roles[name], "as set")
    if name in config.numeric_columns:
        return Column(name, "numeric", "as set")
    if criteo and name in _CRITEO:
        return Column(name, "numeric" if name[0] == "I" else "categorical")
    if name in map(cross_name, config.crosses):
        return Column(name, "categorical", "crossed")
    if name in config.targets.values() and name not in config.hash_buckets:
        return Column(name, "categorical", "as set")
    if name in config.hash_buckets:
        multi = isinstance(present.dtype, pl.List) or _is_multi(present, config)
        return Column(name, "multi" if multi else "categorical", "hashed")
    return None


def _inferred(present: pl.Series, config: DataConfig) -> Column:
    """The role that the values and the name suggest."""
    name, words = present.name, _words(present.name)
    if isinstance(present.dtype, pl.List):
        return Column(name, "multi")
    if _is_time(present, words):
        return Column(name, "timestamp", "no feature by itself; split=time orders rows by it")
    if present.dtype == pl.Boolean:
        return Column(name, "categorical")
    numbers = as_numbers(present)
    if numbers is None:
        if _is_multi(present, config):
            return Column(name, "multi", f"parts separated by {config.multi_separator!r}")
        found = _id_of_rows(present) or Column(name, "categorical")
        notes = (found.note, _odd_note(present, config), _other_parts(present, config))
        return replace(found, note="; ".join(note for note in notes if note))
    whole = bool((numbers.floor() == numbers).all())
    measures, named_id = _any(_MEASURE, words), _names_ids(name)
    text = "numbers in text" if present.dtype == pl.String else ""
    if not whole or (are_fractions(present) and not named_id):
        return Column(name, "numeric", text)
    if len(numbers) >= _MIN_ROWS_OF_AN_ID and (numbers.diff().drop_nulls() > 0).all():
        return Column(name, "ignored", "numbers the rows")
    if measures:
        return Column(name, "numeric", text)
    if (numbers < -1).any():  # a lone -1 is a common mark for "none" among ids
        return Column(name, "numeric", "has negative values")
    note = "" if named_id else "whole numbers are taken for ids"
    if note and numbers.n_unique() > _MANY * len(numbers):
        note += f"; if they measure something: --role {name}=numeric"
    return _id_of_rows(present) or Column(name, "categorical", note)


def _names_ids(column: str) -> bool:
    words = _words(column)
    return not _any(_MEASURE, words) and (_any(_ID, words[-1:]) or _THING.fullmatch(column.lower()) is not None)


def _odd_note(present: pl.Series, config: DataConfig) -> str:
    """A note on texts that would be times or numbers but for a few; empty for others and for ids."""
    found, name = without_odd(present), present.name
    if found is None:
        return ""
    fitting, odd = found
    role = _inferred(fitting, config).role
    if role == "timestamp":
        return f"almost all values are times; {odd}: mend the rows, or leave them out"
    if role != "numeric" and _names_ids(name):
        return ""
    return (
        f"almost all values are numbers; {odd}: mend the rows, or name it in data.null_values, and say "
        f"--role {name}=numeric"
    )


def nearly_times(source: Source, config: DataConfig) -> dict[str, str]:
    """Columns that would tell the time but for a few values, with words for these such as "'soon' is not one"."""
    sample, found = source.head(SAMPLE_ROWS), {}
    for name in source.columns:
        split = without_odd(without_nulls(sample[name], config.null_values).drop_nulls())
        if split is not None and _is_time(split[0], _words(name)):
            found[name] = split[1]
    return found


def _is_time(present: pl.Series, words: list[str]) -> bool:
    if are_times(present):
        return True
    numbers = as_numbers(present) if _any(_TIME, words) else None
    if numbers is None:
        return False
    return any(numbers.is_between(start, end).all() for start, end in _EPOCHS)


def _is_multi(present: pl.Series, config: DataConfig) -> bool:
    """Whether many rows hold the separator, and the parts between recur more than whole values do."""
    return present.dtype == pl.String and _has_parts(present, config.multi_separator, config, _MULTI_SHARE)


def _has_parts(present: pl.Series, separator: str, config: DataConfig, share: float) -> bool:
    separated = present.str.contains(separator, literal=True)
    if separated.sum() < max(1, share * len(present)):
        return False
    parts, _ = read_parts(present, separator, config.null_values)
    return parts.n_unique() <= len(parts) / 2 and parts.n_unique() <= present.n_unique()


def _other_parts(present: pl.Series, config: DataConfig) -> str:
    """A hint for texts that another separator than the configured one parts; empty for others."""
    if present.dtype != pl.String:
        return ""
    for separator in _OTHER_SEPARATORS:
        if separator != config.multi_separator and _has_parts(present, separator, config, _OTHER_SHARE):
            return f"if these are lists: --set data.multi_separator='{separator}' --role {present.name}=multi"
    return ""


def _id_of_rows(present: pl.Series) -> Column | None:
    """Ignored, if nearly every row has a value of its own."""
    if len(present) < _MIN_ROWS_OF_AN_ID or present.n_unique() < _ID_SHARE * len(present):
        return None
    return Column(present.name, "ignored", "nearly every row has a value of its own: it names rows")


def _words(name: str) -> list[str]:
    """`hoursPerWeek_2` → hours, per, week, 2."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def _any(pattern: re.Pattern[str], words: list[str]) -> bool:
    return any(pattern.fullmatch(word) for word in words)
