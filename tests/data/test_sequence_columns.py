"""Sequences: lists of another column's values, in order, which share its ids."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.data.config import DataConfig
from clickherd.data.encode import Encoder
from clickherd.data.prepare import encode_stream, prepare
from clickherd.data.source import open_source
from clickherd.data.values import last_parts
from clickherd.errors import ConfigError, DataError, RunError

ALL = {"valid_fraction": 0, "test_fraction": 0, "min_count": 1}
CONFIG = DataConfig(sequences={"past": "item"}, **ALL)
ROWS = pl.DataFrame(
    {
        "label": [0, 1, 1, 0],
        "past": [["5", "7"], [], ["7", "9", "7"], None],
        "item": [7, 5, 8, 5],
        "site": ["a", "b", "a", "b"],
    }
)


def sequence_of(batch, layout, name="past"):
    """The sequence's field, and each row's local ids."""
    position = [field.name for field in layout.fields].index(name)
    values, offsets = batch.bags[position - layout.num_single]
    field = layout.fields[position]
    return field, [(part - field.offset).tolist() for part in np.split(values, offsets[1:-1])]


def test_a_sequence_shares_the_ids_of_its_target(tmp_path):
    prepared = prepare(ROWS, CONFIG, cache_dir=tmp_path)
    encoder, layout = prepared.encoder, prepared.train.layout
    values = encoder.embedded["item"].values.to_list()
    assert sorted(values) == ["5", "7", "8", "9"]
    field, past = sequence_of(prepared.train, layout)
    assert (field.target, field.multi, field.max_length) == ("item", True, 50)
    ids = {value: 2 + values.index(value) for value in values}
    assert past == [[ids["5"], ids["7"]], [1], [ids["7"], ids["9"], ids["7"]], [1]]  # 1 stands for an empty one
    item = next(f for f in layout.fields if f.name == "item")
    assert (field.offset, field.size) == (item.offset, item.size)
    own = prepared.train.ids[:, layout.fields.index(item)] - item.offset
    assert own.tolist() == [ids["7"], ids["5"], ids["8"], ids["5"]]
    assert layout.num_ids == 6 + encoder.embedded["site"].size, "the table has rows for item and site alone"
    assert layout.fields[-1] == field
    column = next(c for c in prepared.profile["columns"] if c["name"] == "past")
    assert (column["missing"], column["distinct"], column["vocabulary"]) == (0.5, 3, 4)


@pytest.mark.parametrize("form", ["parquet", "csv", "frame", "text of numbers"])
def test_lists_and_separated_texts_are_the_same(tmp_path, form):
    rows = ROWS.with_columns(pl.col("past").list.join("|"))
    if form == "parquet":
        ROWS.with_columns(pl.col("past").cast(pl.List(pl.Int64))).write_parquet(tmp_path / "rows.parquet")
        rows = tmp_path / "rows.parquet"
    elif form == "csv":
        rows.write_csv(tmp_path / "rows.csv")
        rows = tmp_path / "rows.csv"
    elif form == "text of numbers":
        rows = rows.with_columns(pl.col("item").cast(pl.Float64).cast(pl.String))
    prepared = prepare(rows, CONFIG, cache_dir=tmp_path / "cache")
    expected = prepare(ROWS, CONFIG, cache_dir=tmp_path / "cache")
    layout = expected.train.layout
    assert prepared.train.layout == layout
    assert sequence_of(prepared.train, layout) == sequence_of(expected.train, layout)
    assert (prepared.train.ids == expected.train.ids).all()


def test_values_count_in_both_columns_and_others_are_unknown(tmp_path):
    config = CONFIG.model_copy(update={"min_count": 2})
    encoder = prepare(ROWS, config, cache_dir=tmp_path).encoder
    assert encoder.embedded["item"].values.to_list() == ["7", "5"]  # 1 + 3 and 2 + 1; 8 and 9 once
    new = pl.DataFrame({"past": [["5", "8", None, "x"], ["x"]], "item": [7, 9], "site": ["a", "a"]})
    (batch,) = encode_stream(encoder, open_source(new, config, need_label=False), labels=False)
    assert sequence_of(batch, encoder.layout)[1] == [[3, 0, 0], [0]]
    assert encoder.unseen == {"site": 0, "item": 1, "past": 3}


def test_the_last_values_are_kept(tmp_path):
    config = CONFIG.model_copy(update={"max_length": 2})
    prepared = prepare(ROWS, config, cache_dir=tmp_path)
    assert sorted(prepared.encoder.embedded["item"].values) == ["5", "7", "8", "9"]
    seven, nine = (2 + prepared.encoder.embedded["item"].values.to_list().index(v) for v in "79")
    assert sequence_of(prepared.train, prepared.train.layout)[1][2] == [nine, seven]
    new = ROWS.drop("label").head(3)
    (batch,) = encode_stream(prepared.encoder, open_source(new, config, need_label=False), labels=False)
    assert sequence_of(batch, prepared.encoder.layout) == (
        prepared.train.layout.fields[-1],
        sequence_of(prepared.train, prepared.train.layout)[1][:3],
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=5), st.integers(1, 4))
def test_last_parts_are_those_of_a_slice(rows, max_length):
    parts = pl.Series([part for row in rows for part in row], dtype=pl.String)
    kept, sizes = last_parts(parts, np.array([len(row) for row in rows], np.int64), max_length)
    assert sizes.tolist() == [len(row[-max_length:]) for row in rows]
    assert kept.to_list() == [part for row in rows for part in row[-max_length:]]


def test_the_target_may_be_hashed(tmp_path):
    config = CONFIG.model_copy(update={"hash_buckets": {"item": 5}})
    prepared = prepare(ROWS, config, cache_dir=tmp_path)
    layout = prepared.train.layout
    _, past = sequence_of(prepared.train, layout)
    position = [field.name for field in layout.fields].index("item")
    own = prepared.train.ids[:, position] - layout.fields[position].offset
    assert past[0] == [own[1], own[0]]  # 5, 7
    assert layout.fields[position].size == 7


def test_a_saved_encoder_keeps_the_vocabulary_once(tmp_path):
    encoder = prepare(ROWS, CONFIG, cache_dir=tmp_path / "cache").encoder
    encoder.save(tmp_path / "encoder")
    saved = pl.read_parquet(tmp_path / "encoder" / "vocabularies.parquet")
    assert sorted(saved["column"].unique()) == ["item", "site"]
    again = Encoder.load(tmp_path / "encoder")
    assert again.layout == encoder.layout
    assert again.fingerprint() == encoder.fingerprint()
    text = (tmp_path / "encoder" / "encoder.json").read_text()
    (tmp_path / "encoder" / "encoder.json").write_text(text.replace('"target": "item"', '"target": "gone"'))
    with pytest.raises(RunError, match="do not fit: gone"):
        Encoder.load(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"sequences": {"pasd": "item"}},
            r"'pasd', which is no column.*Did you mean 'past'\? Valid names: item, label",
        ),
        ({"sequences": {"past": "items"}}, r"'items', which is no column.*Did you mean 'item'\? Valid names: item"),
        ({"sequences": {"past": "past"}}, "lists values of another feature"),
        ({"sequences": {"past": "label"}}, "lists values of another feature"),
        ({"sequences": {"past": "item"}, "roles": {"past": "multi"}}, "'past' is set to be multi"),
        ({"sequences": {"past": "item"}, "roles": {"item": "numeric"}}, "'item' is set to be numeric"),
        ({"sequences": {"past": "item"}, "numeric_columns": {"item": "minmax"}}, "'item' is set to be numeric"),
        ({"sequences": {"past": "item"}, "hash_buckets": {"past": 5}}, "shares the ids of 'item'"),
        ({"roles": {"past": "sequence"}}, "not of which column's values"),
    ],
)
def test_a_sequence_that_cannot_be_is_a_setting_at_fault(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        prepare(ROWS, DataConfig(**ALL, **settings), cache_dir=tmp_path)


def test_a_target_that_tells_nothing_is_told(tmp_path):
    rows = ROWS.with_columns(item=pl.lit("same"))
    with pytest.raises(DataError, match="'past' lists values of 'item', which has to be categorical but is ignored"):
        prepare(rows, CONFIG, cache_dir=tmp_path)


def test_sequences_without_any_value_are_left_out(tmp_path):
    rows = ROWS.with_columns(past=pl.lit([], pl.List(pl.String)))
    prepared = prepare(rows, CONFIG, cache_dir=tmp_path)
    assert not prepared.train.layout.sequences
    assert next(c.note for c in prepared.encoder.schema.columns if c.name == "past") == "every value is missing"
