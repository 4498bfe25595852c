"""Cells taken from unquoted text where they lie are what polars reads there, as texts and as numbers."""

import io
import itertools
import re
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickherd.data import text
from clickherd.data.cells import CellSpan, parse_numbers, tiles
from clickherd.data.codes import EVERY_ROW
from clickherd.data.columns import NumberReader
from clickherd.data.config import DataConfig
from clickherd.data.source import open_source
from clickherd.data.values import read_numbers
from clickherd.errors import DataError

NULLS = ("NA", "-1", "7.50")
CONFIG = DataConfig(header=True, separator=",", null_values=NULLS)
SETTINGS = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

numerals = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9).map(str),
    st.from_regex(r"-?[0-9]{0,22}(\.[0-9]{0,22})?", fullmatch=True),
    st.sampled_from(
        ["", "NA", "-1", "7.50", "-0", "0.1", "1e5", "+3", "1.", ".5", "-", "9007199254740993", "007", " 4 "]
    ),
)
words = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters=',"\n\r'), max_size=12)
cells = st.one_of(numerals, words, st.sampled_from(["True", "é", "x" * 40, "a\rb", "a\r", "\r"]))


def chunks_of(path, rows, names, config=CONFIG):
    return list(open_source(path, config, need_label=False).chunks(names, rows, cells=names))


@SETTINGS
@given(
    table=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=30)
    ),
    rows=st.integers(1, 12),
    block=st.integers(1, 200),
    terminator=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_cells_are_what_polars_reads(tmp_path, table, rows, block, terminator, last):
    names = [f"c{i}" for i in range(len(table[0]))]
    if len(names) == 1:
        table = [[cell.strip("\r") or "NA"] for (cell,) in table]  # an empty line would be a blank one
    content = terminator.join(",".join(record) for record in [names, *table]) + (terminator if last else "")
    (tmp_path / "a.csv").write_bytes(content.encode())
    with mock.patch.multiple(text, BLOCK_BYTES=block, _SPAN_ROWS=3):
        chunks = chunks_of(tmp_path / "a.csv", rows, names)
        frames = list(open_source(tmp_path / "a.csv", CONFIG, need_label=False).chunks(rows=rows))
    assert all(set(chunk.cells) == set(names) for chunk in chunks)
    expected = pl.read_csv(
        io.BytesIO(content.encode()),
        quote_char=None,
        null_values=["", *NULLS],
        schema=dict.fromkeys(names, pl.String()),
    )
    assert pl.concat([chunk.frame for chunk in frames]).equals(expected)
    assert pl.concat([pl.DataFrame([chunk.column(name) for name in names]) for chunk in chunks]).equals(expected)
    for chunk in chunks:
        picked = np.flatnonzero(np.arange(chunk.height) % 3 == 1)
        assert all(chunk.cells[n].take(picked).equals(chunk.column(n)[picked], check_names=True) for n in names)


@SETTINGS
@given(
    column=st.lists(numerals, min_size=1, max_size=40), rows=st.integers(1, 30), odd=st.sampled_from(["", "inf", "x"])
)
def test_numbers_are_what_the_frame_gives(tmp_path, column, rows, odd):
    column = [*column, odd]
    (tmp_path / "a.csv").write_text("label,n\n" + "".join(f"1,{cell}\n" for cell in column))
    reader = NumberReader(CONFIG)
    with mock.patch.object(text, "_SPAN_ROWS", 3):
        chunks = chunks_of(tmp_path / "a.csv", rows, ["label", "n"])
    for chunk in chunks:
        expected, told = outcome(lambda chunk=chunk: read_numbers(chunk.column("n"), chunk, NULLS))
        found, told_too = outcome(lambda chunk=chunk: read_by(reader, chunk))
        assert told_too == told
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        assert np.where(np.isnan(found), 0, found).tobytes() == np.where(np.isnan(expected), 0, expected).tobytes()


@pytest.mark.parametrize("behind", ["", "12345678"])
@pytest.mark.parametrize("prefix", ["", "1234", "1.3"])
def test_plain_decimals_are_told_from_all_else(prefix, behind):
    """All short texts of these bytes, also such as fill a word and such as end with the text."""
    texts = [prefix + "".join(end) for size in range(1, 6) for end in itertools.product("07.-", repeat=size)]
    data = np.frombuffer(",".join([*texts, behind]).encode(), np.uint8)
    ends = np.flatnonzero(data == ord(",")).astype(np.int32)
    out = np.empty(len(texts))
    odd = parse_numbers(CellSpan(data, np.concatenate([[-1], ends[:-1]]).astype(np.int32), ends), out).tolist()
    plain = [re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) is not None for text in texts]
    assert odd == [row for row, is_plain in enumerate(plain) if not is_plain]
    expected = [float(text) if is_plain else np.nan for text, is_plain in zip(texts, plain, strict=True)]
    assert out.tobytes() == np.array(expected).tobytes()


def outcome(work):
    """What comes of it: numbers, or none and the error's words."""
    try:
        return work(), None
    except DataError as error:
        return np.empty(0), str(error)


def read_by(reader, chunk):
    reader.begin(chunk.height)
    for number, start, stop, first in tiles(chunk.cells["n"].spans, 2):
        reader.read(chunk.cells["n"].spans[number].part(start, stop), EVERY_ROW, first)
    return reader.numbers("n", chunk)


def test_text_with_quotes_comes_as_a_frame(tmp_path):
    (tmp_path / "a.csv").write_text('label,a\n1,"x,y"\n0,z\n')
    (chunk,) = chunks_of(tmp_path / "a.csv", 10, ["label", "a"])
    assert not chunk.cells
    assert chunk.frame["a"].to_list() == ["x,y", "z"]


def test_quotes_after_plain_text_give_the_same_rows(tmp_path):
    plain = "".join(f"{i % 2},v{i}\n" for i in range(300))
    (tmp_path / "a.csv").write_text("label,a\n" + plain + '1,"q,q"\n' + plain)
    with mock.patch.object(text, "BLOCK_BYTES", 64):
        chunks = chunks_of(tmp_path / "a.csv", 50, ["label", "a"])
    assert {bool(chunk.cells) for chunk in chunks} == {True, False}
    values = pl.concat([chunk.column("a") for chunk in chunks]).to_list()
    assert values == [f"v{i}" for i in range(300)] + ["q,q"] + [f"v{i}" for i in range(300)]
