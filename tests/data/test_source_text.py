"""CSV and TSV: separators, headers, quotes, line ends, compression, and rows that keep their lines."""

import csv
import gzip
import io
import random

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickherd.data import scan, text
from clickherd.data.config import DataConfig
from clickherd.data.source import open_source


def write(folder, content, name="a.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, *, rows=1000, need_label=True, names=(), **config):
    source = open_source(path, DataConfig(**config), need_label=need_label, names=names)
    frames = [chunk.frame for chunk in source.chunks(rows=rows)]
    return pl.concat(frames)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_separator_is_found(tmp_path, separator):
    content = "label,user,price\n1,ann,2.5\n0,bob,\n".replace(",", separator)
    frame = read(write(tmp_path, content))
    assert frame.columns == ["label", "user", "price"]
    assert frame.rows() == [("1", "ann", "2.5"), ("0", "bob", None)]


def test_bar_within_cells_does_not_part_columns(tmp_path):
    content = "label,genres\n1,Action|Comedy|Drama\n0,Drama|Action|War\n"
    assert read(write(tmp_path, content)).columns == ["label", "genres"]


def test_bar_within_cells_of_a_headerless_file(tmp_path):
    content = "1,a|b|c\n0,b|c|d\n1,c|d|e\n"
    frame = read(write(tmp_path, content), label="column_1")
    assert frame.columns == ["column_1", "column_2"]


def test_commas_within_cells_of_a_semicolon_file(tmp_path):
    content = "label;price;title\n1;2,5;one, two, three\n0;3,5;four\n"
    assert read(write(tmp_path, content)).rows()[0] == ("1", "2,5", "one, two, three")


def test_tsv_is_parted_by_tabs_whatever_the_cells_hold(tmp_path):
    frame = read(write(tmp_path, "label\tq\n1\ta,b,c\n0\td,e,f\n", "a.tsv"))
    assert frame["q"].to_list() == ["a,b,c", "d,e,f"]


def test_configured_separator(tmp_path):
    assert read(write(tmp_path, "label:a\n1:x\n"), separator=":").rows() == [("1", "x")]


def test_headerless_file_with_column_1_as_label(tmp_path):
    frame = read(write(tmp_path, "1,ann\n0,bob\n"), label="column_1")
    assert frame.columns == ["column_1", "column_2"]
    assert frame.height == 2


def test_header_without_a_known_name_is_found_by_numbers_below(tmp_path):
    frame = read(write(tmp_path, "user,price\nann,2.5\nbob,3\n"), need_label=False)
    assert frame.columns == ["user", "price"]


def test_all_text_file_has_a_header_only_if_a_name_is_known(tmp_path):
    path = write(tmp_path, "user,item\nann,x\nbob,y\n")
    assert read(path, need_label=False).columns == ["column_1", "column_2"]
    assert read(path, need_label=False, names=["item"]).columns == ["user", "item"]
    assert read(path, need_label=False, roles={"user": "categorical"}).columns == ["user", "item"]
    assert read(path, need_label=False, header=True).columns == ["user", "item"]


def test_unnamed_index_column_gets_a_name(tmp_path):
    assert read(write(tmp_path, ",label,a\n0,1,x\n1,0,y\n")).columns == ["column_1", "label", "a"]


def test_names_lose_the_blanks_around_them(tmp_path):
    assert read(write(tmp_path, "label, user\n1,ann\n")).columns == ["label", "user"]


def test_crlf_bom_and_trailing_blank_lines(tmp_path):
    content = b"\xef\xbb\xbflabel,a\r\n1,x\r\n0,y\r\n\r\n\n"
    assert read(write(tmp_path, content)).to_dict(as_series=False) == {"label": ["1", "0"], "a": ["x", "y"]}


def test_last_line_without_newline(tmp_path):
    assert read(write(tmp_path, "label,a\n1,x\n0,y")).rows() == [("1", "x"), ("0", "y")]


def test_null_values(tmp_path):
    content = "label,a\n1,NULL\n0,\\N\n1,NA\n0,\n1,none\n0,Null\n"
    assert read(write(tmp_path, content))["a"].to_list() == [None, None, None, None, "none", "Null"]
    frame = read(write(tmp_path, content), null_values=("", "none"))
    assert frame["a"].to_list() == ["NULL", "\\N", "NA", None, None, "Null"]


def test_quoted_separators_newlines_and_quotes(tmp_path):
    content = 'label,title\n1,"a, b"\n0,"two\nlines"\n1,"5"" screen"\n'
    assert read(write(tmp_path, content))["title"].to_list() == ["a, b", "two\nlines", '5" screen']


def test_stray_quotes_are_characters_when_no_cell_is_quoted(tmp_path):
    content = 'label,title\n1,5" screen\n0,say "hi" twice\n1,x\n'
    assert read(write(tmp_path, content))["title"].to_list() == ['5" screen', 'say "hi" twice', "x"]


def test_criteo_names_its_columns(tmp_path):
    line = "\t".join(["1", *map(str, range(13)), *(f"{i:08x}" for i in range(26))])
    path = tmp_path / "day_0.gz"
    path.write_bytes(gzip.compress(f"{line}\n{line}\n".encode()))
    frame = read(path, format="criteo")
    assert frame.columns == list(text.CRITEO_COLUMNS)
    assert frame.row(0)[0] == "1"
    assert frame["C26"].to_list() == ["00000019"] * 2


def test_criteo_rows_without_labels_can_be_predicted(tmp_path):
    line = "\t".join([*map(str, range(13)), *(f"{i:08x}" for i in range(26))])
    frame = read(write(tmp_path, f"{line}\n", "test.txt"), format="criteo", need_label=False)
    assert frame.columns == list(text.CRITEO_COLUMNS[1:])


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed(tmp_path, suffix):
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    parts = [b"label,a\n1,x\n", b"0,y\n"]  # several members, as `cat a.gz b.gz` makes
    path = write(tmp_path, b"".join(compress(part) for part in parts), f"a.csv{suffix}")
    assert read(path).rows() == [("1", "x"), ("0", "y")]


def test_compression_is_recognised_without_its_suffix(tmp_path):
    assert read(write(tmp_path, gzip.compress(b"label,a\n1,x\n"))).rows() == [("1", "x")]


def test_chunks_carry_rows_and_lines(tmp_path):
    path = write(tmp_path, "label,a\n" + "".join(f"1,{i}\n" for i in range(10)))
    chunks = list(open_source(path, DataConfig()).chunks(rows=4))
    assert [chunk.frame.height for chunk in chunks] == [4, 4, 2]
    assert [chunk.first_row for chunk in chunks] == [0, 4, 8]
    assert chunks[1].place(2) == {"file": str(path), "row": 7, "line": 8}


def test_line_is_left_out_where_rows_span_lines(tmp_path):
    path = write(tmp_path, 'label,a\n1,"x\ny"\n0,z\n1,u\n0,v\n')
    first, second = open_source(path, DataConfig()).chunks(rows=2)
    assert first.place(1) == {"file": str(path), "row": 2}
    assert second.place(0) == {"file": str(path), "row": 3, "line": 5}


def test_columns_come_in_the_order_asked_for(tmp_path):
    source = open_source(write(tmp_path, "label,a,b\n1,x,y\n"), DataConfig())
    assert next(source.chunks(["b", "label"])).frame.rows() == [("y", "1")]
    assert next(source.chunks(["b", "label"])).frame.columns == ["b", "label"]


CELL = st.text(st.sampled_from("ab1 ,;\t|\"\n\r'é日"), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=12)
    ),
    separator=st.sampled_from(",\t;|"),
    block=st.integers(1, 40),
    rows=st.integers(1, 7),
    terminator=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_is_read_back(tmp_path, monkeypatch, table, separator, block, rows, terminator):
    """However the bytes fall into blocks and the rows into chunks."""
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, lineterminator=terminator, quoting=csv.QUOTE_ALL)
    writer.writerow(["label", *(f"c{i}" for i in range(len(table[0])))])
    writer.writerows(["1", *row] for row in table)
    path = write(tmp_path, buffer.getvalue())
    source = open_source(path, DataConfig(separator=separator, null_values=("",)))
    chunks = list(source.chunks(rows=rows))
    frame = pl.concat([chunk.frame for chunk in chunks])
    assert frame.drop("label").rows() == [tuple(cell or None for cell in row) for row in table]
    assert all(chunk.frame.height <= rows for chunk in chunks)
    lines = buffer.getvalue().split("\n")
    for chunk in chunks:
        if "line" in chunk.place(0):
            assert lines[chunk.place(0)["line"] - 1].startswith('"1"')


def test_spans_end_at_a_budget_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "SPAN_BYTES", 1000)
    monkeypatch.setattr(text, "SPAN_BYTES", 1000)
    monkeypatch.setattr(text, "_PIECE_BYTES", 4000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 512)
    rng = random.Random(0)
    values = ["x" * rng.randrange(300) + str(i) for i in range(400)]
    path = write(tmp_path, "label,a\n" + "".join(f"1,{value}\n" for value in values))
    chunks = list(open_source(path, DataConfig()).chunks())
    assert len(chunks) > 10
    assert pl.concat([chunk.frame for chunk in chunks])["a"].to_list() == values
    for chunk in chunks:
        assert chunk.frame["a"][0].endswith(str(chunk.first_row))
        assert chunk.first_line == chunk.first_row + 2
