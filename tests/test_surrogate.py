"""What drives a model, told by a small tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from clickherd.data.config import DataConfig
from clickherd.data.prepare import Prepared, prepare
from clickherd.data.store import FIRST_VALUE, Batch
from clickherd.surrogate import drivers

Run = Callable[..., tuple[int, str, str]]
ROWS = 6_000


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Twenty sites, a list of colours, visits in buckets, a price as a number; every tenth visit is missing."""
    rng = np.random.default_rng(0)
    site, visits = rng.integers(0, 20, ROWS), rng.integers(0, 50, ROWS)
    colours = [["red", "blue", "green"][k] for k in rng.integers(0, 3, ROWS)]
    frame = pl.DataFrame(
        {
            "clicked": rng.integers(0, 2, ROWS),
            "site": [f"s{value}" for value in site],
            "colours": [f"{colour}|plain" for colour in colours],
            "visits": pl.Series([None if k % 10 == 0 else v for k, v in enumerate(visits.tolist())]),
            "price": rng.random(ROWS) * 100,
        }
    )
    config = DataConfig(
        label="clicked",
        roles={"visits": "numeric", "price": "numeric", "colours": "multi"},
        valid_fraction=0,
        test_fraction=0,
        numeric="log_square",
        numeric_columns={"price": "minmax"},
    )
    return prepare(frame, config, seed=0, cache_dir=tmp_path / "cache")


def scores(prepared: Prepared, name: str) -> Callable[[Batch], np.ndarray]:
    """A model that looks at one column: 0.8 for sites s0 to s4, red, visits from 25 on, prices above 60; else 0.1."""
    encoder = prepared.encoder
    position = next((k for k, field in enumerate(encoder.layout.fields) if field.name == name), None)

    def predict(batch: Batch) -> np.ndarray:
        if name == "price":
            high = batch.numeric[:, 0] > 0.6
        elif name == "colours":
            offset = next(field.offset for field in encoder.layout.fields if field.name == name)
            red = encoder.embedded[name].encode(pl.Series(["red"]))[0] + offset
            values, offsets = batch.bags[0]
            high = np.add.reduceat(values == red, offsets[:-1]) > 0
        else:
            assert position is not None
            field = encoder.layout.fields[position]
            wanted = [f"s{k}" for k in range(5)]
            encoding = encoder.embedded[name]
            good = encoding.encode(pl.Series(wanted) if name == "site" else np.arange(25.0, 50.0))
            high = np.isin(batch.ids[:, position] - field.offset, good)
        return np.where(high, 0.8, 0.1)

    return predict


@pytest.mark.parametrize(
    ("column", "high", "low"),
    [
        ("price", "price > ", "price ≤ "),
        ("colours", "colours with 'red'", "colours without 'red'"),
        ("visits", "visits ≥ 2", "visits < 2"),
        ("site", "site 's", "site not 's"),
    ],
)
def test_a_model_of_one_column_is_told_by_it(prepared: Prepared, column: str, high: str, low: str) -> None:
    batch = prepared.train.read(0, ROWS)
    found = drivers(scores(prepared, column), batch, prepared.encoder)
    assert found is not None
    assert found.explained > 0.95
    first, last = found.groups[0], found.groups[-1]
    assert first.predicted == pytest.approx(0.8)
    assert last.predicted == pytest.approx(0.1, abs=0.02)
    assert first.conditions[0].startswith(high)
    assert last.conditions[0].startswith(low)
    if column == "price":
        assert float(first.conditions[0].split()[-1]) == pytest.approx(60, abs=0.5)
    if column == "visits":  # the bucket that 25 is in begins at exp(√10)
        assert first.conditions[0] == "visits ≥ 23.62"
        assert last.conditions[0].endswith("or missing")
    if column == "site":  # five of twenty: three by name
        assert first.conditions[0].endswith("or 2 more")
    assert sum(group.share for group in found.groups) == pytest.approx(1)
    lines = found.lines()
    assert len(lines) <= 20
    assert "explain" in lines[0]


def test_nothing_is_told_of_a_model_that_tells_nothing_apart(prepared: Prepared) -> None:
    batch = prepared.train.read(0, ROWS)
    assert drivers(lambda rows: np.full(len(rows), 0.3), batch, prepared.encoder) is None
    assert drivers(scores(prepared, "site"), prepared.train.read(0, 20), prepared.encoder) is None


@pytest.mark.parametrize(
    ("span", "missing", "said"),
    [
        ((23.0, 35.0), 0.0, ["visits ≥ ", "visits < "]),  # a band, whose lower end shuts out what is missing
        ((-1.0, -1.0), 1.0, ["visits missing"]),
        ((0.0, 50.0), 0.0, ["visits not missing"]),
    ],
)
def test_gaps_are_told_where_they_are(
    prepared: Prepared, span: tuple[float, float], missing: float, said: list[str]
) -> None:
    batch = prepared.train.read(0, ROWS)
    layout = prepared.encoder.layout
    place = next(k for k, field in enumerate(layout.fields) if field.name == "visits")
    encoding = prepared.encoder.embedded["visits"]
    numbers = np.arange(50.0)
    good = encoding.encode(numbers[(numbers >= span[0]) & (numbers < span[1])])

    def predict(rows: Batch) -> np.ndarray:
        local = rows.ids[:, place] - layout.fields[place].offset
        return 0.1 + 0.7 * np.where(local < FIRST_VALUE, missing, np.isin(local, good))

    found = drivers(predict, batch, prepared.encoder)
    assert found is not None
    conditions = found.groups[0].conditions
    assert len(conditions) == len(said)
    assert all(text.startswith(start) for text, start in zip(conditions, said, strict=True))
    assert not any("or missing" in text for text in conditions)


def test_a_threshold_has_the_digits_it_takes(prepared: Prepared, tmp_path: Path) -> None:
    """Of seconds since 1970, seven more or less than the middle of the column; and names with braces are names."""
    rng = np.random.default_rng(0)
    second = 1_600_000_000 + rng.integers(0, 20, ROWS) * 7
    frame = pl.DataFrame({"clicked": rng.integers(0, 2, ROWS), "at{x}": second, "tags": ["{y}|b", "b"] * (ROWS // 2)})
    roles = {"at{x}": "numeric", "tags": "multi"}
    config = DataConfig(label="clicked", roles=roles, valid_fraction=0, test_fraction=0, numeric="minmax")
    prepared = prepare(frame, config, seed=0, cache_dir=tmp_path / "braces")
    batch = prepared.train.read(0, ROWS)
    found = drivers(lambda rows: np.where(rows.numeric[:, 0] > 0.5, 0.9, 0.1), batch, prepared.encoder)
    assert found is not None
    (condition,) = found.groups[0].conditions
    name, sign, threshold = condition.split()
    assert (name, sign) == ("at{x}", ">")
    assert 1_600_000_063 <= float(threshold) < 1_600_000_070
    has_y = prepared.encoder.embedded["tags"].encode(pl.Series(["{y}"]))[0]

    def by_tag(rows: Batch) -> np.ndarray:
        values, offsets = rows.bags[0]
        offset = prepared.encoder.layout.fields[0].offset
        return np.where(np.add.reduceat(values - offset == has_y, offsets[:-1]) > 0, 0.9, 0.1)

    found = drivers(by_tag, batch, prepared.encoder)
    assert found is not None
    assert found.groups[0].conditions == ("tags with '{y}'",)


def test_the_command_prints_it_and_the_page_has_it(run: Run) -> None:
    rng = np.random.default_rng(0)
    site = rng.integers(0, 10, 4_000)
    clicked = (rng.random(4_000) < np.where(site < 3, 0.7, 0.1)).astype(int)
    pl.DataFrame({"clicked": clicked, "site": [f"<s{value}>" for value in site]}).write_csv("log.csv")
    code, _, err = run("train", "log.csv", "--label", "clicked", "--epochs", 3, "--out", "run")
    assert code == 0, err
    page = Path("run/report.html").read_text()
    assert "What drives the predictions" in page
    assert "site &#39;&lt;s" in page
    code, out, err = run("report", "run", "--explain")
    assert code == 0, err
    assert "groups of rows explain" in out
    assert "site '<s" in out
