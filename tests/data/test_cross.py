"""Crossed columns: a category for each combination of values, in training and in prediction, from any file."""

import polars as pl
import pytest

from clickherd.data.config import DataConfig
from clickherd.data.prepare import encode_stream, prepare
from clickherd.data.schema import infer_schema
from clickherd.data.source import open_source
from clickherd.errors import ConfigError, DataError

CROSSED = DataConfig(crosses=(("user", "item"),), min_count=1, valid_fraction=0, test_fraction=0)
ROWS = pl.DataFrame(
    {
        "label": [0, 1, 1, 0] * 3,
        "user": [1, 1, 2, None] * 3,
        "item": ["a", "b", "a", "a"] * 3,
        "tags": [["x"], ["y"], ["x", "y"], ["y"]] * 3,
    }
)


def vocabulary(encoder):
    return encoder.embedded["user*item"].values.to_list()


def test_each_combination_is_a_category_and_a_missing_part_makes_it_missing(tmp_path):
    prepared = prepare(ROWS, CROSSED, cache_dir=tmp_path)
    assert sorted(vocabulary(prepared.encoder)) == ["1 × a", "1 × b", "2 × a"]
    field = next(f for f in prepared.encoder.layout.fields if f.name == "user*item")
    position = prepared.encoder.layout.fields.index(field)
    local = prepared.train.ids[:, position] - field.offset
    assert (local.reshape(3, 4) == local[:4]).all()
    assert local[3] == 1  # missing
    assert len(set(local[:3])) == 3
    assert local.min() >= 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_new_rows_are_crossed_alike_whatever_the_file(tmp_path, suffix):
    encoder = prepare(ROWS, CROSSED, cache_dir=tmp_path / "cache").encoder
    path = tmp_path / f"new{suffix}"
    new = pl.DataFrame({"user": [1, 2, 9], "item": ["b", "b", "a"], "tags": ["x", "y", "x"]})
    new.write_csv(path) if suffix == ".csv" else new.write_parquet(path)
    (batch,) = encode_stream(encoder, open_source(path, CROSSED, need_label=False), labels=False)
    field = next(f for f in encoder.layout.fields if f.name == "user*item")
    local = batch.ids[:, encoder.layout.fields.index(field)] - field.offset
    assert local.tolist() == [2 + vocabulary(encoder).index("1 × b"), 0, 0]  # the others were never seen
    assert encoder.unseen["user*item"] == 2


def test_an_id_that_pandas_wrote_as_a_float_is_the_same_in_every_file(tmp_path):
    """A column with missing values: 1.0 as text, 1.0 as a number, 1 as an integer."""
    rows = pl.DataFrame({"label": [0, 1, 1, 0], "user": [1.0, 2.0, None, 1.0], "item": ["a", "b × c", "a", "a"]})
    paths = [tmp_path / "a.csv", tmp_path / "a.parquet", tmp_path / "whole.csv"]
    rows.write_csv(paths[0])
    rows.write_parquet(paths[1])
    rows.with_columns(pl.col("user").cast(pl.Int64)).write_csv(paths[2])
    assert "1.0" in paths[0].read_text()
    assert "1.0" not in paths[2].read_text()
    encoder = prepare(paths[0], CROSSED, cache_dir=tmp_path / "cache").encoder
    position = [f.name for f in encoder.layout.fields].index("user*item")
    ids = []
    for path in paths:
        (batch,) = encode_stream(encoder, open_source(path, CROSSED, need_label=False), labels=False)
        ids.append(batch.ids[:, position].tolist())
    assert ids[0] == ids[1] == ids[2]
    assert encoder.unseen["user*item"] == 0


def test_values_that_hold_the_sign_between_do_not_run_into_each_other(tmp_path):
    rows = pl.DataFrame({"label": [0, 1], "user": ["p × q", "p"], "item": ["r", "q × r"]})
    assert len(vocabulary(prepare(rows, CROSSED, cache_dir=tmp_path).encoder)) == 2


def test_a_cross_can_be_hashed(tmp_path):
    hashed = CROSSED.model_copy(update={"hash_buckets": {"user*item": 7}})
    prepared = prepare(ROWS, hashed, cache_dir=tmp_path)
    assert next(f.size for f in prepared.encoder.layout.fields if f.name == "user*item") == 9


@pytest.mark.parametrize(
    ("crosses", "error", "words"),
    [
        ((("user", "itme"),), DataError, ("cross user*itme needs", "Did you mean 'item'?")),
        ((("user", "tags"),), ConfigError, ("column of lists",)),
        ((("user", "label"),), ConfigError, ("holds the label",)),
    ],
)
def test_what_cannot_be_crossed(crosses, error, words):
    with pytest.raises(error) as found:
        open_source(ROWS, CROSSED.model_copy(update={"crosses": crosses}))
    assert all(word in str(found.value) for word in words)


@pytest.mark.parametrize("crosses", [[["user"]], [["user", "user"]], [["user", "item"], ["user", "item"]]])
def test_a_cross_takes_two_different_columns(crosses):
    with pytest.raises(ValueError, match="cross"):
        DataConfig(crosses=crosses)


def test_a_column_missing_at_prediction_is_named(tmp_path):
    with pytest.raises(DataError, match="the cross user\\*item needs") as found:
        open_source(ROWS.drop("item"), CROSSED, need_label=False)
    assert found.value.column == "item"


def test_a_cross_with_a_column_that_tells_nothing_has_a_note(tmp_path):
    rows = ROWS.with_columns(item=pl.lit("a"))
    encoder = prepare(rows, CROSSED, cache_dir=tmp_path).encoder
    (line,) = (line for line in encoder.schema.lines() if line.startswith("user*item"))
    assert line.endswith("crossed; item is the same in every row")
    (line,) = (line for line in infer_schema(open_source(rows, CROSSED), CROSSED).lines() if "user*item" in line)
    assert line.endswith("crossed; item is the same in every row")
    (line,) = (line for line in prepare(ROWS, CROSSED, cache_dir=tmp_path).encoder.schema.lines() if "*" in line)
    assert line.endswith("crossed")
    many = pl.DataFrame({"label": [0, 1] * 100, "user": range(200), "item": ["a"] * 200, "site": ["x", "y"] * 100})
    (line,) = (line for line in prepare(many, CROSSED, cache_dir=tmp_path).encoder.schema.lines() if "*" in line)
    assert line.endswith("crossed; user is ignored: numbers the rows; item is the same in every row")
