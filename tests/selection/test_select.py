"""`clickherd select`: what it finds planted in a log, what it writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

Run = Callable[..., tuple[int, str, str]]


def write_log(path: Path, rows: int = 20_000, *, times: bool = False) -> pl.DataFrame:
    """Useful and useless columns of equal cardinality; one that drifts, one that empties, one that names rows."""
    rng = np.random.default_rng(0)
    half, newest = np.arange(rows) >= rows // 2, np.arange(rows) >= rows * 6 // 10
    useful = {"useful_few": 10, "useful_many": 2_000}
    drawn = {name: rng.integers(0, values, rows) for name, values in useful.items()}
    logit = -1.5 + sum(rng.normal(0, 0.7, values)[drawn[name]] for name, values in useful.items())
    a, b = rng.integers(0, 2, rows), rng.integers(0, 2, rows)
    logit = logit + 1.5 * (a ^ b)
    tags = [["red"] * bool(r) + ["new"] * bool(s) for r, s in rng.integers(0, 2, (rows, 2))]
    logit = logit + np.array([0.8 * ("red" in t) for t in tags])
    promo = np.where(half, rng.random(rows) < 0.4, rng.random(rows) < 0.02)
    frame = pl.DataFrame(
        {
            "clicked": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
            **{name: [f"v{value}" for value in values] for name, values in drawn.items()},
            "noise_few": [f"v{value}" for value in rng.integers(0, 10, rows)],
            "noise_many": [f"v{value}" for value in rng.integers(0, 2_000, rows)],
            "left": [f"l{value}" for value in a],
            "right": [f"r{value}" for value in b],
            "tags": ["|".join(t) for t in tags],
            "promo": np.where(promo, "sale", "none"),
            "campaign": [
                f"c{value + 50 * late}" for value, late in zip(rng.integers(0, 50, rows), newest, strict=True)
            ],
            "device": [
                None if late and r < 0.5 else f"d{r:.1f}" for late, r in zip(half, rng.random(rows), strict=True)
            ],
            "request": [f"q{value % (rows * 9 // 10)}" for value in rng.permutation(rows)],
            "dwell": rng.random(rows),
        }
    )
    if times:  # the later half stands first
        frame = frame.with_columns(timestamp=pl.Series(1_700_000_000 + np.arange(rows) * 60)).sample(
            fraction=1, shuffle=True, seed=1
        )
    frame.write_parquet(path)
    return frame


ARGS = ["--label", "clicked", "--min-count", 1]


def select(run: Run, *arguments: object) -> dict:
    code, out, err = run("select", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("times", [False, True])
def test_useful_columns_stand_above_noise_and_oddities_are_told(run: Run, times: bool) -> None:
    write_log(Path("log.parquet"), times=times)
    result = select(run, "log.parquet", *ARGS, "--out", "out")
    features = {feature["name"]: feature for feature in result["features"]}
    scores = [feature["score"] for feature in result["features"]]
    assert scores == sorted(scores, reverse=True)
    for kind in ("few", "many"):
        assert features[f"useful_{kind}"]["above_noise"] > 10
        assert abs(features[f"noise_{kind}"]["above_noise"]) < 4
    assert features["noise_many"]["mutual_information"] > features["useful_few"]["mutual_information"]
    assert features["tags"]["above_noise"] > 10
    assert {"useful_few", "useful_many"} <= set(result["kept"])
    assert not {"noise_few", "noise_many", "request", "dwell"} & set(result["kept"])
    assert {"left", "right"} <= set(result["kept"])  # nothing by themselves, much together
    assert sorted(result["pairs"][0]["features"]) == ["left", "right"]

    half = "later half" if times else "second half of the rows"
    assert result["order"] == ("timestamp" if times else None)
    promo = [note for note in features["promo"]["notes"] if note.startswith("drifts")]
    assert len(promo) == 1
    assert "'sale'" in promo[0] or "'none'" in promo[0]
    assert promo[0].endswith(f"in the {half}")
    assert features["promo"]["drift"] == pytest.approx(0.17, abs=0.03)
    assert any(note.startswith("missing 0% → 50%") for note in features["device"]["notes"])
    assert features["campaign"]["new_values"] == pytest.approx(0.8, abs=0.03)
    assert any("no earlier row" in note for note in features["campaign"]["notes"])
    assert any("identifier" in note for note in features["request"]["notes"])
    for plain in ("useful_few", "useful_many", "noise_few", "noise_many", "left", "right", "dwell"):
        assert features[plain]["notes"] == []

    report = Path("out/report.md").read_text()
    assert "left*right" in report
    assert "| 1 | useful_" in report
    assert Path("out/select.svg").read_text().startswith("<svg")
    assert json.loads(Path("out/select.json").read_text()) == result


def test_the_file_of_features_is_what_train_learns_from(run: Run) -> None:
    write_log(Path("log.parquet"), 4_000)
    result = select(run, "log.parquet", *ARGS, "--keep", 2, "--pairs", 0, "--out", "out")
    assert result["pairs"] == []
    assert {feature["rank_3mr"] for feature in result["features"]} == {None}
    assert len(result["kept"]) == 2
    train = ["train", "log.parquet", "--label", "clicked", "--epochs", 1, "--no-report", "--json"]
    code, _, err = run(*train, "--features", "out/features.yaml", "--cross", "left*right", "--out", "run")
    assert code == 0, err
    schema = json.loads(Path("run/encoder/encoder.json").read_text())["data_schema"]["columns"]
    used = {c["name"] for c in schema if c["role"] not in ("ignored", "label", "timestamp")}
    assert used == {*result["kept"], "left*right"}
    code, _, err = run("predict", "run", "log.parquet", "--out", "scores.csv")
    assert code == 0, err

    select(
        run,
        "log.parquet",
        *ARGS,
        "--cross",
        "noise_few*dwell",
        "--cross",
        "left*right",
        "--keep",
        4,
        "--out",
        "crossed",
    )
    assert "noise_few" not in Path("crossed/features.yaml").read_text()
    assert "left*right" in Path("crossed/features.yaml").read_text()

    Path("crosses.yaml").write_text("features: [useful_few, left*right]\ncrosses: [[left, right]]\n")
    code, _, err = run(*train, "--features", "crosses.yaml", "--out", "run2")
    assert code == 0, err
    schema = json.loads(Path("run2/encoder/encoder.json").read_text())["data_schema"]["columns"]
    assert {c["name"] for c in schema if c["role"] not in ("ignored", "label")} == {"useful_few", "left*right"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["cannot read the features: No such file", "features.yaml"]),
        ("[a, b]", ["no set of features", "`features:`"]),
        ("features: []", ["no set of features"]),
        ("features: [useful_few]\nmore: 1", ["no set of features"]),
        ("features: [", ["not valid YAML"]),
        ("features: [usefull_few]", ["data.features names 'usefull_few'", "Did you mean 'useful_few'?"]),
    ],
)
def test_a_file_of_features_that_is_none_is_told(run: Run, content: str | None, words: list[str]) -> None:
    write_log(Path("log.parquet"), 400)
    if content is not None:
        Path("features.yaml").write_text(content)
    code, _, err = run("train", "log.parquet", "--label", "clicked", "--features", "features.yaml", "--out", "run")
    assert code == 2
    for word in words:
        assert word in err.replace("\n", " ")
    assert not Path("run").exists()


def test_what_cannot_be_ranked_is_told(run: Run) -> None:
    rng = np.random.default_rng(0)
    pl.DataFrame({"clicked": rng.integers(0, 2, 500), "x": rng.integers(0, 5, 500).astype(str)}).write_csv("noise.csv")
    code, _, err = run("select", "noise.csv", "--label", "clicked", "--out", "out")
    assert code == 2
    assert "no column tells more about the label than chance" in err
    assert "(left out)" in Path("out/report.md").read_text()
    assert not Path("out/features.yaml").exists()
    code, _, err = run("select", "noise.csv", "--label", "clicked", "--keep", 1, "--out", "out")
    assert code == 0, err
    Path("other").mkdir()
    Path("other/file").write_text("mine")
    code, _, err = run("select", "noise.csv", "--label", "clicked", "--out", "other")
    assert code == 2
    assert "holds other things" in err
    code, _, err = run("select", "noise.csv", "--label", "click")
    assert code == 2
    assert "the label's column is not there" in err


def test_the_halves_of_a_log_of_few_days_are_days(run: Run) -> None:
    """Two instants, the first of which holds most rows; and one instant only, or one that cannot be read."""
    rng = np.random.default_rng(0)
    rows = 4_000
    later = rng.random(rows) < 0.3
    clicked, site = rng.integers(0, 2, rows), rng.integers(0, 5, rows)
    days = pl.DataFrame(
        {
            "clicked": clicked,
            "site": [f"s{value + 10 * late}" for value, late in zip(site, later, strict=True)],
            "device": [f"d{value}" for value in rng.integers(0, 5, rows)],
            "day": np.where(later, "2026-01-02", "2026-01-01"),
        }
    )
    days.write_csv("days.csv")
    arguments = ["--label", "clicked", "--keep", 1, "--role", "day=timestamp", "--json", "--out", "out"]
    result = select(run, "days.csv", *arguments[:-3], "--out", "out")
    features = {feature["name"]: feature for feature in result["features"]}
    assert result["order"] == "day"
    assert features["site"]["new_values"] == pytest.approx(1, abs=0.01)
    assert features["site"]["drift"] == pytest.approx(0.88, abs=0.03)  # entropy of .3 in bits
    assert features["device"]["notes"] == []

    days.with_columns(day=pl.lit("2026-01-01")).write_csv("day.csv")
    code, out, err = run("select", "day.csv", *arguments)
    assert code == 0, err
    assert json.loads(out)["order"] is None
    assert "all have the same day" in err
    missing = pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise(pl.col("day")).alias("day")
    days.with_columns(missing).write_csv("gap.csv")
    code, out, err = run("select", "gap.csv", *arguments)
    assert code == 0, err
    assert json.loads(out)["order"] is None
    assert "not by day: the time is missing" in err


def test_histories_and_odd_names_come_with_the_features(run: Run) -> None:
    rng = np.random.default_rng(0)
    rows = 3_000
    item = rng.integers(0, 10, rows)
    pl.DataFrame(
        {
            "clicked": (rng.random(rows) < np.linspace(0.1, 0.9, 10)[item]).astype(int),
            "item[/b]|x": [f"i|{value}" if value % 2 else f"[i]{value}" for value in item],
            "user": [f"u{value}" for value in rng.integers(0, 100, rows)],
            "time": 1_700_000_000 + 60 * np.arange(rows),
        }
    ).write_parquet("log.parquet")
    history = "item[/b]|x by user"
    shared = ["log.parquet", "--label", "clicked", "--time-column", "time", "--role", "item[/b]|x=categorical"]
    code, out, err = run("select", *shared, "--history", history, "--keep", 4, "--out", "out")
    assert code == 0, err
    assert "item[/b]|x" in out
    assert "item[/b]\\|x" in Path("out/report.md").read_text()
    train = ["train", *shared, "--epochs", 1, "--no-report", "--json"]
    code, _, err = run(*train, "--features", "out/features.yaml", "--model", "din", "--out", "run")
    assert code == 0, err
    Path("history.yaml").write_text("features: ['item[/b]|x']\n")
    code, _, err = run(*train, "--features", "history.yaml", "--history", history, "--model", "din", "--out", "run2")
    assert code == 0, err
    Path("alone.yaml").write_text(f"features: [user, '{history}']\nhistories: ['{history}']\n")
    code, _, err = run(*train, "--features", "alone.yaml", "--out", "run3")
    assert code == 2
    assert "but not 'item[/b]|x', whose values it lists" in err
    Path("label.yaml").write_text("features: [user, clicked]\n")
    code, _, err = run(*train, "--features", "label.yaml", "--out", "run4")
    assert code == 2
    assert "'clicked', which is the label" in err
