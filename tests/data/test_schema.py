"""Roles of columns: what the values and the names suggest, and what settings override."""

import datetime
import json

import numpy as np
import polars as pl
import pytest

from clickherd.data.config import DataConfig
from clickherd.data.schema import Schema, infer_schema
from clickherd.data.source import open_source
from clickherd.errors import ConfigError, DataError

ROWS = 400
RNG = np.random.default_rng(0)
CRITEO = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
LABEL = RNG.integers(0, 2, ROWS)
SOME = RNG.integers(1, 30, ROWS)
DAY = datetime.datetime(2024, 5, 1)


def note_of(values, **settings):
    (column,) = (c for c in schema_of({"column": values, "other": SOME}, **settings).columns if c.name == "column")
    return column.role, column.note


def schema_of(columns, **settings):
    frame = pl.DataFrame({"label": LABEL, **columns})
    return infer_schema(open_source(frame, DataConfig(**settings)), DataConfig(**settings))


def role_of(values, name="column", **settings):
    """Role and encoding of a single column; a further one keeps the schema from having no feature."""
    columns = schema_of({name: values, "other": SOME}, **settings).columns
    (column,) = (column for column in columns if column.name == name)
    return (column.role, column.encoding) if column.encoding else column.role


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("ctr", RNG.random(ROWS), ("numeric", "quantile")),
        ("visits", SOME.astype(float), ("numeric", "log_square")),
        ("user_id", SOME.astype(float), "categorical"),
        ("zip", SOME.astype(float), "categorical"),
        ("banner", SOME, "categorical"),
        ("hours_per_week", SOME, ("numeric", "log_square")),
        ("clickCount", SOME, ("numeric", "log_square")),
        ("price", SOME, ("numeric", "log_square")),
        ("discount", SOME, "categorical"),  # `count` within a word says nothing
        ("banner", np.where(SOME == 3, -1, SOME), "categorical"),  # -1 for "none"
        ("temperature", SOME - 15, ("numeric", "log_square")),
        ("age", [str(x) for x in SOME], ("numeric", "log_square")),
        ("banner", [str(x) for x in SOME], "categorical"),
        ("score", [f"{x}.5" for x in SOME], ("numeric", "quantile")),
        ("affinity", [f"{x}.0" for x in SOME], ("numeric", "log_square")),
        ("age", [f"0{x}" for x in SOME], "categorical"),
        ("zip", [f"{x:05d}" for x in SOME], "categorical"),
        ("mobile", [True, False] * 200, "categorical"),
        ("site", ["a", "b"] * 200, "categorical"),
        ("genres", ["Action|Comedy", "Comedy", "Drama|Action", "Drama"] * 100, "multi"),
        ("genres", [["Action", "Comedy"], ["Drama"]] * 200, "multi"),
        ("path", [f"page{i}|{i}" for i in range(ROWS)], "ignored"),  # the parts do not recur
        ("when", [DAY + datetime.timedelta(minutes=i) for i in range(ROWS)], "timestamp"),
        ("when", [DAY.date() + datetime.timedelta(days=i % 9) for i in range(ROWS)], "timestamp"),
        ("when", [f"2024-05-01 12:{i % 60:02d}:00" for i in range(ROWS)], "timestamp"),
        ("when", [f"2024-05-01T12:{i % 60:02d}:00.25Z" for i in range(ROWS)], "timestamp"),
        ("timestamp", 1_700_000_000 + SOME, "timestamp"),
        ("event_time", 1_700_000_000_000 + SOME, "timestamp"),
        ("time_slot", SOME, "categorical"),
        ("row", np.arange(ROWS), "ignored"),
        ("request", [f"r{i}" for i in range(ROWS)], "ignored"),
        ("request_id", RNG.permutation(ROWS), "ignored"),
        ("price", RNG.permutation(ROWS), ("numeric", "log_square")),
        ("same", ["x"] * ROWS, "ignored"),
        ("empty", pl.Series([None] * ROWS, dtype=pl.String), "ignored"),
        ("blank", [""] * ROWS, "ignored"),
        ("flag", ["x", None] * 200, "categorical"),
    ],
)
def test_inferred_roles(name, values, role):
    assert role_of(values, name) == role


def test_ignored_columns_say_why():
    columns = {c.name: c for c in schema_of({"row": np.arange(ROWS), "k": [1] * ROWS, "a": SOME}).columns}
    assert columns["row"].note == "numbers the rows"
    assert columns["k"].note == "every row has the same value"


def test_few_rows_do_not_make_an_id():
    frame = pl.DataFrame({"label": [0, 1] * 10, "a": [f"v{i}" for i in range(20)]})
    schema = infer_schema(open_source(frame, DataConfig()), DataConfig())
    assert schema.columns[1].role == "categorical"


def test_settings_override():
    assert role_of(SOME, roles={"column": "numeric"}) == ("numeric", "log_square")
    assert role_of(np.arange(ROWS), roles={"column": "categorical"}) == "categorical"
    assert role_of(SOME, roles={"column": "ignored"}) == "ignored"
    assert role_of(SOME, numeric_columns={"column": "minmax"}) == ("numeric", "minmax")
    assert role_of(RNG.random(ROWS), numeric="standard") == ("numeric", "standard")
    assert role_of(np.arange(ROWS), hash_buckets={"column": 10}) == "categorical"
    assert role_of(["a,b", "b"] * 200, multi_separator=",") == "multi"


def test_criteo_columns_have_their_roles(tmp_path):
    row = "\t".join(["1", *"1234567890123", *(f"{i:08x}" for i in range(26))])
    other = "\t".join(["0", *["99"] * 13, *["deadbeef"] * 26])
    (tmp_path / "day.tsv").write_text("\n".join([row, other] * 3) + "\n")
    config = DataConfig(format="criteo")
    roles = [column.role for column in infer_schema(open_source(tmp_path / "day.tsv", config), config).columns]
    assert roles == ["label"] + ["numeric"] * 13 + ["categorical"] * 26
    pl.read_csv(tmp_path / "day.tsv", separator="\t", has_header=False, new_columns=CRITEO).write_parquet(
        tmp_path / "day.parquet"
    )
    schema = infer_schema(open_source(tmp_path / "day.parquet", DataConfig()), DataConfig())
    assert [column.role for column in schema.columns] == roles


def test_group_and_time_are_found_by_themselves_or_given():
    schema = schema_of({"User_ID": SOME, "site": SOME, "ts": 1_700_000_000 + SOME})
    assert (schema.group, schema.time_column) == ("User_ID", "ts")
    given = schema_of({"user_id": SOME, "site": SOME}, group="site", time_column="site")
    assert (given.group, given.time_column) == ("site", "site")
    assert schema_of({"site": SOME}).group is None


def test_known_click_probability_is_never_a_feature():
    assert role_of(RNG.random(ROWS), "true_probability") == "ignored"
    with pytest.raises(DataError, match="never a feature"):
        role_of(RNG.random(ROWS), "true_probability", roles={"true_probability": "numeric"})


@pytest.mark.parametrize("values", [[5] * ROWS, pl.Series([None] * ROWS, dtype=pl.Int64)])
def test_a_column_that_says_nothing_cannot_be_asked_for(values):
    with pytest.raises(DataError, match=r"column 'column'.*ignored"):
        role_of(values, roles={"column": "categorical"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"roles": {"colum": "numeric"}}, "Did you mean 'column'"),
        ({"numeric_columns": {"x": "log_square"}}, "numeric_columns names 'x'"),
        ({"hash_buckets": {"x": 3}}, "hash_buckets names 'x'"),
        ({"hash_buckets": {"column": 0}}, "hash_buckets.column = 0"),
        ({"hash_buckets": {"column": 3}, "roles": {"column": "numeric"}}, "'column' is numeric"),
        ({"numeric_columns": {"column": "log_square"}, "roles": {"column": "multi"}}, "'column' is multi"),
        ({"group": "usr"}, "group names 'usr'"),
        ({"roles": {"column": "label"}}, "the label is 'label'"),
        ({"roles": {"label": "numeric"}}, "the label is 'label'"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        role_of(SOME, **settings)


def test_roles_that_a_type_cannot_play():
    with pytest.raises(DataError, match="cannot be categorical: it holds List"):
        role_of([["a"], ["b"]] * 200, roles={"column": "categorical"})
    with pytest.raises(DataError, match="cannot be numeric: it holds Date"):
        role_of([DAY.date(), DAY.date() + datetime.timedelta(1)] * 200, roles={"column": "numeric"})


def test_a_column_that_varies_beyond_the_sample_is_a_feature(monkeypatch):
    monkeypatch.setattr("clickherd.data.schema.SAMPLE_ROWS", 10)
    late = np.where(np.arange(ROWS) == 399, 2, 1)
    assert role_of(late) == "categorical"
    assert role_of(np.ones(ROWS, int)) == "ignored"
    assert role_of(pl.Series([None] * 399 + ["x"])) == "categorical"


def test_no_feature_left():
    with pytest.raises(DataError, match=r"no column is left.*k: every row has the same value"):
        schema_of({"k": [1] * ROWS})


def test_json_round_trip_and_table():
    schema = schema_of({"user_id": SOME, "price": SOME / 7})
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    lines = schema.lines()
    assert len(lines) == 3
    assert lines[1].split() == ["user_id", "categorical", "groups", "rows", "for", "GAUC"]
    assert lines[2].split() == ["price", "numeric", "quantile"]


@pytest.mark.parametrize("separator", [";", ","])
def test_lists_with_another_separator_stay_categorical_with_a_hint(separator):
    texts = [separator.join(RNG.choice(["Action", "Comedy", "Drama", "War"], 3)) for _ in range(ROWS)]
    role, note = note_of(texts)
    assert role == "categorical"
    assert f"--set data.multi_separator='{separator}' --role column=multi" in note
    assert note_of(texts, multi_separator=separator)[0] == "multi"
    assert note_of(texts, roles={"column": "categorical"}) == ("categorical", "as set")


@pytest.mark.parametrize(
    "texts",
    [
        ["Action", "Comedy;Drama", "War", "Drama"] * 100,  # few rows have parts
        [f"{i};{i + 1}" for i in range(ROWS)],  # the parts do not recur
        ["one, two", "three, four"] * 200,  # nor more than whole values do
    ],
)
def test_separators_that_may_be_mere_text_give_no_hint(texts):
    assert "separator" not in note_of(texts)[1]


def with_odd(values, *odd):
    texts = [str(value) for value in values]
    return [*texts[: ROWS - len(odd)], *odd]


@pytest.mark.parametrize("values", [RNG.random(ROWS), RNG.permutation(ROWS), SOME])
def test_an_odd_value_among_numbers_is_named_with_the_mend(values):
    role, note = note_of(with_odd(values, "n/a?"))
    assert role in ("categorical", "ignored")  # as for other texts
    assert "almost all values are numbers; 'n/a?' is not one" in note
    assert "data.null_values" in note
    assert "--role column=numeric" in note
    columns = {"column": with_odd(values, "n/a?"), "other": SOME}
    assert "'n/a?' is not one" in schema_of(columns).lines()[1]
    mended = note_of(with_odd(values, "n/a?"), null_values=("", "n/a?"), roles={"column": "numeric"})
    assert mended == ("numeric", "as set")


def test_a_few_odd_values_are_listed():
    assert "'x', 'y' are not" in note_of(with_odd(SOME, "x", "x", "y"))[1]
    assert " and 1 more are not" in note_of(with_odd(SOME, "u", "v", "x", "y"))[1]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("column", with_odd(SOME, *"vwxyz")),  # over 1 %
        ("column", with_odd([f"{i:03d}" for i in SOME], "n/a?")),  # codes
        ("user_id", with_odd(SOME, "guest")),  # ids
        ("column", with_odd(SOME, None)),
        ("column", ["a", "b"] * 200),
    ],
)
def test_texts_among_ids_codes_and_texts_are_no_slip(name, values):
    (column,) = (c for c in schema_of({name: values, "other": SOME}).columns if c.name == name)
    assert "almost all" not in column.note


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        ([f"2024-05-01 12:{i % 60:02d}:00" for i in range(ROWS)], "yesterday"),
        ([f"2024-05-{i % 28 + 1:02d}" for i in range(ROWS)], "2024-02-30"),
        (1_700_000_000 + SOME, "soon"),
    ],
)
def test_an_odd_value_among_times_is_named(values, odd):
    (column, *_) = (c for c in schema_of({"event_time": with_odd(values, odd), "o": SOME}).columns if c.name != "label")
    assert f"almost all values are times; '{odd}' is not one" in column.note
