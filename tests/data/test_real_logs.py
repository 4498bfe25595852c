"""Real data sets go in with nothing but the label's name, and come out with sensible roles."""

import pytest

from clickherd.data.config import DataConfig
from clickherd.data.prepare import prepare
from clickherd.errors import DataError


def run(tmp_path, data, *, settings, **kwargs):
    if not data.exists():
        pytest.skip(f"CLICKHERD_DATA has no {data.parent.name}/{data.name}")
    return prepare(data, DataConfig(**settings), cache_dir=tmp_path / "cache", **kwargs)


def roles(prepared):
    return {column.name: column.role for column in prepared.encoder.schema.columns}


def test_movielens(real_data, tmp_path):
    folder = real_data / "movielens_1m"
    prepared = run(tmp_path, folder / "flat_valid.parquet", settings={}, test=folder / "flat_test.parquet")
    assert roles(prepared) == {
        "label": "label",
        "user_id": "categorical",
        "movie_id": "categorical",
        "gender": "categorical",
        "age": "numeric",
        "occupation": "categorical",
        "zip": "categorical",
        "genres": "multi",
        "year": "categorical",
    }
    assert prepared.encoder.schema.group == "user_id"
    assert len(prepared.train) + len(prepared.valid) == len(prepared.test) == 99_998
    genres = next(column for column in prepared.profile["columns"] if column["name"] == "genres")
    assert genres["distinct"] == 18


def test_criteo(real_data, tmp_path):
    prepared = run(tmp_path, real_data / "criteo_8k" / "criteo_all.tsv.gz", settings={"format": "criteo"})
    assert list(roles(prepared).values()) == ["label"] + ["numeric"] * 13 + ["categorical"] * 26
    assert {column.encoding for column in prepared.encoder.schema.columns[1:14]} == {"log_square"}
    assert sum(prepared.profile["rows"].values()) == 8_000


def test_avazu(real_data, tmp_path):
    prepared = run(tmp_path, real_data / "avazu_9k" / "avazu_all.csv.gz", settings={"label": "click"})
    found = roles(prepared)
    assert {name for name, role in found.items() if role == "ignored"} == {"id", "hour"}  # a row id; one single hour
    assert set(found.values()) == {"label", "ignored", "categorical"}


def test_frappe(real_data, tmp_path):
    prepared = run(tmp_path, real_data / "frappe_x1" / "valid.parquet", settings={})
    assert list(roles(prepared).values()) == ["label"] + ["categorical"] * 10
    assert prepared.encoder.schema.group == "user"


@pytest.mark.parametrize("split", ["random", "time"])
def test_open_bandit(real_data, tmp_path, split):
    data = real_data / "open_bandit_40k" / "random_men.parquet"
    prepared = run(tmp_path, data, settings={"label": "click", "split": split})
    found = roles(prepared)
    assert (found["row"], found["timestamp"], found["propensity_score"]) == ("ignored", "timestamp", "ignored")
    assert (found["item_id"], found["position"], found["user_feature_0"]) == ("categorical",) * 3
    assert found["user-item_affinity_0"] == "numeric"


def test_census(real_data, tmp_path):
    data = real_data / "census_adult" / "train.parquet"
    settings = {"label": "income", "positive": ">50K"}
    prepared = run(tmp_path, data, settings=settings)
    numeric = {name for name, role in roles(prepared).items() if role == "numeric"}
    assert numeric == {"age", "education_num", "capital_gain", "capital_loss", "hours_per_week"}
    assert prepared.profile["positive_rate"]["train"] == pytest.approx(0.2408, abs=0.01)
    with pytest.raises(DataError, match=r"found '<=50K\.', '>50K\.'"):
        run(tmp_path, data, settings=settings, test=data.with_name("test.parquet"))
