"""Input that cannot be used: each message names what is wrong, where, and how to mend it."""

import gzip
import os
import re
from unittest import mock

import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import zstandard
from fsspec.registry import known_implementations

from clickherd.data import prepare as preparing
from clickherd.data import schema
from clickherd.data import text as reading
from clickherd.data.config import DataConfig
from clickherd.data.prepare import prepare
from clickherd.data.recorded import RecordedRows
from clickherd.data.source import open_source
from clickherd.errors import DataError

CONFIG = DataConfig()


def fails(data, *texts, config=CONFIG, **kwargs):
    """Reading fails, whether on opening or while rows come in; the message holds all `texts`."""
    with pytest.raises(DataError) as caught:
        for _ in open_source(data, config, **kwargs).chunks():
            pass
    message = str(caught.value)
    for text in texts:
        assert text in message
    assert caught.value.mend, message
    return caught.value


def write(folder, content, name="a.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_missing_file_and_patterns(tmp_path):
    fails(tmp_path / "no.csv", "no such file or folder", "no.csv")
    fails(f"{tmp_path}/*.csv", "no file matches the pattern", "*.csv")
    fails(tmp_path, "no data file in the folder", str(tmp_path), ".parquet")
    fails([], "no data")
    fails("", "empty path")


def test_unknown_suffix_lists_the_known_ones(tmp_path):
    error = fails(write(tmp_path, "x", "a.xlsx"), "unknown kind of file: 'a.xlsx'", ".csv", ".parquet", "data.format")
    assert error.file.endswith("a.xlsx")
    fails(write(tmp_path, "x", "a.gz"), "unknown kind of file")
    fails(write(tmp_path, "x", "a.parquet.gz"), "unknown kind of file")


def test_files_of_different_kinds(tmp_path):
    write(tmp_path, "label,a\n1,2\n")
    pl.DataFrame({"label": [1]}).write_parquet(tmp_path / "b.parquet")
    fails(tmp_path, "different kinds", "a.csv", "b.parquet")


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \n", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path, content):
    fails(write(tmp_path, content), "the file is empty", "a.csv")


@pytest.mark.parametrize("content", ["label,a", "label,a\n", "label,a\r\n\r\n"])
def test_header_only(tmp_path, content):
    fails(write(tmp_path, content), "has a header but no rows", "a.csv")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_typed_file_without_rows(tmp_path, suffix):
    frame = pl.DataFrame({"label": [1]}).clear()
    path = tmp_path / f"a.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ipc(path)
    fails(path, "there are no rows", path.name)
    fails(frame, "there are no rows", "<DataFrame>")


def test_empty_typed_file(tmp_path):
    fails(write(tmp_path, b"", "a.parquet"), "damaged", "a.parquet")
    fails(write(tmp_path, b"", "a.arrow"), "a.arrow")


def test_duplicated_columns(tmp_path):
    fails(write(tmp_path, "label,a,b,a\n1,2,3,4\n"), "same name: 'a'", "a.csv")
    frame = pd.DataFrame([[1, 2, 3]], columns=["label", 1, "1"])
    fails(frame, "same name: '1'", "<DataFrame>")
    fails(pa.table([[1], [2]], names=["label", "label"]), "same name: 'label'")


@pytest.mark.parametrize(
    ("content", "line", "text"),
    [
        ("label,a\n1,x\n0\n1,y\n", 3, "too few cells: 1 instead of 2"),
        ("label,a\n1,x\n0,y,z\n1,y\n", 3, "too many cells: 3 instead of 2"),
        ("label,a\n1,x\n0,y\n1,y,", 4, "too many cells: 3 instead of 2"),
        ("label,a\n1,x\n0", 3, "too few cells: 1 instead of 2"),
        ('label,a\n1,"x\ny"\n0\n', 4, "too few cells"),
        ('label,a\n1,x\n0,"y\n1,z\n', 3, "never closed"),
        ('label,a\n1,x\n0,"y"z\n1,z\n', 3, "text follows the closing quote"),
        ('label,a\n1,"x"\n0,5" tv\n', 3, "quotes enclose cells in line 2"),
        ("label,a\n1,x\n\n0,y\n", 3, "blank line"),
        ("label,a\r\n1,x\r\n\r\n0,y\r\n", 3, "blank line"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_broken_rows_name_the_line(tmp_path, monkeypatch, content, line, text, suffix):
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path = write(tmp_path, compress(content.encode()), f"a.csv{suffix}")
    error = fails(path, text, str(path), f"line {line}")
    assert error.line == line
    monkeypatch.setattr(preparing, "SAMPLE_ROWS", 1)  # otherwise it is met before the cache is touched
    with pytest.raises(DataError, match=re.escape(text)):
        prepare(path, CONFIG, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == [], "something is left behind"


def test_a_broken_row_met_after_others_were_recorded_leaves_nothing(tmp_path, monkeypatch):
    path = write(tmp_path, "label,a\n" + "1,x\n0,y\n" * 20 + "1\n")
    for module in (preparing, schema):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 8)
    monkeypatch.setattr(reading, "_SPAN_ROWS", 4)
    monkeypatch.setattr(reading, "_PIECE_BYTES", 0)  # every span is a chunk
    with (
        mock.patch.object(RecordedRows, "append", autospec=True, side_effect=RecordedRows.append) as append,
        pytest.raises(DataError, match="line 42"),
    ):
        prepare(path, CONFIG, cache_dir=tmp_path / "cache")
    assert append.call_count >= 5
    assert list((tmp_path / "cache").iterdir()) == []


def test_broken_row_far_into_the_file(tmp_path):
    lines = ["label,a,b", *(f"1,{i},x" for i in range(300_000))]
    lines[250_000] += ",more"
    error = fails(write(tmp_path, "\n".join(lines)), "too many cells: 4 instead of 3")
    assert error.line == 250_001


def test_rows_before_a_broken_one_still_come(tmp_path):
    path = write(tmp_path, "label,a\n1,x\n0,y\n1\n")
    chunks = open_source(path, CONFIG).chunks(rows=1)
    assert [next(chunks).frame.row(0), next(chunks).frame.row(0)] == [("1", "x"), ("0", "y")]
    with pytest.raises(DataError, match="line 4"):
        next(chunks)


@pytest.mark.parametrize("place", ["header", "first", "last", "cut"])
def test_bytes_that_are_not_utf8(tmp_path, place):
    rows = [b"label,a", *(b"1,x" for _ in range(5000))]
    index = {"header": 0, "first": 1, "last": 5000, "cut": 5000}[place]
    rows[index] += b"\xe9t\xe9" if place != "cut" else "é".encode()[:1]
    error = fails(write(tmp_path, b"\n".join(rows)), "not UTF-8", "iconv")
    assert error.line == index + 1


def test_utf16(tmp_path):
    fails(write(tmp_path, "label,a\n1,x\n".encode("utf-16")), "not UTF-8", "line 1")


def test_another_format_behind_a_csv_name(tmp_path):
    pl.DataFrame({"label": [1]}).write_parquet(tmp_path / "a.csv")
    fails(tmp_path / "a.csv", "not text but Parquet", "data.format")


def test_lone_carriage_returns(tmp_path):
    fails(write(tmp_path, "label,a\r1,x\r0,y\r"), "carriage return")


@pytest.mark.parametrize("cut", [-3, 40])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damaged_compressed_text(tmp_path, suffix, cut):
    compress = gzip.compress if suffix == ".gz" else zstandard.compress
    content = compress(b"label,a\n" + b"".join(f"1,{i * 7919 % 1000}\n".encode() for i in range(5000)))
    path = write(tmp_path, content[:cut], f"a.csv{suffix}")
    fails(path, "damaged", str(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_plain_text_behind_a_compressed_name(tmp_path, suffix):
    fails(write(tmp_path, "label,a\n1,x\n", f"a.csv{suffix}"), "not compressed", suffix)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_damaged_typed_file(tmp_path, suffix):
    frame = pl.DataFrame({"label": [0, 1] * 500, "a": [str(i) for i in range(1000)]})
    path = tmp_path / f"a.{suffix}"
    frame.write_parquet(path) if suffix == "parquet" else frame.write_ipc(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, "damaged", path.name)
    path.write_bytes(b"label,a\n1,2\n")
    fails(path, "damaged", path.name)


def test_parquet_with_damaged_pages(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"label": [0, 1] * 500, "a": [str(i) for i in range(1000)]}).write_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    fails(path, "damaged", path.name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission(tmp_path):
    path = write(tmp_path, "label,a\n1,x\n")
    path.chmod(0)
    fails(path, "no permission", str(path))


def test_permission_denied_by_the_system(tmp_path, monkeypatch):
    path = write(tmp_path, "label,a\n1,x\n")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clickherd.data.locate.Path.open", refuse)
    fails(path, "no permission", str(path))


def test_files_whose_columns_differ(tmp_path):
    one = write(tmp_path, "label,a,b\n1,2,3\n", "1.csv")
    two = write(tmp_path, "label,a\n1,2\n", "2.csv")
    error = fails([one, two], str(one), str(two))
    assert (error.column, error.file) == ("b", str(two))
    error = fails([two, one], str(one), str(two))
    assert (error.column, error.file) == ("b", str(two))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([1], ["x"]),
        ([1.5], ["x"]),
        ([True], ["x"]),
        ([[1]], [["x"]]),
        ([[1]], [1]),
        ([1], pd.to_datetime(["2024-01-01"])),
        (pd.to_datetime(["2024-01-01"], utc=True), pd.to_datetime(["2024-01-01"])),
    ],
)
def test_types_that_do_not_mix(tmp_path, left, right):
    pl.DataFrame({"label": [1], "a": left}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"label": [1], "a": right}).write_parquet(tmp_path / "2.parquet")
    error = fails(tmp_path, "1.parquet", "2.parquet", "type")
    assert error.column == "a"


@pytest.mark.parametrize("values", [[{"x": 1}], [b"x"], [[[1]]], [pd.Timedelta(1).to_pytimedelta()]])
def test_types_that_no_model_reads(values):
    error = fails(pl.DataFrame({"label": [1], "a": values}), "cannot be used", "Drop it", "--role a=ignored")
    assert error.column == "a"


def test_pandas_column_of_objects():
    error = fails(pd.DataFrame({"label": [1, 0], "a": [{1, 2}, "x"]}), "Python objects: set, str", "drop it")
    assert error.column == "a"


def test_missing_label(tmp_path):
    path = write(tmp_path, "clicked,a\n1,2\n")
    error = fails(path, "--label", ["clicked", "a"][0])
    assert error.column == "label"
    assert open_source(path, CONFIG, need_label=False).columns == ("clicked", "a")


def test_missing_label_of_a_file_taken_for_headerless(tmp_path):
    fails(write(tmp_path, "user,item\nann,x\n"), "column_1", "data.header=true")


def test_unknown_column_suggests_the_nearest():
    source = open_source({"label": [1], "user_id": [2]}, CONFIG)
    with pytest.raises(DataError, match="Did you mean 'user_id'"):
        next(source.chunks(["userid"]))


def test_separator_that_cannot_part(tmp_path):
    fails(write(tmp_path, "label,a\n1,2\n"), "data.separator", config=DataConfig(separator="::"))


def test_columns_of_unequal_length():
    fails({"label": [1, 2], "a": [1, 2, 3]}, "do not make a table")


def test_what_is_no_table():
    fails(42, "type int")
    fails([1, 2, 3], "type list")
    fails(pl.Series([1, 2]), "not a table", "<Series>")


def test_lazy_frame_that_fails():
    fails(pl.LazyFrame({"label": ["x"]}).select(pl.col("label").cast(pl.Int64)), "LazyFrame cannot be computed")


def test_remote_faults():
    fails("memory://nowhere/a.csv", "no such file", "memory://nowhere/a.csv")
    fails("memory://nowhere/*.csv", "no file matches the pattern")
    fails("nosuchprotocol://bucket/a.csv", "nosuchprotocol")
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/broken/a.csv.gz", gzip.compress(b"label,a\n1,x\n")[:-4])
    fails("memory://broken/a.csv.gz", "cannot be read", "whole", "a.csv.gz")
    filesystem.rm("/broken", recursive=True)


def test_missing_driver_names_the_package(monkeypatch):
    monkeypatch.setitem(
        known_implementations, "drv", {"class": "no_such_module.FS", "err": "Install drvfs to access drv"}
    )
    fails("drv://bucket/a.csv", "Install drvfs", "drv://bucket/a.csv")
