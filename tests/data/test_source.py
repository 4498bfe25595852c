"""Sources: files, globs, folders, URLs and frames give the same rows in the same form."""

import datetime
import decimal
import gzip
import subprocess
import sys

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from clickherd.data.config import DataConfig
from clickherd.data.source import open_source
from clickherd.errors import DataError

FRAME = pl.DataFrame(
    {
        "label": [0, 1, 1, 0],
        "user": ["ann", None, "cid", "ann"],
        "price": [1.5, None, 2.0, -1.0],
        "tags": [["a", "b"], [], None, ["c"]],
        "day": [datetime.date(2024, 5, d) for d in (1, 2, 3, 4)],
    }
)
CONFIG = DataConfig()


def everything(source, **kwargs):
    return pl.concat([chunk.frame for chunk in source.chunks(**kwargs)])


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


def _write(frame, path):
    if path.suffix == ".parquet":
        frame.write_parquet(path, row_group_size=2)
    elif path.suffix == ".arrow":
        frame.write_ipc(path)
    elif path.suffix == ".ipc":
        frame.write_ipc_stream(path)
    else:
        content = frame.write_csv().encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".ipc"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_typed_files(tmp_path, suffix, rows):
    path = tmp_path / f"a{suffix}"
    _write(FRAME, path)
    source = open_source(path, CONFIG)
    assert source.columns == tuple(FRAME.columns)
    assert source.dtypes == dict(FRAME.schema)
    assert not source.is_text
    chunks = list(source.chunks(rows=rows))
    assert [chunk.first_row for chunk in chunks] == list(range(0, 4, rows))
    assert_frame_equal(pl.concat([chunk.frame for chunk in chunks]), FRAME)
    assert chunks[-1].place(0) == {"file": str(path), "row": chunks[-1].first_row + 1}
    assert_frame_equal(everything(source, columns=["tags", "label"]), FRAME.select("tags", "label"))
    assert source.head(2).columns == FRAME.columns
    assert source.head(2).height == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: FRAME,
        FRAME.lazy,
        FRAME.to_arrow,
        lambda: FRAME.to_arrow().to_reader(max_chunksize=3),
        lambda: FRAME.to_pandas(use_pyarrow_extension_array=True),
        lambda: FRAME.to_dict(as_series=False),
        FRAME.to_dict,
    ],
    ids=["polars", "lazy", "arrow", "reader", "pandas", "lists", "series"],
)
def test_tables_in_memory(make):
    source = open_source(make(), CONFIG)
    for _ in range(2):  # a stream, too, can be read more than once
        assert_frame_equal(everything(source, rows=3), FRAME)
    assert_frame_equal(source.head(), FRAME)
    assert next(source.chunks()).file.startswith("<")


def test_any_arrow_stream():
    class Table:
        def __arrow_c_stream__(self, requested_schema=None):
            return FRAME.__arrow_c_stream__(requested_schema)

    assert_frame_equal(everything(open_source(Table(), CONFIG)), FRAME)


def test_temporary_file_of_a_stream_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_source(FRAME.lazy(), CONFIG)
    assert list(tmp_path.iterdir())
    del source
    assert not list(tmp_path.iterdir())


def test_pandas_missing_values_and_columns():
    frame = pd.DataFrame(
        {
            "label": [0, 1, 0],
            "x": [1.0, np.nan, 3.0],
            "kind": pd.Categorical(["a", None, "b"]),
            "text": ["u", None, np.nan],
            "when": pd.to_datetime(["2024-01-01", None, "2024-01-02"]),
            "flag": pd.array([True, None, False], dtype="boolean"),
            7: ["x", 1, 2.5],
        },
        index=[5, 5, 9],
    )
    source = open_source(frame, CONFIG)
    got = everything(source)
    assert got.columns == ["label", "x", "kind", "text", "when", "flag", "7"]
    assert got["x"].to_list() == [1.0, None, 3.0]
    assert got["kind"].to_list() == ["a", None, "b"]
    assert got["text"].to_list() == ["u", None, None]
    assert got["when"].null_count() == 1
    assert got["flag"].to_list() == [True, None, False]
    assert got["7"].to_list() == ["x", "1", "2.5"]
    assert source.dtypes["kind"] == pl.String


def test_nan_outside_pandas_stays_nan():
    got = everything(open_source({"label": [0, 1], "x": [float("nan"), None]}, CONFIG))
    assert got["x"].is_nan().to_list() == [True, None]


def test_types_are_made_plain():
    frame = pl.DataFrame(
        {
            "label": [True, False],
            "c": pl.Series(["a", "b"], dtype=pl.Categorical),
            "e": pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
            "d": pl.Series([decimal.Decimal("1.25"), None]),
            "n": pl.Series([None, None], dtype=pl.Null),
            "l": pl.Series([["a"], ["b"]], dtype=pl.List(pl.Categorical)),
            "v": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int32, 2)),
            "i": pl.Series([2**100, None], dtype=pl.Int128),
        }
    )
    source = open_source(frame, CONFIG)
    assert source.dtypes == {
        "label": pl.Boolean,
        "c": pl.String,
        "e": pl.String,
        "d": pl.Float64,
        "n": pl.String,
        "l": pl.List(pl.String),
        "v": pl.List(pl.Int32),
        "i": pl.String,
    }
    got = everything(source)
    assert dict(got.schema) == source.dtypes
    assert got["d"].to_list() == [1.25, None]
    assert got["v"].to_list() == [[1, 2], [3, 4]]
    assert dict(source.head().schema) == source.dtypes


def test_ignored_column_may_be_of_any_type(tmp_path):
    frame = pl.DataFrame({"label": [0, 1], "s": [{"a": 1}, {"a": 2}]})
    source = open_source(frame, DataConfig(roles={"s": "ignored"}))
    assert everything(source).rows() == [(0, None), (1, None)]
    assert source.head().columns == ["label", "s"]


def test_column_of_an_unusable_type_matters_only_if_it_is_asked_for():
    source = open_source(pl.DataFrame({"label": [0, 1], "s": [{"a": 1}, {"a": 2}]}), CONFIG)
    assert everything(source, columns=["label"])["label"].to_list() == [0, 1]
    with pytest.raises(DataError, match="cannot be used"):
        source.head()


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_types_that_polars_does_not_know(stream):
    table = pa.table(
        {
            "label": [0, 1],
            "d": pa.array([1, None], type=pa.decimal256(50, 2)),
            "r": pa.RunEndEncodedArray.from_arrays(pa.array([2]), pa.array(["a"])),
            "i": pa.array([pa.MonthDayNano([1, 2, 3])] * 2),
        }
    )
    source = open_source(table.to_reader() if stream else table, DataConfig(roles={"i": "ignored"}))
    assert everything(source).rows() == [(0, 1.0, "a", None), (1, None, "a", None)]
    with pytest.raises(DataError, match="'i'"):
        open_source(table, CONFIG).head()


def test_column_with_an_empty_name(tmp_path):
    pl.DataFrame({"": [7, 8], "label": [0, 1]}).write_parquet(tmp_path / "a.parquet")
    for data in (tmp_path / "a.parquet", pl.read_parquet(tmp_path / "a.parquet").to_arrow()):
        source = open_source(data, CONFIG)
        assert everything(source).rows() == [(7, 0), (8, 1)]
        assert source.columns == ("", "label")
        assert source.head().height == 2


def test_pandas_sparse_column():
    frame = pd.DataFrame({"label": [0, 1], "p": pd.arrays.SparseArray([0, 1])})
    assert everything(open_source(frame, CONFIG))["p"].to_list() == [0, 1]


def test_types_of_several_files_are_widened(tmp_path):
    pl.DataFrame({"label": [0], "a": pl.Series([1], dtype=pl.Int32), "b": [1], "c": [None]}).write_parquet(
        tmp_path / "1.parquet"
    )
    pl.DataFrame({"a": [2**40], "label": [1], "b": [0.5], "c": ["x"]}).write_parquet(tmp_path / "2.parquet")
    source = open_source(tmp_path, CONFIG)
    assert source.dtypes == {"label": pl.Int64, "a": pl.Int64, "b": pl.Float64, "c": pl.String}
    assert everything(source).rows() == [(0, 1, 1.0, None), (1, 2**40, 0.5, "x")]
    assert source.head().height == 2


def test_text_files_may_order_their_columns_differently(tmp_path):
    (tmp_path / "1.csv").write_text("label,a\n1,x\n")
    (tmp_path / "2.csv").write_text("a,label\ny,0\n")
    source = open_source([tmp_path / "1.csv", str(tmp_path / "2.csv")], CONFIG)
    assert everything(source).rows() == [("1", "x"), ("0", "y")]
    assert [chunk.place(0)["line"] for chunk in source.chunks()] == [2, 2]


def test_folder_glob_and_hidden_files(tmp_path):
    for name in ["b.csv", "a.csv", "sub/c.csv", ".hidden.csv", "_SUCCESS", "_tmp/d.csv", "README.txt", "a.csv.crc"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"label,a\n1,{name}\n")
    names = ["a.csv", "b.csv", "sub/c.csv"]
    assert everything(open_source(tmp_path, CONFIG))["a"].to_list() == names
    assert everything(open_source(f"{tmp_path}/**/*.csv", CONFIG))["a"].sort().to_list()[-2:] == names[1:]
    both = open_source([f"{tmp_path}/a.csv", f"{tmp_path}/*.csv"], CONFIG)  # each file once
    assert everything(both)["a"].to_list() == names[:2]


def test_file_name_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "a[1].csv").write_text("label,a\n1,x\n")
    assert everything(open_source(str(tmp_path / "a[1].csv"), CONFIG)).height == 1


def test_partition_folders_become_columns(tmp_path):
    for day, rows in [("2024-05-01", 1), ("2024-05-02", 2)]:
        folder = tmp_path / f"day={day}"
        folder.mkdir()
        FRAME.drop("day").head(rows).write_parquet(folder / "part-0.parquet")
    source = open_source(tmp_path, CONFIG)
    assert source.dtypes["day"] == pl.String
    assert everything(source, columns=["day"])["day"].to_list() == ["2024-05-01", "2024-05-02", "2024-05-02"]
    assert everything(source, columns=["label", "day"]).columns == ["label", "day"]
    assert source.head()["day"].n_unique() == 2


def test_empty_parts_are_passed_over(tmp_path):
    FRAME.clear().write_parquet(tmp_path / "0.parquet")
    FRAME.write_parquet(tmp_path / "1.parquet")
    assert everything(open_source(tmp_path, CONFIG)).height == 4


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".csv", ".csv.gz"])
def test_remote(tmp_path, memory, suffix):
    frame = FRAME.drop("tags", "day")
    _write(frame, tmp_path / f"a{suffix}")
    memory.pipe(f"/bucket/x/a{suffix}", (tmp_path / f"a{suffix}").read_bytes())
    memory.pipe("/bucket/x/_SUCCESS", b"")
    for url in [f"memory://bucket/x/a{suffix}", "memory://bucket/x", f"memory://bucket/*/a{suffix}"]:
        source = open_source(url, CONFIG)
        got = everything(source, rows=3)
        assert got["user"].to_list() == frame["user"].to_list()
        assert got.height == source.head().height == 4
        assert source.name == f"memory:///bucket/x/a{suffix}"
        assert source.fingerprint() == open_source(url, CONFIG).fingerprint()


def test_file_url(tmp_path):
    (tmp_path / "a b.csv").write_text("label,a\n1,x\n")
    assert everything(open_source((tmp_path / "a b.csv").as_uri(), CONFIG)).height == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow"])
def test_fingerprint_follows_content_not_place(tmp_path, suffix):
    frame = FRAME.drop("tags")
    one, two, other = (tmp_path / f"{name}{suffix}" for name in ("one", "two", "other"))
    for path, content in [(one, frame), (two, frame), (other, frame.with_columns(label=1 - pl.col("label")))]:
        _write(content, path)
    prints = [open_source(path, CONFIG).fingerprint() for path in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]
    source = open_source(one, CONFIG)
    list(source.chunks())
    assert source.fingerprint() == prints[0]
    _write(frame.head(2), one)
    assert open_source(one, CONFIG).fingerprint() != prints[0]


def test_fingerprint_of_a_frame():
    prints = [
        open_source(frame, CONFIG).fingerprint()
        for frame in (
            FRAME,
            FRAME.clone(),
            FRAME.reverse(),
            FRAME.with_columns(label=pl.lit(1)),
            FRAME.rename({"day": "d"}),
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_fingerprint_of_a_frame_is_the_same_in_another_process():
    code = (
        "import polars as pl\n"
        "from clickherd.data.config import DataConfig\n"
        "from clickherd.data.source import open_source\n"
        "pl.Series(['z', 'b'], dtype=pl.Categorical)\n"
        "frame = pl.DataFrame({'label': [0, 1], 'c': pl.Series(['a', 'b'], dtype=pl.Categorical)})\n"
        "print(open_source(frame, DataConfig()).fingerprint())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    frame = pl.DataFrame({"label": [0, 1], "c": pl.Series(["a", "b"], dtype=pl.Categorical)})
    assert open_source(frame, CONFIG).fingerprint() == other


def test_head_is_spread_over_files_and_within_them(tmp_path):
    for name in "abc":
        frame = pl.DataFrame({"label": [0] * 100, "row": list(range(100)), "file": [name] * 100})
        frame.write_parquet(tmp_path / f"{name}.parquet", row_group_size=10)
    head = open_source(tmp_path, CONFIG).head(48)
    assert head.height == 48
    assert head["file"].unique().sort().to_list() == ["a", "b", "c"]
    assert head["row"].max() >= 80
    whole = pl.DataFrame({"label": [0] * 100, "row": list(range(100))})
    assert open_source(whole, CONFIG).head(10)["row"].max() == 90


def test_record_batch_with_dictionaries():
    table = pa.table({"label": [1, 0], "a": pa.array(["x", "y"]).dictionary_encode()})
    source = open_source(table.to_reader(), CONFIG)
    assert source.dtypes["a"] == pl.String
    assert everything(source)["a"].to_list() == ["x", "y"]
