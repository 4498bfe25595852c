"""From raw files to the encoded store: splits, cache, profile, and what goes wrong."""

import errno
import json
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clickherd.data import prepare as module
from clickherd.data.config import DataConfig
from clickherd.data.fit import fit
from clickherd.data.prepare import encode_stream, encode_to_store, prepare
from clickherd.data.recorded import RecordedRows
from clickherd.data.source import open_source
from clickherd.data.store import StoreWriter
from clickherd.errors import ConfigError, DataError

ROWS = 2_000


def click_log(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "label": rng.integers(0, 2, rows),
            "user_id": rng.zipf(1.3, rows) % 500,
            "site": pl.Series(["a", "b", "c", None])[rng.integers(0, 4, rows)],
            "tags": pl.Series(["x|y", "y", "z|x|y", None])[rng.integers(0, 4, rows)],
            "price": np.round(rng.lognormal(size=rows), 3),
            "ts": 1_700_000_000 + np.arange(rows),
        }
    )


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def run(cache, data, *, settings=None, **kwargs):
    return prepare(data, DataConfig(**(settings or {})), cache_dir=cache, **kwargs)


def leftovers(cache):
    return [path.name for path in cache.iterdir() if path.name.endswith(".partial")]


def test_every_row_is_in_one_split_and_encoded_like_new_rows(cache):
    log = click_log()
    prepared = run(cache, log)
    stores = [prepared.train, prepared.valid, prepared.test]
    assert sum(map(len, stores)) == ROWS
    source = open_source(log, DataConfig())
    batches = list(encode_stream(prepared.encoder, source, labels=True, rows=300))
    assert [len(batch) for batch in batches] == [300] * 6 + [200]
    streamed = np.concatenate([np.column_stack([b.ids, b.labels]) for b in batches])
    stored = np.concatenate([np.column_stack([store.ids, store.labels]) for store in stores])
    assert np.array_equal(np.sort(streamed, axis=0), np.sort(stored, axis=0))
    sizes = np.concatenate([np.diff(store.bags[0][1]) for store in stores])
    assert (
        np.bincount(sizes)[1:].tolist()
        == np.bincount(np.concatenate([np.diff(b.bags[0][1]) for b in batches]))[1:].tolist()
    )


def test_bags_stay_with_their_rows(cache):
    """Single-valued and multi-valued fields made from one column agree row by row in every split."""
    log = click_log().with_columns(first=pl.col("tags").str.split("|").list.first())
    prepared = run(cache, log)
    layout = prepared.encoder.layout
    names = [field.name for field in layout.fields]
    texts = {name: prepared.encoder.embedded[name].values.to_list() for name in ("first", "tags")}
    for store in (prepared.train, prepared.valid, prepared.test):
        batch = store.read(0, len(store))
        single = batch.ids[:, names.index("first")] - layout.fields[names.index("first")].offset
        values, offsets = batch.bags[0]
        multi = values[offsets[:-1]] - layout.fields[names.index("tags")].offset
        ours = [texts["first"][i - 2] if i > 1 else i for i in single]
        theirs = [texts["tags"][i - 2] if i > 1 else i for i in multi]
        assert ours == theirs


def test_held_out_rows_do_not_shape_the_encoder(cache):
    log = click_log()
    settings = {"split": "time"}
    plain = run(cache, log, settings=settings)
    last = pl.int_range(ROWS) >= ROWS - 400
    changed = log.with_columns(
        site=pl.when(last).then(pl.lit("late")).otherwise("site"),
        price=pl.when(last).then(1e6).otherwise("price"),
    )
    other = run(cache, changed, settings=settings)
    assert other.encoder.fingerprint() == plain.encoder.fingerprint()
    assert np.array_equal(other.train.ids, plain.train.ids)
    facts = {column["name"]: column for column in other.profile["columns"]}
    assert facts["site"]["unknown"] == {"valid": 1.0, "test": 1.0}


def test_files_and_frames_give_the_same_rows(cache, tmp_path):
    log = click_log()
    log.write_csv(tmp_path / "log.csv")
    log.write_parquet(tmp_path / "log.parquet")
    frames = [run(cache, data) for data in (log, tmp_path / "log.csv", tmp_path / "log.parquet", log.to_pandas())]
    for prepared in frames[1:]:
        assert np.array_equal(prepared.train.ids, frames[0].train.ids)
        assert np.array_equal(prepared.train.groups, frames[0].train.groups)


def test_rows_do_not_depend_on_how_they_are_cut_into_files(cache, tmp_path):
    log = click_log()
    for i in range(4):
        log[i * 500 : (i + 1) * 500].write_parquet(tmp_path / f"part{i}.parquet")
    whole, parts = run(cache, log), run(cache, str(tmp_path / "part*.parquet"))
    assert np.array_equal(whole.train.ids, parts.train.ids)
    assert np.array_equal(whole.test.labels, parts.test.labels)


def test_given_files(cache):
    log, valid, test = click_log(), click_log(300, 1), click_log(200, 2)
    prepared = run(cache, log, valid=valid)
    assert (len(prepared.train), len(prepared.valid), prepared.test) == (ROWS, 300, None)
    assert np.array_equal(prepared.valid.labels, valid["label"].to_numpy())
    prepared = run(cache, log, valid=valid, test=test)
    assert (len(prepared.train), len(prepared.valid), len(prepared.test)) == (ROWS, 300, 200)
    prepared = run(cache, log, test=test)
    assert len(prepared.train) + len(prepared.valid) == ROWS
    assert len(prepared.test) == 200
    with pytest.raises(DataError, match="missing: user_id, price"):
        run(cache, log, valid=valid.drop("user_id", "price"))


def test_no_validation_rows_if_none_are_wanted(cache):
    prepared = run(cache, click_log(), settings={"valid_fraction": 0, "test_fraction": 0})
    assert (len(prepared.train), prepared.valid, prepared.test) == (ROWS, None, None)


def test_the_same_input_is_encoded_once_even_if_it_moved(cache, tmp_path):
    click_log().write_csv(tmp_path / "log.csv")
    first = run(cache, tmp_path / "log.csv")
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "log.csv").rename(tmp_path / "elsewhere" / "clicks.csv")
    said = []
    again = run(cache, moved, announce=said.append)
    assert (first.reused, again.reused, again.path) == (False, True, first.path)
    assert again.profile == first.profile
    assert np.array_equal(again.train.ids, first.train.ids)
    assert any("reusing" in message for message in said)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"min_count": 1}},
        {"settings": {"roles": {"site": "ignored"}}},
        {"seed": 1},
        {"data": click_log(seed=1)},
        {"test": click_log(100, 2)},
    ],
)
def test_another_input_or_setting_is_encoded_anew(cache, change):
    first = run(cache, click_log())
    other = run(cache, **{"data": click_log(), **change})
    assert not other.reused
    assert other.path != first.path


def test_the_seed_is_no_matter_where_nothing_is_random(cache):
    first = run(cache, click_log(), settings={"split": "time"})
    assert run(cache, click_log(), settings={"split": "time"}, seed=5).path == first.path


def test_damaged_cache_is_encoded_again(cache):
    first = run(cache, click_log())
    (first.path / "train" / "ids.i32").write_bytes(b"")
    said = []
    again = run(cache, click_log(), announce=said.append)
    assert not again.reused
    assert np.array_equal(again.valid.ids, first.valid.ids)
    assert any("damaged" in message for message in said)


def test_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "here"))
    assert prepare(click_log(), DataConfig()).path.parent == tmp_path / "here"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="CLICKHERD_CACHE"):
        prepare(click_log(), DataConfig())


def test_runs_at_the_same_time_agree(cache):
    log, found = click_log(), []
    threads = [threading.Thread(target=lambda: found.append(run(cache, log))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({prepared.path for prepared in found}) == 1
    assert all(np.array_equal(prepared.train.ids, found[0].train.ids) for prepared in found)
    assert [path.name for path in cache.iterdir()] == [found[0].path.name]


def test_a_full_disk_is_told_and_leaves_nothing(cache, monkeypatch):
    def full(self, batch):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StoreWriter, "append", full)
    with pytest.raises(DataError, match=r"disk is full: [\d,]+ MiB free.*cache.*CLICKHERD_CACHE"):
        run(cache, click_log())
    assert list(cache.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_while_rows_are_counted(cache, monkeypatch):
    usage = module.shutil.disk_usage(cache.parent)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"disk is full: 0 MiB free \("):  # how much it takes is not known yet
        run(cache, click_log())
    assert list(cache.iterdir()) == []


def test_a_disk_that_is_too_small_for_the_encoded_rows_is_told_before_they_are_written(cache, monkeypatch):
    usage = module.shutil.disk_usage(cache.parent)

    def fit_and_shrink(*args):
        fitted = fit(*args)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        return fitted

    monkeypatch.setattr(module, "fit", fit_and_shrink)
    with pytest.raises(DataError, match=r"disk is full: 0 MiB free; the encoded rows take about"):
        run(cache, click_log().drop("tags", "price"))
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_disk_that_fills_up_while_rows_are_recorded_is_told(cache, monkeypatch):
    class Full(RecordedRows):
        def __init__(self, folder):
            super().__init__(folder)
            (folder / "0.rows").symlink_to("/dev/full")

    monkeypatch.setattr(module, "RecordedRows", Full)
    with pytest.raises(DataError, match=r"disk is full: [\d,]+ MiB free.*CLICKHERD_CACHE") as caught:
        run(cache, click_log())
    assert isinstance(caught.value.__cause__, OSError)
    assert list(cache.iterdir()) == []


def test_recorded_rows_that_were_cut_off_are_told(cache, monkeypatch):
    def fit_and_cut(*args):
        fitted = fit(*args)
        (file,) = cache.glob("*/recorded/0.rows")
        module.os.truncate(file, file.stat().st_size - 100)
        return fitted

    monkeypatch.setattr(module, "fit", fit_and_cut)
    with pytest.raises(DataError, match=r"recorded rows were cut off.*0\.rows"):
        run(cache, click_log())
    assert list(cache.iterdir()) == []


def test_an_error_leaves_nothing_behind(cache):
    log = click_log().with_columns(price=pl.when(pl.int_range(ROWS) == 1234).then(float("nan")).otherwise("price"))
    with pytest.raises(DataError, match="row 1235"):
        run(cache, log)
    assert list(cache.iterdir()) == []


def test_leftovers_of_killed_runs_go_after_a_day(cache):
    for name, age in ((".old.partial", 100_000), (".new.partial", 100)):
        (cache / name).mkdir(parents=True)
        module.os.utime(cache / name, (time.time() - age,) * 2)
    run(cache, click_log())
    assert leftovers(cache) == [".new.partial"]


def test_profile(cache):
    log = click_log().with_columns(k=1, true_probability=0.5)
    prepared = run(cache, log, settings={"test_fraction": 0.2})
    profile = json.loads(json.dumps(prepared.profile))
    assert profile == prepared.profile
    assert sum(profile["rows"].values()) == ROWS
    assert profile["positive_rate"]["train"] == pytest.approx(prepared.train.labels.mean())
    columns = {column["name"]: column for column in profile["columns"]}
    assert list(columns) == log.columns
    site = columns["site"]
    assert (site["role"], site["distinct"], site["vocabulary"], len(site["top"])) == ("categorical", 3, 3, 3)
    assert site["missing"] == pytest.approx(0.25, abs=0.05)
    assert site["unknown"] == {"valid": 0.0, "test": 0.0}
    assert sum(count for _, count in site["top"]) + round(site["missing"] * len(prepared.train)) == len(prepared.train)
    assert columns["price"]["encoding"] == "quantile"
    assert columns["price"]["min"] > 0
    assert columns["k"]["role"] == "ignored"
    assert 0 < columns["user_id"]["unknown"]["valid"] < 0.5
    assert len(prepared.train.truth) == len(prepared.train)
    assert len(prepared.train.groups) == len(prepared.train)


def test_a_multi_valued_column_without_its_separator_is_named_each_time(cache):
    log = click_log().with_columns(genres=pl.Series(["Action;Comedy", "Comedy"] * (ROWS // 2)))
    settings = {"roles": {"genres": "multi"}}
    for _ in range(2):  # the second time from the cache
        said = []
        run(cache, log, settings=settings, announce=said.append)
        (warning,) = (line for line in said if "separator" in line)
        assert warning.startswith("genres is multi-valued, but no value holds the separator '|'")
    said = []
    run(cache, log, settings={**settings, "multi_separator": ";"}, announce=said.append)
    assert [line.split()[0] for line in said if "separator" in line] == []
    lists = log.with_columns(pl.col("genres").str.split(";").list.head(1))
    run(cache, lists, settings=settings, announce=said.append)  # lists need no separator
    assert [line.split()[0] for line in said if "separator" in line] == []


def test_a_column_that_is_constant_over_all_rows_only_is_decided_on_all_rows(cache, monkeypatch):
    """The first rows of a log by time may hold a single day; that day still counts as a feature."""
    monkeypatch.setattr("clickherd.data.schema.SAMPLE_ROWS", 100)
    log = click_log().with_columns(day=pl.when(pl.int_range(ROWS) < 1500).then(1).otherwise(2), k=pl.lit("x"))
    roles = {column.name: column.role for column in run(cache, log).encoder.schema.columns}
    assert (roles["day"], roles["k"]) == ("categorical", "ignored")
    with pytest.raises(DataError, match=r"'k'.*ignored"):
        run(cache, log, settings={"roles": {"k": "categorical"}})


def test_splits_that_stay_empty_are_told(cache):
    with pytest.raises(DataError, match=r"random split of 8 rows.*--test"):
        run(cache, click_log(8))
    with pytest.raises(DataError, match="no training rows"):
        run(cache, click_log().with_columns(ts=pl.lit("2024-05-01")), settings={"split": "time", "time_column": "ts"})


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0, 1, 2, 1], {}, r"have to be 0 and 1; found '0', '1', '2'.*row 3\).*--positive"),
        (["no", "yes"], {}, r"found 'no', 'yes'.*row 1\).*--positive"),
        (["no", "yes"], {"positive": "Yes"}, r"no row has the label 'Yes'; found 'no', 'yes'"),
        ([0, 1, None, 1], {}, r"label is missing.*column 'label', row 3"),
        ([0, 1, float("nan"), 1], {}, r"label is missing.*column 'label', row 3"),
        (["no", "", "yes", "no"], {"positive": "yes"}, r"label is missing.*row 2"),
        (
            [0, 1] * 19 + [0, 2],
            {},
            r"all but 10 of 400 labels are 0 and 1; this one is '2'.*'label', row 40\).*leave them",
        ),
        (["0", "1"] * 19 + ["x", "1"], {}, r"this one is 'x'.*row 39\)"),
        ([0, 0], {}, "all training rows have the label 0"),
        (["yes", "yes"], {"positive": "yes"}, "all training rows have the label 1"),
        (
            ["no", "yes"] * 19 + ["no", "maybe"],
            {"positive": "yes"},
            r"'no' in 200, 'yes' in 190, 'maybe' in 10; here 'maybe' stands first.*'label', row 40\).*leave them out",
        ),
        (["no", "yes"] * 19 + ["Yes", "no"], {"positive": "yes"}, r"'Yes' in 10.*row 39\)"),
        ([f"id{i}" for i in range(400)], {"positive": "id7"}, r"'id0' in 1, .*and others \("),
    ],
)
def test_labels_that_cannot_be_used(cache, labels, settings, message):
    log = click_log(400).with_columns(pl.Series("label", labels * (400 // len(labels)), strict=False))
    with pytest.raises(DataError, match=message):
        run(cache, log, settings=settings)


def test_labels_that_cannot_be_used_are_told_before_the_whole_file_is_read(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_ROWS", 100)
    log = click_log(400).with_columns(label=pl.col("label") + 1)
    (tmp_path / "log.csv").write_text(log.write_csv() + "a line that is cut short\n")
    with pytest.raises(DataError, match=r"have to be 0 and 1; found '1', '2'.*row 1, line 2\)"):
        run(cache, tmp_path / "log.csv")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_third_label_is_named_with_its_row_wherever_it_stands(cache, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(module, "SAMPLE_ROWS", 100)
    row = pl.int_range(400)
    words = pl.when(pl.col("label") == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))
    log = click_log(400).with_columns(label=words)
    odd = log.with_columns(label=pl.when(row == 333).then(pl.lit("maybe")).otherwise("label"))
    paths = []
    for name, frame in (("log", log), ("odd", odd)):
        paths.append(tmp_path / f"{name}{suffix}")
        frame.write_csv(paths[-1]) if suffix == ".csv" else frame.write_parquet(paths[-1])
    line = ", line 335" if suffix == ".csv" else ""
    message = rf"of the first 400 rows.*'maybe' in 1;.*odd{suffix}, column 'label', row 334{line}\)"
    with pytest.raises(DataError, match=message):
        run(cache, paths[1], settings={"positive": "yes"})
    for name in ("valid", "test"):
        with pytest.raises(DataError, match=message):
            run(cache, paths[0], settings={"positive": "yes"}, **{name: paths[1]})
    encoder = run(cache, paths[0], settings={"positive": "yes"}).encoder
    told = rf"training had no label 'maybe'; found 'maybe'.*odd{suffix}, column 'label', row 334{line}\)"
    with pytest.raises(DataError, match=told):  # in rows to judge too: taken for no click, it would spoil the scores
        list(encode_stream(encoder, open_source(paths[1], DataConfig()), labels=True))


def test_labels_are_counted_over_all_files(cache, tmp_path):
    words = pl.when(pl.col("label") == 1).then(pl.lit("yes"))
    click_log(300).with_columns(label=words.otherwise(pl.lit("maybe"))).write_csv(tmp_path / "1.csv")
    click_log(900).with_columns(label=words.otherwise(pl.lit("no"))).write_csv(tmp_path / "2.csv")
    with pytest.raises(DataError, match=r"first 1,200 rows.*'maybe' stands first \(file .*1.csv, column 'label', row"):
        run(cache, str(tmp_path / "*.csv"), settings={"positive": "yes"})


@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        ([1, 0], {}),
        ([1.0, 0.0], {}),
        ([True, False], {}),
        (["1", "0"], {}),
        (["1.0", " 0 "], {}),
        (["True", "false"], {}),
        ([" >50K", "<=50K "], {"positive": ">50K"}),
        ([5, 1], {"positive": "5"}),
        (["5", "1", "5.0", " 1.0"], {"positive": "5"}),
        (["True", "False", "true", "FALSE "], {"positive": "true"}),
        ([5.0, 1.0], {"positive": "5"}),
        ([True, False], {"positive": "True"}),
    ],
)
def test_labels_that_can(cache, labels, settings):
    log = click_log(400).with_columns(pl.Series("label", labels * (400 // len(labels)), strict=False))
    prepared = run(cache, log, settings={**settings, "valid_fraction": 0, "test_fraction": 0})
    assert prepared.train.labels.tolist() == [1, 0] * 200


def test_labels_that_are_written_otherwise_in_another_file(cache):
    """The test file of the Census data ends its labels with a dot."""
    log = click_log(400).with_columns(
        label=pl.when(pl.col("label") == 1).then(pl.lit(">50K")).otherwise(pl.lit("<=50K"))
    )
    dotted = log.with_columns(pl.col("label") + ".")
    settings = {"positive": ">50K"}
    with pytest.raises(DataError, match=r"no row has the label '>50K'; found '<=50K.', '>50K.'"):
        run(cache, log, settings=settings, test=dotted)
    encoder = run(cache, log, settings=settings).encoder
    with pytest.raises(DataError, match=r"training had no label '[<>]=?50K.'; found '<=50K.', '>50K.'"):
        list(encode_stream(encoder, open_source(dotted, DataConfig()), labels=True))
    negatives = log.filter(pl.col("label") == "<=50K")
    batches = list(encode_stream(encoder, open_source(negatives, DataConfig()), labels=True))
    assert not batches[0].labels.any()


def test_a_type_that_changes_between_files(cache, tmp_path):
    click_log(300).write_csv(tmp_path / "day1.csv")
    later = click_log(300, 1).with_columns(price=pl.when(pl.int_range(300) == 9).then(pl.lit("free")).otherwise(1))
    later.write_csv(tmp_path / "day2.csv")
    settings = {"numeric_columns": {"price": "log_square"}}
    with pytest.raises(
        DataError, match=r"'free' is not a number.*day2.csv, column 'price', row 10, line 11\)"
    ) as caught:
        run(cache, [tmp_path / "day1.csv", tmp_path / "day2.csv"], settings=settings)
    assert "changed between files" in caught.value.mend


def test_settings_that_name_no_column(cache):
    with pytest.raises(ConfigError, match="Did you mean 'site'"):
        run(cache, click_log(), settings={"roles": {"sites": "multi"}})
    assert list(cache.iterdir()) == []


def test_encode_to_store(cache, tmp_path):
    prepared = run(cache, click_log())
    log = click_log(150, 3)
    store = encode_to_store(prepared.encoder, open_source(log, DataConfig()), tmp_path / "more")
    assert len(store) == 150
    assert store.labels.tolist() == log["label"].to_list()
    assert store.layout == prepared.train.layout
