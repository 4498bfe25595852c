"""Histories: the same user's strictly earlier rows, whatever the files and the order of the rows; no row sees more."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.data.config import DataConfig
from clickherd.data.prepare import encode_stream, prepare
from clickherd.data.source import open_source
from clickherd.errors import ConfigError, DataError, UserError
from clickherd.settings import validated

ALL = {"valid_fraction": 0, "test_fraction": 0, "min_count": 1, "time_column": "time", "roles": {"time": "ignored"}}
SEEN, CLICKED = "item by user", "item by user where label"

ROW = st.tuples(
    st.sampled_from(["u", "v", None]), st.sampled_from([1, 2, 3, None]), st.integers(0, 5), st.sampled_from([0, 1])
)


def frame_of(rows):
    schema = {"user": pl.String, "item": pl.Int64, "time": pl.Int64, "label": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def naive(rows, earlier, max_length, *, clicked):
    """By a loop over all pairs of rows; those of `earlier` come first at equal times of other rows."""
    found = []
    for user, _, time, _ in rows:
        past = [
            (t, item)
            for u, item, t, label in [*earlier, *rows]
            if u == user and user is not None and item is not None and t < time and (label == 1 or not clicked)
        ]
        past.sort(key=lambda event: event[0])
        found.append([str(item) for _, item in past][-max_length:])
    return found


def values_of(chunks, name):
    """The histories in chunks of rows, as texts."""
    return [[c.texts[name][i] for i in positions] for c in chunks for positions in c.frame[name].to_list()]


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=25), st.lists(ROW, max_size=15), st.integers(1, 4), st.integers(1, 7))
def test_histories_are_those_of_a_naive_loop(rows, earlier, max_length, chunk):
    config = DataConfig(histories=(SEEN, CLICKED), max_length=max_length, **ALL)
    before = [open_source(frame_of(earlier), config)] if earlier else []
    source = open_source(frame_of(rows), config, earlier=before)
    chunks = list(source.chunks(["user", CLICKED, SEEN], chunk))
    assert [c.frame.columns for c in chunks] == [["user", CLICKED, SEEN]] * len(chunks)
    assert values_of(chunks, SEEN) == naive(rows, earlier, max_length, clicked=False)
    assert values_of(chunks, CLICKED) == naive(rows, earlier, max_length, clicked=True)


LOG = frame_of([("u", 7, 1, 0), ("u", 5, 2, 1), ("v", 7, 2, 1), ("u", 5, 2, 0), ("u", 7, 3, 1), ("v", 5, 9, 0)] * 3)


def histories(source, name=SEEN):
    return values_of(source.chunks([name], 4), name)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_are_one_log_and_rows_keep_their_place(tmp_path, suffix):
    config = DataConfig(histories=(SEEN,), **ALL)
    paths = [tmp_path / f"{k}{suffix}" for k in range(3)]
    for path, start in zip(paths, (0, 5, 6), strict=True):
        part = LOG.slice(start, {0: 5, 5: 1, 6: 12}[start])
        part.write_csv(path) if suffix == ".csv" else part.write_parquet(path)
    assert histories(open_source(paths, config)) == histories(open_source(LOG, config))


def test_cells_come_beside_histories(tmp_path):
    """Text columns that come as cells, as the pass over the training data wants them."""
    LOG.write_csv(tmp_path / "log.csv")
    source = open_source(tmp_path / "log.csv", DataConfig(histories=(SEEN,), **ALL))
    (chunk,) = source.chunks(["user", SEEN, "item"], cells=["user", "item"])
    assert chunk.column("item").to_list() == [str(item) for item in LOG["item"]]
    assert values_of([chunk], SEEN) == naive(LOG.rows(), [], 50, clicked=False)
    assert chunk.height == LOG.height


def test_later_files_have_the_earlier_ones_as_their_past(tmp_path):
    config = DataConfig(histories=(SEEN,), **ALL)
    valid, test = frame_of([("u", 6, 10, 1), ("w", 6, 10, 0)]), frame_of([("u", 8, 11, 1), ("w", 8, 12, 0)])
    prepared = prepare(LOG, config, valid=valid, test=test, cache_dir=tmp_path)
    values = prepared.encoder.embedded["item"].values.to_list()
    sizes = [np.diff(store.bags[0][1]).tolist() for store in (prepared.train, prepared.valid, prepared.test)]
    train = naive(LOG.rows(), [], 50, clicked=False)
    assert sizes[0] == [max(len(row), 1) for row in train]
    assert sizes[1] == [12, 1]  # all of u's rows in LOG; none of w's: one id that says so
    assert sizes[2] == [13, 1]
    last = prepared.test.bags[0][0][[12, 13]] - prepared.test.layout.fields[-1].offset
    assert last.tolist() == [0, 0]  # item 6 is unknown: training has not seen it
    assert sorted(values) == ["5", "7"]


def test_a_model_makes_histories_of_the_file_given_or_takes_a_list(tmp_path):
    config = DataConfig(histories=(SEEN,), **ALL)
    encoder = prepare(LOG, config, cache_dir=tmp_path).encoder
    new = LOG.drop("label")
    batches = []
    for rows in (new, new.with_columns(pl.Series(SEEN, naive(LOG.rows(), [], 50, clicked=False))).drop("time")):
        (batch,) = encode_stream(encoder, open_source(rows, config, need_label=False), labels=False)
        batches.append(batch)
    assert (batches[0].bags[0][0] == batches[1].bags[0][0]).all()
    assert (batches[0].bags[0][1] == batches[1].bags[0][1]).all()


def test_rows_without_a_label_have_a_past_and_are_no_click(tmp_path):
    config = DataConfig(histories=(CLICKED,), positive="yes", **ALL)
    labelled = LOG.with_columns(pl.col("label").replace_strict({0: "no", 1: "yes"}))
    encoder = prepare(labelled, config, cache_dir=tmp_path).encoder
    assert encoder.layout.sequences
    new = pl.DataFrame({"user": ["u"] * 3, "item": [5, 7, 8], "time": [1, 2, 3], "label": ["yes", None, None]})
    assert histories(open_source(new, config, need_label=False), CLICKED) == [[], ["5"], ["5"]]
    with pytest.raises(ConfigError, match=r"needs the column 'label', which is not there.*lists in a column 'item by"):
        open_source(new.drop("label"), config, need_label=False)


def test_the_split_does_not_change_histories(tmp_path):
    """A row's past is the same whether it trains or validates, and earlier rows of the other part are in it."""
    config = DataConfig(histories=(SEEN,), **(ALL | {"valid_fraction": 0.3}))
    prepared = prepare(LOG, config, cache_dir=tmp_path)
    sizes = sorted(n for store in (prepared.train, prepared.valid) for n in np.diff(store.bags[0][1]).tolist())
    assert sizes == sorted(max(len(row), 1) for row in naive(LOG.rows(), [], 50, clicked=False))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"histories": ["itm by user"]},
            "needs the column 'itm'.*Did you mean 'item'.*Valid names: item, label, time, u",
        ),
        ({"histories": ["item by usr"]}, "needs the column 'usr'.*Did you mean 'user'"),
        ({"histories": ["item by user where clicked"]}, "needs the column 'clicked'.*Valid names: item, label"),
        ({"histories": ["item of user"]}, "'item of user' is no history: write ITEM by USER"),
        ({"histories": ["item by user", " item  by user"]}, "the same history stands there twice"),
        ({"histories": ["item by user"], "time_column": None}, "needs to know the time.*--time-column.*Valid names"),
        ({"histories": ["item by user"], "numeric_columns": {"item": "minmax"}}, "'item' is set to be numeric"),
        ({"histories": ["item by user where item"]}, "takes a column of 0 and 1"),
    ],
)
def test_a_history_that_cannot_be_is_told(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        prepare(LOG, validated(DataConfig, ALL | settings, within="data"), cache_dir=tmp_path)


def test_a_time_that_cannot_be_read_is_named(tmp_path):
    rows = LOG.with_columns(pl.col("time").cast(pl.String).replace("9", "soon"))
    rows.write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match=r"'soon' is not a time \(file .*log.csv, column 'time', row 6, line 7\)"):
        prepare(tmp_path / "log.csv", DataConfig(histories=(SEEN,), **ALL), cache_dir=tmp_path / "cache")
