"""What is searched: the defaults of every model, and how a user says others."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.config import merge, nest, resolve
from clickherd.errors import ConfigError
from clickherd.models import MODELS
from clickherd.search_space import Choice, Range, default_space, dump_space, load_space, parse, user_space


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_has_a_space_of_settings_that_it_takes(name: str) -> None:
    config = resolve({"model": name})
    space = default_space(config)
    assert {"optim.learning_rate", "optim.embedding_learning_rate", "optim.l2"} <= set(space)
    assert ("model.mlp.dropout" in space) == hasattr(config.model, "mlp")
    for setting, entry in space.items():
        for value in entry.ends():
            resolve(merge(config.model_dump(), nest(setting, value)))


def test_rates_are_searched_around_those_of_the_recipe() -> None:
    space = default_space(resolve({"optim": {"learning_rate": 1e-4, "l2": 0.0}}))
    rate, l2 = space["optim.learning_rate"], space["optim.l2"]
    assert isinstance(rate, Range)
    assert rate.log
    assert rate.ends() == pytest.approx((1e-5, 1e-3))
    assert isinstance(l2, Range)
    assert 0 < l2.low < l2.high


def test_what_is_set_is_not_searched() -> None:
    config = resolve({})
    assert "optim.l2" not in default_space(config, {"optim.l2": 0})
    with pytest.raises(ConfigError, match="both set and searched"):
        user_space(config, searches=["optim.l2=1e-6..1e-4:log"], fixed={"optim.l2": 0})


def test_a_range_is_of_the_settings_own_kind_of_number() -> None:
    config = resolve({})
    searches = ["model.mlp.dropout=0..0.5", "optim.warmup_epochs=0..2", "model.embedding_dim=4.0..8"]
    space = user_space(config, searches=searches)
    dropout, warmup, width = (space[search.partition("=")[0]] for search in searches)
    assert isinstance(dropout, Range)
    assert isinstance(warmup, Range)
    assert isinstance(width, Range)
    assert not dropout.whole
    assert not warmup.whole
    assert width.whole


@settings(deadline=None)
@given(st.floats(1e-9, 1e3), st.floats(1.01, 1e6), st.booleans())
def test_a_written_range_is_read_as_it_was_meant(low: float, ratio: float, log: bool) -> None:
    entry = parse(f"{low!r}..{low * ratio!r}{':log' if log else ''}", "optim.l2")
    assert entry == Range(low=low, high=low * ratio, log=log)


def test_choices_may_be_lists_and_words() -> None:
    assert parse("[64,64]|[400,400,400]", "x") == Choice(choices=([64, 64], [400, 400, 400]))
    assert parse("parallel | stacked", "x").ends() == ("parallel", "stacked")
    assert parse("1024|4096", "x").ends() == (1024, 4096)


def test_a_file_of_ranges_dotted_or_nested_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "optim.l2: 1e-7..1e-4:log\n"
        "model:\n  embedding_dim: {low: 4, high: 16}\n  mlp:\n    hidden_units: [[8], [16, 16]]\n"
        "optim:\n  learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
    )
    space = load_space(path)
    assert space == {
        "optim.l2": Range(low=1e-7, high=1e-4, log=True),
        "model.embedding_dim": Range(low=4, high=16),
        "model.mlp.hidden_units": Choice(choices=([8], [16, 16])),
        "optim.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    }
    path.write_text(dump_space(space))
    assert load_space(path) == space
    assert user_space(resolve({}), file=path) == space


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ("optim.learnin_rate=1e-4..1e-2", "Did you mean 'learning_rate'"),
        ("optim.l2", "NAME=low..high"),
        ("optim.l2=1e-4", "--set"),
        ("optim.l2=1e-4..1e-6", "low end"),
        ("optim.l2=0..1e-4:log", "above 0"),
        ("optim.l2=a..b", "cannot read the range"),
        ("model.mlp.dropout=0..1", "model.mlp.dropout = 1"),
        ("model.embedding_dim=0..8", "model.embedding_dim = 0"),
        ("model.name=dcn|lr", "one after the other"),
        ("data.min_count=1..5", "encoded once"),
        ("train.epochs=1..5", "same budget"),
    ],
)
def test_mistakes_in_a_range_are_named(search: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        user_space(resolve({}), searches=[search])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"optim.l2": 3}, "optim.l2 = 3 is no range"),
        ({"optim.l2": {"low": 1e-5, "hihg": 1}}, "hihg"),
        ({"optim.l2": []}, "optim.l2"),
        ({"optim": {"l22": "0..1"}}, "l22"),
    ],
)
def test_mistakes_in_a_file_of_ranges_name_it(tmp_path: Path, entries: object, says: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(ConfigError) as caught:
        user_space(resolve({}), file=path)
    assert says in str(caught.value)
    assert "space.yaml" in str(caught.value)
