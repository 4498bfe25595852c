import numpy as np
import polars as pl
import pytest

from clickherd.data.config import DataConfig
from clickherd.data.fit import split_chunks
from clickherd.data.source import open_source
from clickherd.data.split import TEST, TRAIN, VALID, plan_split
from clickherd.errors import DataError

ROWS = 20_000


def splits(frame, *, chunk=ROWS, seed=0, valid_given=False, test_given=False, time_column="ts", **settings):
    config = DataConfig(**settings)
    source = open_source(frame, config, need_label=False)
    splitter = plan_split(source, config, time_column, valid_given=valid_given, test_given=test_given, seed=seed)
    if splitter is None:
        return None
    return np.concatenate([part for _, _, part in split_chunks(source, ["x"], splitter, chunk)])


def frame_of(times=None):
    frame = pl.DataFrame({"x": np.arange(ROWS)})
    return frame if times is None else frame.with_columns(ts=pl.Series(times))


def shares(found):
    return np.bincount(found, minlength=3) / len(found)


def test_random_split_has_the_fractions():
    found = splits(frame_of(), valid_fraction=0.2, test_fraction=0.05)
    assert shares(found) == pytest.approx([0.75, 0.2, 0.05], abs=0.012)  # 4 standard deviations


def test_random_split_follows_the_seed_only():
    found = splits(frame_of())
    assert np.array_equal(splits(frame_of(), chunk=777), found)
    other = splits(frame_of(), seed=1)
    both = np.mean((other == TEST) & (found == TEST))
    assert both == pytest.approx(0.01, abs=0.003)  # independent: 10 % of 10 %


def test_a_smaller_test_fraction_keeps_the_test_rows_it_had():
    large, small = splits(frame_of(), test_fraction=0.1), splits(frame_of(), test_fraction=0.05)
    assert set(np.flatnonzero(small == TEST)) < set(np.flatnonzero(large == TEST))


def test_given_files_leave_the_training_rows_alone():
    assert splits(frame_of(), valid_given=True) is None
    assert splits(frame_of(), valid_given=True, test_given=True) is None
    assert splits(frame_of(), valid_fraction=0, test_fraction=0) is None
    assert shares(splits(frame_of(), test_given=True))[TEST] == 0
    assert shares(splits(frame_of(), valid_fraction=0)) == pytest.approx([0.9, 0, 0.1], abs=0.01)


@pytest.mark.parametrize("kind", ["integers", "datetimes", "texts"])
def test_time_split_keeps_the_order_of_time(kind):
    order = np.random.default_rng(0).permutation(ROWS)
    times = {
        "integers": pl.Series(order + 1_700_000_000),
        "datetimes": pl.Series(order + 1_700_000_000).cast(pl.Int64) * 1_000_000,
        "texts": pl.Series(order * 60 + 1_700_000_000),
    }[kind]
    if kind == "datetimes":
        times = times.cast(pl.Datetime("us"))
    if kind == "texts":
        times = (times * 1_000_000).cast(pl.Datetime("us")).dt.to_string("%Y-%m-%d %H:%M:%S")
    found = splits(frame_of(times), chunk=3_000, split="time", valid_fraction=0.2, test_fraction=0.1)
    assert np.bincount(found).tolist() == [14_000, 4_000, 2_000]
    assert order[found == TRAIN].max() < order[found == VALID].min()
    assert order[found == VALID].max() < order[found == TEST].min()


def test_rows_of_one_instant_stay_together():
    days = np.arange(ROWS) // 1_300
    found = splits(frame_of(days), split="time", valid_fraction=0.2, test_fraction=0.1)
    for day in range(days.max() + 1):
        assert len(set(found[days == day])) == 1
    assert shares(found) == pytest.approx([0.7, 0.2, 0.1], abs=0.07)


def test_time_split_without_test_rows():
    found = splits(frame_of(np.arange(ROWS)), split="time", test_given=True)
    assert np.bincount(found).tolist() == [18_000, 2_000]


def test_time_split_needs_times():
    with pytest.raises(DataError, match="--time-column"):
        splits(frame_of(), split="time", time_column=None)
    times = pl.Series(["2024-05-01"] * ROWS)
    with pytest.raises(DataError, match=r"time is missing.*column 'ts', row 12"):
        splits(frame_of(times.scatter(11, None)), split="time")
    with pytest.raises(DataError, match=r"'soon' is not a time.*column 'ts', row 12"):
        splits(frame_of(times.scatter(11, "soon")), split="time")


def test_a_time_column_with_odd_values_is_named():
    times = pl.Series(["2024-05-01"] * ROWS).scatter(11, "yesterday")
    with pytest.raises(DataError, match=r"'yesterday' is not one \(.*column 'ts'\).*--time-column ts tells where"):
        splits(frame_of(times), split="time", time_column=None)
    with pytest.raises(DataError, match=r"'yesterday' is not a time.*column 'ts', row 12"):
        splits(frame_of(times), split="time", time_column="ts")


def test_fractions_have_to_leave_training_rows():
    with pytest.raises(DataError, match="no training rows"):
        splits(frame_of(), valid_fraction=0.6, test_fraction=0.4)
