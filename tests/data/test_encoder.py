"""Ids, bags and numbers of raw rows; unknown and missing values; the encoder's folder."""

import json
import pickle
import threading
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import polars as pl
import pytest

from clickherd.data.config import DataConfig
from clickherd.data.encode import Encoder, in_parallel
from clickherd.data.fit import fit
from clickherd.data.prepare import encode_stream
from clickherd.data.schema import infer_schema
from clickherd.data.source import RawChunk, open_source
from clickherd.errors import DataError, RunError
from clickherd.runtime import threads_kept, use_threads

TRAIN = {
    "site": ["b", "a", "a", "c", "b", "a", None, "rare"],
    "user_id": [1, 1, 1, 2, 2, 3, 3, None],
    "tags": ["x|y", "x", "", None, "y|x", "z", "x|rare", "z"],
    "price": [1.0, 2.0, 10.0, 10.0, None, 1.0, 2.0, 1000.0],
    "label": [0, 1, 0, 1, 0, 1, 0, 1],
}
SETTINGS = {"roles": {"tags": "multi"}}


def fitted(columns=TRAIN, **settings):
    config = DataConfig(**{**SETTINGS, **settings})
    source = open_source(pl.DataFrame(columns), config)
    return fit(source, infer_schema(source, config), config, None).encoder


def encoded(encoder, frame, *, labels=False):
    source = open_source(frame, DataConfig(), need_label=labels)
    (batch,) = encode_stream(encoder, source, labels=labels)
    return batch


def local_ids(encoder, batch, name):
    (position,) = (i for i, field in enumerate(encoder.layout.fields) if field.name == name)
    field = encoder.layout.fields[position]
    if not field.multi:
        return (batch.ids[:, position] - field.offset).tolist()
    values, offsets = batch.bags[position - encoder.layout.num_single]
    return [(values[a:b] - field.offset).tolist() for a, b in pairwise(offsets)]


def test_layout_is_one_id_space_single_valued_fields_first():
    layout = fitted().layout
    assert [(f.name, f.offset, f.size, f.multi) for f in layout.fields] == [
        ("site", 0, 4, False),  # unknown, missing, a, b
        ("user_id", 4, 5, False),
        ("price", 9, 5, False),  # buckets 1 (of 1.0), 2 and 5
        ("tags", 14, 5, True),  # x, y, z
    ]
    assert (layout.num_ids, layout.num_single, layout.numeric) == (19, 3, ())


def test_ids_go_by_count_then_value_and_rare_or_new_values_are_unknown():
    encoder = fitted()
    frame = {**TRAIN, "site": ["a", "b", "c", "rare", "new", None, "", "NA"]}
    batch = encoded(encoder, frame)
    assert local_ids(encoder, batch, "site") == [2, 3, 0, 0, 0, 1, 1, 1]
    assert encoder.unseen == {"site": 3, "user_id": 0, "price": 1, "tags": 1}


def test_unseen_adds_up_until_it_is_cleared():
    encoder = fitted()
    for times in (1, 2):
        encoded(encoder, {**TRAIN, "site": ["new"] * 8})
        assert encoder.unseen["site"] == 8 * times
    encoder.unseen.clear()
    encoded(encoder, TRAIN)
    assert encoder.unseen["site"] == 2


def test_min_count_one_keeps_every_value():
    encoder = fitted(min_count=1)
    assert encoder.layout.fields[0].size == 2 + 4
    encoded(encoder, TRAIN)
    assert not any(encoder.unseen.values())


@pytest.mark.parametrize(
    "values",
    [
        ["1", "2", "3", "9", None],
        ["1.0", "2.0", "3.0", "9.0", ""],
        [1, 2, 3, 9, None],
        [1.0, 2.0, 3.0, 9.0, None],
        pl.Series([1, 2, 3, 9, None], dtype=pl.UInt8),
        pl.Series(["1", "2", "3", "9", None], dtype=pl.Categorical),
    ],
)
def test_a_value_has_one_id_however_it_is_typed(values):
    encoder = fitted()
    batch = encoded(encoder, pl.DataFrame({"user_id": values, "site": "a", "tags": "x", "price": 1}))
    assert local_ids(encoder, batch, "user_id") == [2, 3, 4, 0, 1]


def test_pandas_ids_with_missing_values_are_the_same_ids():
    encoder = fitted()
    frame = pd.DataFrame({"user_id": [1, None, 3], "site": "a", "tags": "x", "price": 1.0})
    assert frame["user_id"].dtype == float
    assert local_ids(encoder, encoded(encoder, frame), "user_id") == [2, 1, 4]


def test_text_true_and_boolean_true_meet():
    encoder = fitted({"label": [0, 1] * 4, "mobile": [True, False, True, None] * 2, "k": [1, 2] * 4}, roles={})
    for values in (["True", "False", None], [True, False, None]):
        assert local_ids(encoder, encoded(encoder, {"mobile": values, "k": [1, 1, 1]}), "mobile") == [2, 3, 1]


def test_bags():
    encoder = fitted()
    batch = encoded(encoder, TRAIN)
    assert local_ids(encoder, batch, "tags") == [[2, 3], [2], [1], [1], [3, 2], [4], [2, 0], [4]]
    frame = {**TRAIN, "tags": ["|x||y|", "NA", " x | y ", "x|x", "|", "new|new", "", None]}
    assert local_ids(encoder, encoded(encoder, frame), "tags") == [[2, 3], [1], [2, 3], [2, 2], [1], [0, 0], [1], [1]]
    lists = {**TRAIN, "tags": [["x", "y"], [], [None], None, ["x", None], [""], ["new"], ["z"]]}
    assert local_ids(encoder, encoded(encoder, lists), "tags") == [[2, 3], [1], [1], [1], [2], [1], [0], [4]]


def test_log_square_is_the_default_for_whole_numbers():
    encoder = fitted()
    assert local_ids(encoder, encoded(encoder, TRAIN), "price") == [2, 3, 4, 4, 1, 2, 3, 0]
    text = {**TRAIN, "price": ["1", " 2.0", "10", "1e1", "", "1.9", "NA", "999"]}
    assert local_ids(encoder, encoded(encoder, text), "price") == [2, 3, 4, 4, 1, 2, 1, 0]


def test_scaled_columns_are_numbers_not_ids():
    encoder = fitted(numeric="minmax")
    batch = encoded(encoder, TRAIN)
    assert encoder.layout.numeric == ("price",)
    assert batch.numeric.dtype == np.float32
    assert batch.numeric[:, 0] == pytest.approx(np.array([0, 1, 9, 9, 0, 0, 1, 999]) / 999)


def test_hash_buckets_need_no_vocabulary_and_are_pinned():
    encoder = fitted(hash_buckets={"site": 7, "tags": 5})
    batch = encoded(encoder, TRAIN)
    sizes = {field.name: field.size for field in encoder.layout.fields}
    assert (sizes["site"], sizes["tags"]) == (9, 7)
    # these ids must never change: saved models rest on them
    assert local_ids(encoder, batch, "site") == [4, 3, 3, 4, 4, 3, 1, 8]
    assert local_ids(encoder, batch, "tags")[:5] == [[3, 6], [3], [1], [1], [6, 3]]


def test_labels_groups_and_truth_come_only_when_asked_for():
    encoder = fitted()
    frame = {**TRAIN, "true_probability": np.linspace(0, 1, 8)}
    batch = encoded(encoder, frame, labels=True)
    assert batch.labels.tolist() == TRAIN["label"]
    assert batch.truth == pytest.approx(np.linspace(0, 1, 8))
    assert len(set(batch.groups[:3].tolist())) == 1
    assert len(set(batch.groups.tolist())) == 4  # users 1, 2, 3 and the missing one
    bare = encoded(encoder, {name: values for name, values in frame.items() if name != "label"})
    assert len(bare.labels) == len(bare.groups) == len(bare.truth) == 0
    assert np.array_equal(bare.ids, batch.ids)


def test_groups_do_not_depend_on_the_type_of_the_column():
    encoder = fitted()
    floats = {**TRAIN, "user_id": [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, None]}
    assert np.array_equal(encoded(encoder, TRAIN, labels=True).groups, encoded(encoder, floats, labels=True).groups)


def test_missing_columns_are_listed_and_further_ones_ignored():
    encoder = fitted()
    frame = pl.DataFrame(TRAIN).drop("site", "price", "label").with_columns(further=1)
    with pytest.raises(DataError, match="missing: site, price"):
        encoded(encoder, frame)
    frame = frame.with_columns(site=pl.lit("a"), price=1.0)
    assert encoded(encoder, frame).ids.shape == (8, 3)
    with pytest.raises(DataError, match=r"missing: site \("):
        encoder.transform(RawChunk(frame.drop("site"), "f.csv", 0), labels=False)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("price", ["1", "2", "cheap"], r"'cheap' is not a number.*column 'price', row 13"),
        ("price", [1.0, float("nan"), 1.0], r"nan.*not a finite number.*column 'price', row 12"),
        ("price", ["1", "2", "-inf"], r"-inf.*column 'price', row 13"),
        ("price", [[1.0], [2.0], [3.0]], r"List.*not numbers.*column 'price'"),
    ],
)
def test_numbers_that_cannot_be_read_are_named_with_their_place(column, values, message):
    encoder = fitted()
    frame = pl.DataFrame({"site": "a", "user_id": 1, "tags": "x", column: values})
    with pytest.raises(DataError, match=message) as caught:
        encoder.transform(RawChunk(frame, "day2.csv", 10), labels=False)
    assert caught.value.file == "day2.csv"
    assert caught.value.mend


def test_the_line_of_a_text_file_is_told():
    frame = pl.DataFrame({"site": "a", "user_id": 1, "tags": "x", "price": ["1", "?"]})
    with pytest.raises(DataError, match="line 8"):
        fitted().transform(RawChunk(frame, "day2.csv", 5, 7), labels=False)


def test_folder_is_self_contained(tmp_path):
    encoder = fitted(numeric_columns={"price": "standard"}, hash_buckets={"site": 5}, positive="1")
    encoder.save(tmp_path / "encoder")
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == ["encoder.json", "vocabularies.parquet"]
    loaded = Encoder.load(tmp_path / "encoder")
    assert (loaded.schema, loaded.layout, loaded.reading) == (encoder.schema, encoder.layout, encoder.reading)
    assert loaded.fingerprint() == encoder.fingerprint()
    ours, theirs = encoded(encoder, TRAIN, labels=True), encoded(loaded, TRAIN, labels=True)
    assert np.array_equal(ours.ids, theirs.ids)
    assert np.array_equal(ours.numeric, theirs.numeric)
    assert np.array_equal(ours.bags[0][0], theirs.bags[0][0])


def test_odd_column_names_and_values_survive_the_folder(tmp_path):
    columns = {'a/b "c"\n': ["ä", "\n", "日本", "ä\x00", "'"] * 2, "label": [0, 1] * 5}
    encoder = fitted(columns, roles={})
    encoder.save(tmp_path)
    batch = encoded(Encoder.load(tmp_path), columns)
    assert np.array_equal(batch.ids, encoded(encoder, columns).ids)
    assert len(np.unique(batch.ids)) == 5


def test_fingerprint_tells_vocabularies_apart():
    other = {**TRAIN, "site": ["b", "a", "a", "c", "c", "a", None, "rare"]}
    assert fitted().fingerprint() == fitted().fingerprint()
    assert fitted(other).fingerprint() != fitted().fingerprint()
    assert fitted(min_count=1).fingerprint() != fitted().fingerprint()


def test_encoding_keeps_to_the_threads_that_are_set():
    with threads_kept():
        use_threads(1)
        meet = threading.Barrier(2)  # two threads at the same time would pass it
        with pytest.raises(threading.BrokenBarrierError):
            in_parallel([partial(meet.wait, timeout=0.1)] * 2)


def test_encoder_can_be_pickled():
    encoder = fitted()
    encoded(encoder, TRAIN)
    copy = pickle.loads(pickle.dumps(encoder))
    assert np.array_equal(encoded(copy, TRAIN).ids, encoded(encoder, TRAIN).ids)


def _edit(folder, change):
    content = json.loads((folder / "encoder.json").read_text())
    change(content)
    (folder / "encoder.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "encoder.json").unlink(), "a file is missing.*encoder.json"),
        (lambda f: (f / "vocabularies.parquet").unlink(), "a file is missing.*vocabularies.parquet"),
        (lambda f: (f / "encoder.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "vocabularies.parquet").write_bytes(b"PAR1"), "cannot be read"),
        (lambda f: pl.DataFrame({"x": [1]}).write_parquet(f / "vocabularies.parquet"), "other columns"),
        (lambda f: _edit(f, lambda c: c.update(format=2)), "format"),
        (lambda f: _edit(f, lambda c: c.update(more=1)), "more"),
        (lambda f: _edit(f, lambda c: c["encodings"]["site"].update(num_values=5)), "gives 5 values.*2"),
        (lambda f: _edit(f, lambda c: c["encodings"].pop("site")), "do not fit: site"),
        (lambda f: _edit(f, lambda c: c["data_schema"]["columns"][0].update(role="ignored")), "do not fit: site"),
        (lambda f: _edit(f, lambda c: c["data_schema"]["columns"][0].update(role="odd")), "role"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, message):
    fitted().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(RunError, match=f"(?s){message}"):
        Encoder.load(tmp_path)
