"""The built-in log: its columns, its equation recomputed from the rows alone, its reachable scores, its files."""

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from clickherd import metrics
from clickherd.data import click_model as model
from clickherd.data import synthetic
from clickherd.errors import DataError, UserError

ROWS = 50_000
CATEGORICAL = [f"C{f}" for f in range(1, 27)]
NUMERIC = [f"I{j}" for j in range(1, 14)]


def log(rows, **options):
    return pl.concat(synthetic.synthesize(rows, **options))


@pytest.fixture(scope="module")
def rows():
    return log(ROWS, seed=3)


def mix(value):
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hashed(key, item):
    return mix(key + (np.asarray(item).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def normal(bits):
    parts = [(bits >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48)]
    return (sum(part.astype(float) for part in parts) / 65535 - 2) * np.sqrt(3)


def logit_by_hand(frame, world):
    """docs/data.md's equation in plain NumPy, from what a reader of the file sees."""
    start = hashed(mix(np.array([2], np.uint64)), world)

    def of_id(f, purpose, x):
        return normal(hashed(hashed(start, 16 + 16 * f + purpose), x))

    tau = (frame["timestamp"] - synthetic.START).dt.total_microseconds().to_numpy() / (7 * 86_400 * 10**6)
    ids = [frame[c].str.to_integer(base=16, dtype=pl.Int64).fill_null(2**32).to_numpy() for c in CATEGORICAL]
    logit = np.full(len(frame), model.BIAS)
    for f, field in enumerate(model.CATEGORICAL):
        effect = of_id(f, 3, ids[f])
        if field.drift:
            effect = effect * np.cos(np.pi / 3 * tau) + of_id(f, 4, ids[f]) * np.sin(np.pi / 3 * tau)
        logit += field.effect * effect
        for g, other in enumerate(model.CATEGORICAL[:f]):
            if field.group == other.group >= 0:
                for d in range(2):
                    logit += field.latent * of_id(f, 8 + d, ids[f]) * other.latent * of_id(g, 8 + d, ids[g])
    for name, column in zip(NUMERIC, model.NUMERIC, strict=True):
        t = (np.log1p(frame[name].to_numpy()) - column.center) / column.scale
        value = column.linear * t + column.square * (t**2 - 1) + column.wave * np.sin(3 * t)
        if column.slope_field >= 0:
            value += t * column.slope * of_id(column.slope_field, 6, ids[column.slope_field])
        logit += np.where(np.isnan(t), column.when_missing, value)
    return logit


@pytest.mark.parametrize("world", [0, 5])
def test_the_probability_is_the_documented_function_of_the_columns(world):
    frame = log(3_000, seed=7, world=world)
    with np.errstate(over="ignore"):
        want = 1 / (1 + np.exp(-logit_by_hand(frame, world)))
    np.testing.assert_allclose(frame["true_probability"], want, rtol=1e-9)


def test_the_user_guide_states_the_parameters_that_the_code_uses():
    lines = (Path(__file__).parents[2] / "docs" / "data.md").read_text().splitlines()
    stated = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }
    for name, field in zip(CATEGORICAL, model.CATEGORICAL, strict=True):
        assert stated[name] == [
            f"{field.size:,}",
            str(field.exponent),
            f"{field.missing:.0%}",
            f"{field.effect:.2f}" + " ↻" * field.drift,
            str(field.churn or ""),
            f"{'ABC'[field.group]} {field.latent:.2f}" if field.group >= 0 else "",
            f"C{field.parent + 1}" if field.parent >= 0 else "",
        ]
    for name, column in zip(NUMERIC, model.NUMERIC, strict=True):
        cells = [column.center, column.scale, f"{column.missing:.0%}", column.activity]
        cells += [column.linear, column.square, column.wave, column.when_missing]
        cells += [f"C{column.slope_field + 1} {column.slope}" if column.slope_field >= 0 else ""]
        assert stated[name] == [str(cell) for cell in [*cells, "fraction" if column.fractional else "count"]]
    assert f"logit p = −{-model.BIAS} +" in "\n".join(lines)


def test_columns_and_types(rows):
    want = {"label": pl.Int8, "timestamp": pl.Datetime("us")}
    want |= dict.fromkeys(NUMERIC, pl.Float64) | dict.fromkeys(CATEGORICAL, pl.String)
    assert dict(rows.schema) == want | {"true_probability": pl.Float64}
    assert rows.select(pl.col(CATEGORICAL).str.contains("^[0-9a-f]{8}$").all()).row(0) == (True,) * 26
    assert rows["label"].unique().sort().to_list() == [0, 1]
    assert rows["true_probability"].is_between(0, 1, closed="none").all()


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 400), chunk_rows=st.integers(1, 500), seed=st.integers(0, 2**64 - 1))
def test_rows_do_not_depend_on_the_chunks(rows, chunk_rows, seed):
    chunks = list(synthetic.synthesize(rows, seed=seed, chunk_rows=chunk_rows))
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_rows] * (len(chunks) - 1)
    assert_frame_equal(pl.concat(chunks), log(rows, seed=seed))


def test_a_log_is_made_chunk_by_chunk():
    first = next(synthetic.synthesize(10**12, chunk_rows=10))  # no machine holds this many rows
    assert len(first) == 10


def test_seeds_draw_other_rows_of_one_world(rows):
    other = log(ROWS, seed=4)
    assert not other["label"].equals(rows["label"])
    heads = [set(frame["C5"].value_counts(sort=True)["C5"].head(20)) for frame in (rows, other)]
    assert len(heads[0] & heads[1]) > 15
    assert not heads[0] & set(log(ROWS, seed=3, world=1)["C5"])


def test_time_runs_over_the_span(rows):
    times = rows["timestamp"]
    assert times.is_sorted()
    assert times[0] >= synthetic.START
    assert times[-1] < synthetic.START + synthetic.SPAN
    assert times[ROWS // 2] - synthetic.START == pytest.approx(synthetic.SPAN / 2, rel=1e-3)


def test_missing_values_come_at_their_rates(rows):
    fields = dict(zip(CATEGORICAL + NUMERIC, model.CATEGORICAL + model.NUMERIC, strict=True))
    for name, field in fields.items():
        assert rows[name].null_count() / ROWS == pytest.approx(field.missing, abs=0.01), name


def test_numeric_columns_are_heavy_tailed_counts_or_fractions(rows):
    for name, column in zip(NUMERIC, model.NUMERIC, strict=True):
        values = rows[name].drop_nulls()
        assert values.min() >= 0
        assert values.mean() > 1.2 * values.median()
        assert bool((values == values.floor()).all()) != column.fractional


def test_ids_are_few_or_many_and_popularity_is_skewed(rows):
    distinct = {name: rows[name].drop_nulls().n_unique() for name in CATEGORICAL}
    assert distinct["C9"] == 4
    assert distinct["C6"] == 24
    assert distinct["C3"] > 3_000
    counts = rows["C3"].drop_nulls().value_counts(sort=True)["count"]
    assert counts.head(10).sum() > 0.3 * counts.sum()
    assert (counts == 1).sum() > len(counts) / 2


def test_longer_tails_hold_more_ids_and_leave_all_else_alone(rows):
    longer = log(ROWS, seed=3, categorical=synthetic.lengthened(1.2))
    assert longer["C3"].n_unique() > 1.3 * rows["C3"].n_unique()
    short = [f"C{f}" for f, field in enumerate(model.CATEGORICAL, 1) if field.size < synthetic.LONG_TAIL]
    untouched = ["timestamp", *NUMERIC, *short]
    assert_frame_equal(longer.select(untouched), rows.select(untouched))
    assert abs(longer["label"].mean() - rows["label"].mean()) < 0.01
    assert abs(synthetic.best_auc(longer) - synthetic.best_auc(rows)) < 0.01
    with pytest.raises(UserError, match="tail_exponent"):
        synthetic.lengthened(1.0)


def test_a_child_field_follows_its_parent(rows):
    pairs = rows.select("C11", "C13").group_by("C11").agg(pl.len(), top=pl.col("C13").value_counts(sort=True).first())
    followed = pairs["top"].struct.field("count").sum() / pairs["len"].sum()
    assert followed > model.INHERIT


def test_new_ids_appear_over_time(rows):
    """Late rows hold ids that early rows lack, more than a random half lacks of the other."""
    frequent = rows.group_by("C10").len().filter(pl.col("len") >= 20)["C10"].implode()
    c10 = rows.filter(pl.col("C10").is_in(frequent))["C10"]
    early, late = set(c10.head(len(c10) // 2)), c10.tail(len(c10) // 2)
    even, odd = set(c10.gather_every(2)), c10.gather_every(2, 1)
    unseen_later = 1 - late.is_in(list(early)).mean()
    unseen_at_random = 1 - odd.is_in(list(even)).mean()
    assert unseen_later > 0.06  # measured: 0.095
    assert unseen_at_random < 0.01


def test_about_one_row_in_four_is_a_click_and_the_best_scores_are_criteos():
    frame = log(200_000)
    label, probability = frame["label"].to_numpy(), frame["true_probability"].to_numpy()
    assert label.mean() == pytest.approx(0.25, abs=0.01)
    assert synthetic.best_auc(frame) == pytest.approx(0.82, abs=0.02)
    assert synthetic.best_auc(frame) == pytest.approx(synthetic.expected_auc(probability), abs=0.004)
    assert synthetic.best_logloss(frame) == pytest.approx(synthetic.expected_logloss(probability), abs=0.004)
    assert metrics.calibration(label, probability) == pytest.approx(1, abs=0.01)
    assert metrics.ece(label, probability) < 0.01


@given(st.lists(st.integers(1, 19).map(lambda i: i / 20), min_size=2, max_size=30))
def test_the_expected_auc_counts_every_pair(probabilities):
    p = np.array(probabilities)
    pairs = p[:, None] * (1 - p[None, :]) * (1 - np.eye(len(p)))
    won = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    assert synthetic.expected_auc(p) == pytest.approx((pairs * won).sum() / pairs.sum(), rel=1e-12)


def test_the_expected_logloss_is_the_entropy():
    assert synthetic.expected_logloss([0.5, 0.5]) == pytest.approx(np.log(2))
    assert synthetic.expected_logloss([0.0, 1.0]) == 0
    assert synthetic.expected_logloss([0.25]) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))


def test_best_scores_need_the_truth(rows):
    with pytest.raises(DataError, match="true_probability"):
        synthetic.best_auc(rows.drop("true_probability"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz"])
def test_files_hold_the_log(suffix, tmp_path, monkeypatch):
    defaults = synthetic.synthesize.__kwdefaults__ | {"chunk_rows": 300}
    monkeypatch.setattr(synthetic.synthesize, "__kwdefaults__", defaults)
    path = synthetic.write(tmp_path / "new" / f"log{suffix}", 1_000, seed=2)
    if suffix == ".parquet":
        got = pl.read_parquet(path)
    else:
        data = path.read_bytes()
        text = gzip.decompress(data) if suffix.endswith(".gz") else data
        separator = "\t" if "tsv" in suffix else ","
        schema = log(1).schema
        got = pl.read_csv(text, separator=separator, schema_overrides=schema, try_parse_dates=True)
    assert_frame_equal(got, log(1_000, seed=2), check_exact=True)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_equal_logs_are_equal_files(tmp_path):
    files = [synthetic.write(tmp_path / name, 100) for name in ("a.csv.gz", "b.csv.gz")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_log_that_breaks_off_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "log.parquet"
    synthetic.write(path, 100)
    before, frame = path.read_bytes(), log(10)

    def break_off(*_, **__):
        yield frame
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "synthesize", break_off)
    with pytest.raises(OSError, match="No space left"):
        synthetic.write(path, 100)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.parquet"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match=r"End it in \.parquet, \.csv"):
        synthetic.write(tmp_path / "log.xlsx", 10)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="this is a folder"):
        synthetic.write(tmp_path / "folder.csv", 10)
    with pytest.raises(UserError, match="rows = 0"):
        synthetic.write(tmp_path / "log.csv", 0)
    with pytest.raises(UserError, match=r"seed = -1\. Give a whole number"):
        synthetic.write(tmp_path / "log.csv", 10, seed=-1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.csv"]
