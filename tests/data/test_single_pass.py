"""Encoding in one pass writes what the fitted encoder makes of the same rows, whatever they hold."""

import re
from collections import Counter
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clickherd.data import fit as fitting
from clickherd.data import prepare as module
from clickherd.data import text
from clickherd.data.cells import CellSpan
from clickherd.data.codes import EVERY_ROW, ValueCodes
from clickherd.data.config import DataConfig
from clickherd.data.cross import ALL_SAME
from clickherd.data.fit import fit
from clickherd.data.hashing import hash_texts
from clickherd.data.prepare import encode_stream, prepare
from clickherd.data.source import Source, open_source
from clickherd.data.split import NAMES, plan_split
from clickherd.data.store import TRUTH
from clickherd.errors import DataError

ROLES = {
    "site": "categorical",
    "tags": "multi",
    "hashed_tags": "multi",
    "count": "numeric",
    "price": "numeric",
    "scaled": "numeric",
    "standard": "numeric",
    "user": "categorical",
    "kind": "categorical",
}
SETTINGS = {
    "roles": ROLES,
    "numeric_columns": {"count": "log_square", "price": "quantile", "scaled": "minmax", "standard": "standard"},
    "hash_buckets": {"kind": 7, "hashed_tags": 5},
    "crosses": [["site", "user"]],
    "group": "user",
    "time_column": "ts",
    "valid_fraction": 0.2,
    "test_fraction": 0.2,
    "quantile_buckets": 5,
}

SAYS_NOTHING = ("every value is missing", ALL_SAME)

words = st.sampled_from(
    ["a", "b", "1", "1.0", "True", "true", "FALSE", "é", "NA", "", None, "x" * 30, "12345678", "123456789", "-0", "7.0"]
) | st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=10)
numbers = st.none() | st.integers(-3, 70_000) | st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
tags = st.lists(st.sampled_from(["x", "y", "1.0", "1", "", "NA", "Tru"]), max_size=4).map("|".join) | st.none()


@st.composite
def logs(draw):
    rows = draw(st.integers(12, 60))
    column = {
        "site": words,
        "tags": tags,
        "hashed_tags": tags,
        "count": numbers,
        "price": numbers,
        "scaled": numbers,
        "standard": numbers,
        "user": st.integers(1, 6),
        "kind": words,
    }
    frame = {name: draw(st.lists(values, min_size=rows, max_size=rows)) for name, values in column.items()}
    frame["label"] = [draw(st.integers(0, 1)) if i > 3 else i % 2 for i in range(rows)]
    frame["ts"] = list(range(rows))
    frame[TRUTH] = [0.5 + i / 1000 for i in range(rows)]
    return pl.DataFrame(frame, strict=False, schema_overrides={name: pl.Float64 for name in ROLES if name in NUMERIC})


NUMERIC = ("count", "price", "scaled", "standard")


def written(frame, path, *, quotes):
    """The frame as a CSV file, if it can stand there without quotes when none are wanted."""
    texts = frame.select(pl.all().cast(pl.String))
    if not quotes:
        texts = texts.select(pl.all().str.replace_all('["\\t\\r\\n]', "_"))
    path.write_text(texts.write_csv(separator="\t", quote_style="always" if quotes else "never"))
    return path


@pytest.mark.parametrize("form", ["plain", "quoted", "parquet", "frame"])
@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    frame=logs(),
    chunk=st.integers(1, 40),
    split=st.sampled_from(["random", "time", "none"]),
    min_count=st.integers(1, 3),
)
@pytest.mark.usefixtures("short_spans")
def test_the_store_holds_what_the_encoder_makes_of_the_rows(tmp_path_factory, frame, form, chunk, split, min_count):
    folder = tmp_path_factory.mktemp("log")
    data = frame
    if form == "parquet":
        frame.write_parquet(data := folder / "a.parquet")
    elif form != "frame":
        data = written(frame, folder / "a.tsv", quotes=form == "quoted")
    chosen = {"split": "random", "valid_fraction": 0, "test_fraction": 0} if split == "none" else {"split": split}
    config = DataConfig(**{**SETTINGS, **chosen, "min_count": min_count})
    try:
        with cut_into(chunk):
            prepared = prepare(data, config, cache_dir=folder / "cache", seed=3)
    except DataError as error:
        reason = str(error)
        assume(not any(why in reason for why in ("leaves none", "have the label", "no training", *SAYS_NOTHING)))
        raise
    assert [path.name for path in prepared.path.parent.iterdir()] == [prepared.path.name]
    source = open_source(data, config)
    splitter = plan_split(source, config, "ts", valid_given=False, test_given=False, seed=3)
    batches = list(encode_stream(prepared.encoder, source, labels=True, rows=10**6))
    (whole,) = batches
    (raw,) = source.chunks()
    splits = np.zeros(len(whole), np.uint8) if splitter is None else splitter.assign(raw, 0)
    for name in ("site", "user", "tags"):
        cells = raw.column(name).filter(pl.Series(splits == 0)).to_list()
        parts = (
            [part.strip() for cell in cells if cell is not None for part in cell.split("|")]
            if name == "tags"
            else cells
        )
        assert prepared.encoder.embedded[name].values.to_list() == vocabulary(parts, min_count)
    for index, name in enumerate(NAMES):
        rows = np.flatnonzero(splits == index)
        store = getattr(prepared, name)
        assert (store is not None) == (len(rows) > 0)
        if store is None:
            continue
        found = store.read(0, len(store))
        for key in ("ids", "numeric", "labels", "groups", "truth"):
            assert getattr(found, key).tobytes() == getattr(whole, key)[rows].tobytes(), key
        for ours, theirs in zip(found.bags, whole.bags, strict=True):
            expected = [theirs[0][theirs[1][row] : theirs[1][row + 1]].tolist() for row in rows]
            assert [ours[0][a:b].tolist() for a, b in zip(ours[1], ours[1][1:], strict=False)] == expected


def vocabulary(cells, min_count):
    """The values that have an id of their own, in order, counted in plain Python."""
    counts = Counter()
    for cell in cells:
        value = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}.get(cell, cell)
        if value not in (None, *DataConfig().null_values):
            counts[re.sub(r"^(-?(0|[1-9][0-9]*))\.0$", r"\1", str(value), flags=re.ASCII)] += 1
    return [value for value, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= min_count]


@pytest.fixture
def short_spans(monkeypatch):
    """A chunk of few rows has several spans, and a span several tiles."""
    monkeypatch.setattr(text, "_SPAN_ROWS", 3)
    monkeypatch.setattr(fitting, "_TILE_ROWS", 2)


def cut_into(rows):
    """Chunks of so many rows, wherever they are read."""
    plain = Source.chunks

    def chunks(self, columns=None, _=0, cells=()):
        return plain(self, columns, rows, cells)

    return mock.patch.object(Source, "chunks", chunks)


@pytest.mark.parametrize("form", ["plain", "quoted", "parquet"])
def test_the_encoder_does_not_depend_on_chunks_or_form(tmp_path, form):
    rng = np.random.default_rng(0)
    values = pl.Series(["a", "True", "1", "1.0", None, "b", "NA"])[rng.integers(0, 7, 500)]
    frame = pl.DataFrame({"label": rng.integers(0, 2, 500), "site": values, "n": rng.integers(0, 9, 500) * 1000})
    config = DataConfig(roles={"site": "categorical", "n": "numeric"}, min_count=1)
    if form == "parquet":
        frame.write_parquet(tmp_path / "a.parquet")
    else:
        written(frame, tmp_path / "a.tsv", quotes=form == "quoted")
    path = tmp_path / ("a.parquet" if form == "parquet" else "a.tsv")
    prints = set()
    for rows in (1, 7, 10**6):
        for data in (path, frame):
            with cut_into(rows), mock.patch.object(text, "BLOCK_BYTES", 100):
                source = open_source(data, config)
                prints.add(fit(source, module.infer_schema(source, config), config, None).encoder.fingerprint())
    assert len(prints) == 1


@pytest.mark.parametrize("form", ["plain", "quoted", "mixed"])
def test_rows_without_a_group_are_one_group(tmp_path, form):
    users = ["NA", "", "u1", "NULL", "u2"] * 20
    lines = [f"{i % 2}\t{user}\t{i % 7}" for i, user in enumerate(users)]
    for i in {"plain": [], "quoted": range(100), "mixed": [60]}[form]:
        lines[i] = "\t".join(f'"{cell}"' if cell else cell for cell in lines[i].split("\t"))
    (tmp_path / "a.tsv").write_text("\n".join(["label\tuser\tn", *lines]))
    config = DataConfig(group="user", roles={"n": "categorical"}, null_values=["NA", "NULL"], min_count=1)
    with mock.patch.multiple(text, BLOCK_BYTES=64, _SPAN_ROWS=10), cut_into(30):
        prepared = prepare(tmp_path / "a.tsv", config, valid=tmp_path / "a.tsv", cache_dir=tmp_path / "cache")
    missing = hash_texts(pl.Series([""]))[0]
    expected = [missing if user in ("NA", "", "NULL") else hash_texts(pl.Series([user]))[0] for user in users]
    assert prepared.train.groups.tolist() == expected
    assert prepared.valid.groups.tolist() == expected


@settings(deadline=None)
@given(chunks=st.lists(st.lists(st.text(max_size=20) | st.none(), max_size=30), max_size=6))
def test_codes_tell_values_apart(chunks):
    codes, seen = ValueCodes(), {None: 0}
    counts = [0]
    for chunk in chunks:
        out, train = np.empty(len(chunk), np.int32), np.arange(len(chunk)) % 2 == 0
        codes.add_texts(pl.Series(chunk, dtype=pl.String), train, out)
        for i, value in enumerate(chunk):
            if seen.setdefault(value, len(seen)) == len(counts):
                counts.append(0)
            counts[seen[value]] += int(train[i])
        assert out.tolist() == [seen[value] for value in chunk]
    assert codes.texts().to_list() == list(seen)
    assert codes.counts.tolist() == counts


@settings(deadline=None)
@given(cells=st.lists(st.text("abé", max_size=9), min_size=1, max_size=5))
def test_codes_of_cells_at_the_end_of_a_short_text(cells):
    """A value is compared eight bytes at a time, though not so many are there."""
    data = ",".join(cells).encode()
    ends = [*(place for place, byte in enumerate(data) if byte == ord(",")), len(data)]
    before, end = np.array([-1, *ends[:-1]], np.int32), np.array(ends, np.int32)
    codes, out = ValueCodes(), np.empty(len(cells), np.int32)
    codes.add_cells(CellSpan(np.frombuffer(data, np.uint8), before, end), EVERY_ROW, out)
    assert codes.texts()[out].fill_null("").to_list() == cells


def test_codes_of_many_values():
    """The table grows; long values are told apart by more than their hash."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 40_000, 100_000)
    for values in (pl.Series(numbers).cast(pl.String), "a value of some length " + pl.Series(numbers).cast(pl.String)):
        codes, out = ValueCodes(), np.empty(len(values), np.int32)
        codes.add_texts(values, EVERY_ROW, out)
        assert codes.texts()[out].equals(values)
        assert np.array_equal(codes.counts[out], np.bincount(numbers)[numbers])
    codes = ValueCodes()
    codes.add_integers(numbers - 20_000, np.ones(len(numbers), np.bool_), EVERY_ROW, out)
    assert np.array_equal(codes.integers()[out], numbers - 20_000)
