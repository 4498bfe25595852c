"""Every recipe against the published table, typed here once, and against the rule that it names."""

import re
from pathlib import Path

import pytest

from clickherd.config import Config, load_yaml, resolve
from clickherd.optim.scaling import scaled

RECIPES = Path(__file__).parents[1] / "recipes"

# README of bytedance/LargeBatchCTR: dense rate / 1e-4, λ / 1e-5, ζ, test AUC %, minutes on one V100.
PUBLISHED = {
    "criteo": {
        "1k": (8, 1, 1e-5, "80.86", "768"),
        "2k": (11.31, 2, 1e-5, "80.93", "390"),
        "4k": (16, 4, 1e-5, "80.97", "204"),
        "8k": (22.62, 8, 1e-5, "80.97", "102"),
        "16k": (32, 16, 1e-5, "80.94", "48"),
        "32k": (45.25, 32, 1e-5, "80.95", "27"),
        "64k": (64, 64, 1e-5, "80.96", "15"),
        "128k": (90.50, 128, 1e-5, "80.90", "9"),
    },
    "avazu": {
        "1k": (1, 1, 1e-3, "78.83", "210"),
        "2k": (1.41, 2, 1e-3, "78.82", "108"),
        "4k": (2, 4, 1e-4, "78.90", "54"),
        "8k": (2.83, 8, 1e-4, "79.06", "30"),
        "16k": (4, 16, 1e-4, "79.01", "17"),
        "32k": (5.66, 32, 1e-4, "78.82", "10"),
        "64k": (8, 64, 1e-4, "78.82", "6.7"),
        "128k": (16, 96, 1e-4, "78.80", "4.8"),
    },
}
LEAVES_THE_RULE = {("avazu", "128k")}
ONE_IN_THE_LAST_DIGIT = 0.01e-4  # 22.62e-4 is 8e-4·√8 = 22.627e-4 cut off, not rounded

every_recipe = pytest.mark.parametrize(
    ("data", "size"), [(data, size) for data, table in PUBLISHED.items() for size in table]
)


def path_of(data: str, size: str) -> Path:
    return RECIPES / data / f"deepfm_{size}.yaml"


def load(data: str, size: str) -> Config:
    path = path_of(data, size)
    return resolve(load_yaml(path), source=path)


MEASURED = [RECIPES / "frappe" / "deepfm_crossed.yaml"]


def test_every_recipe_is_published_or_measured() -> None:
    published = {path_of(data, size) for data, table in PUBLISHED.items() for size in table}
    assert set(RECIPES.rglob("*.yaml")) == {*published, *MEASURED}


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_measured_recipe_is_valid_and_gives_its_command_and_score(path: Path) -> None:
    resolve(load_yaml(path), source=path)
    header = path.read_text().split("\n\n", 1)[0]
    assert f"--recipe {path.relative_to(RECIPES.parent)}" in header
    assert re.search(r"test AUC \.\d{4} ± \.\d{4} over \d seeds", header)


@every_recipe
def test_hyper_parameters_are_the_published_ones(data: str, size: str) -> None:
    config = load(data, size)
    dense_rate, l2, zeta, _, _ = PUBLISHED[data][size]
    batch_size = int(size.removesuffix("k")) * 1024
    assert config.train.batch_size == config.optim.base_batch_size == batch_size
    assert config.optim.learning_rate == pytest.approx(dense_rate * 1e-4, rel=1e-12)
    assert config.optim.l2 == pytest.approx(l2 * 1e-5, rel=1e-12)
    assert config.optim.zeta == zeta
    common = {"rule": "cowclip", "embedding_learning_rate": 1e-4, "clip": 1.0, "init_std": 1e-2, "warmup_epochs": 1.0}
    common |= {"betas": (0.9, 0.999), "epsilon": 1e-7, "regularize": "table", "averaging": None, "initial_bias": "zero"}
    assert config.optim.model_dump(include=set(common)) == common
    assert (config.train.epochs, config.train.patience) == (10, None)
    assert config.model.model_dump() == {
        "name": "deepfm",
        "embedding_dim": 10,
        "mlp": {"hidden_units": (400, 400, 400), "activation": "relu", "dropout": 0.0, "batch_norm": False},
    }


@every_recipe
def test_data_are_read_and_split_as_published(data: str, size: str) -> None:
    config = load(data, size).data
    assert (config.split, config.valid_fraction, config.min_count) == ("random", 0, 1)
    if data == "criteo":
        assert (config.format, config.label, config.numeric, config.test_fraction) == ("criteo", "label", "minmax", 0.1)
    else:
        assert (config.format, config.label, config.test_fraction) == ("csv", "click", 0.2)
        categorical = [column for column, role in config.roles.items() if role == "categorical"]
        assert len(categorical) == 22
        assert set(config.roles) - set(categorical) == {"id"}
        assert config.roles["id"] == "ignored"


@every_recipe
def test_the_rule_leads_from_1k_to_the_published_numbers(data: str, size: str) -> None:
    recipe = load(data, size).optim
    derived = scaled(load(data, "1k").optim, recipe.base_batch_size)
    follows = (
        derived.learning_rate == pytest.approx(recipe.learning_rate, abs=ONE_IN_THE_LAST_DIGIT)
        and derived.l2 == pytest.approx(recipe.l2, rel=1e-9)
        and derived.embedding_learning_rate == recipe.embedding_learning_rate
        and derived.clip == recipe.clip
    )
    assert follows == ((data, size) not in LEAVES_THE_RULE)


@every_recipe
def test_the_header_gives_command_score_time_and_source(data: str, size: str) -> None:
    header = path_of(data, size).read_text().split("\n\n", 1)[0]
    _, _, _, auc, minutes = PUBLISHED[data][size]
    assert f"--recipe recipes/{data}/deepfm_{size}.yaml" in header
    assert f"Published, not measured here: test AUC {auc}% after {minutes} minutes on one V100." in header
    assert "https://arxiv.org/abs/2204.06240" in header
    row = re.search(rf"^\| {size.upper()} \|.*$", (RECIPES / "README.md").read_text(), re.MULTILINE)
    assert row is not None
    assert f"{auc} | {minutes} |" in row[0]


@every_recipe
def test_nothing_published_is_left_to_a_default(data: str, size: str) -> None:
    optim = set(load_yaml(path_of(data, size))["optim"])
    assert optim >= {"learning_rate", "embedding_learning_rate", "l2", "clip", "zeta", "init_std", "warmup_epochs"}
    assert optim >= {"rule", "base_batch_size", "betas", "epsilon", "regularize", "averaging", "initial_bias"}
