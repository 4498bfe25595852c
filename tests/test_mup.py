"""μP: its table by hand, what it leaves alone, and the check of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from clickherd import mup
from clickherd.compact.config import CompressionConfig
from clickherd.config import Config, resolve
from clickherd.data.store import FieldLayout, Layout, Store
from clickherd.device_store import TrainingRows
from clickherd.errors import ConfigError
from clickherd.learner import Learner
from clickherd.network import ClickModel
from clickherd.runtime import seeded
from clickherd.widths import widened

Run = Callable[..., tuple[int, str, str]]
LAYOUT = Layout((FieldLayout("a", 0, 40), FieldLayout("b", 40, 30)), ("n",))
NARROW = {"mlp": {"hidden_units": [64, 128]}}


def config_of(units: list[int], base: dict[str, Any] | None, **model: Any) -> Config:
    return resolve(
        {
            "model": {"embedding_dim": 4, "mlp": {"hidden_units": units}, **model},
            "optim": {"mup_base": base, "averaging": None},
            "train": {"precision": "fp32"},
        }
    )


def named(model: ClickModel, values: list[float] | None) -> dict[str, float]:
    assert values is not None
    return dict(zip((name for name, _ in model.net.named_parameters()), values, strict=True))


def test_rates_by_hand() -> None:
    """Twice and eight times the units: what grows on the way in is divided by, what grows on the way out is not."""
    model = ClickModel(config_of([128, 1024], NARROW).model, LAYOUT)
    rates = named(model, mup.rates(model, NARROW))
    weights = {name: rate for name, rate in rates.items() if name.startswith("mlp.") and name.endswith("weight")}
    assert weights == {"mlp.layers.0.weight": 1, "mlp.layers.2.weight": 1 / 2, "mlp.layers.4.weight": 1 / 8}
    assert {rate for name, rate in rates.items() if name not in weights} == {1}
    assert mup.rates(model, None) is None


def test_weights_at_the_start_by_hand() -> None:
    """Glorot in the narrow model: √(2/(9 + 64)), √(2/(64 + 128)), √(2/(128 + 1)); 1/√2 and 1/8 of the last two."""
    with seeded(0):
        model = ClickModel(config_of([128, 1024], NARROW).model, LAYOUT)
        mup.initialise(model, NARROW)
    sizes = [mup.rms(layer.weight.detach()) for layer in (model.net.mlp.layers[i] for i in (0, 2, 4))]
    assert sizes[0] == pytest.approx((2 / 73) ** 0.5, rel=0.1)
    assert sizes[1] == pytest.approx((2 / 192) ** 0.5 / 2**0.5, rel=0.05)
    assert sizes[2] == pytest.approx((2 / 129) ** 0.5 / 8, rel=0.2)


def test_products_of_two_grow_as_their_layer_does() -> None:
    ranks = CompressionConfig(ranks={"mlp.layers.2": 6}, dims={"a": 2})
    model = ClickModel(config_of([128, 1024], NARROW).model, LAYOUT, compression=ranks)
    rates = named(model, mup.rates(model, NARROW))
    assert rates["inner.mlp.layers.2.reduce.weight"] == 1 / 2
    assert rates["inner.mlp.layers.2.expand.weight"] == 1
    assert rates["inner.mlp.layers.4.weight"] == 1 / 8
    assert rates["decoder.bases_ND"] == 1


def test_products_of_two_from_scratch_are_told() -> None:
    ranks = CompressionConfig(ranks={"mlp.layers.2": 6})
    model = ClickModel(config_of([128, 1024], NARROW).model, LAYOUT, compression=ranks)
    with pytest.raises(ConfigError, match="products of two"):
        mup.initialise(model, NARROW)


def test_a_network_with_all_its_inputs_from_the_mlp_has_rates() -> None:
    base = {"mlp": {"hidden_units": [64, 64]}}
    model = ClickModel(config_of([128, 256], base, name="dcnv2", structure="stacked").model, LAYOUT)
    assert named(model, mup.rates(model, base))["head.weight"] == 1 / 4


def test_a_step_has_the_share_of_the_rate(make_store: Callable[..., Store]) -> None:
    """Adam's first step is as long as the rate, in whatever direction."""
    store = make_store(64)
    config = config_of([128, 1024], NARROW)
    with seeded(0):
        model = ClickModel(config.model, store.layout)
        learner = Learner(model, config, 64)
        before = {name: weight.clone() for name, weight in model.net.named_parameters()}
        learner.step(TrainingRows(store, torch.device("cpu")).epoch(0, 0), 0, 64, learner.hyper)
    for place, share in ((0, 1), (2, 1 / 2), (4, 1 / 8)):
        name = f"mlp.layers.{place}.weight"
        moved = (dict(model.net.named_parameters())[name] - before[name]).abs().max().item()
        assert moved == pytest.approx(learner.hyper.learning_rate * share, rel=0.05)


def test_a_model_of_the_narrow_widths_is_trained_as_without(make_store: Callable[..., Store]) -> None:
    store, trained = make_store(64), []
    for base in (None, NARROW):
        config = config_of([64, 128], base)
        with seeded(0):
            model = ClickModel(config.model, store.layout)
            mup.initialise(model, base)
            learner = Learner(model, config, 64)
            learner.step(TrainingRows(store, torch.device("cpu")).epoch(0, 0), 0, 64, learner.hyper)
        trained.append(model.tensors())
    assert all(torch.equal(weight, trained[1][name]) for name, weight in trained[0].items())


@pytest.mark.parametrize(
    ("model", "base", "said"),
    [
        ({}, {"mlp": {"hidden_units": [64]}}, "one of the two networks alone"),
        ({}, {"mlp": {"hidden_units": [64, 64, 64]}}, "one of the two networks alone"),
        ({}, {"mlp": {"hidden_unit": [64, 64]}}, "optim.mup_base.mlp"),
        ({}, {"embedding_dim": 2}, "leave embedding_dim as it is"),
        ({}, {"mlp": {"hidden_units": [64, 256]}}, "the narrow network is the wider one"),
        ({"name": "dcnv2"}, {"mlp": {"hidden_units": [64, 64]}}, "'head.weight' reads numbers that grow"),
        (
            {"name": "finalmlp", "mlp2": {"hidden_units": [128]}, "num_heads": 2},
            {"mlp": {"hidden_units": [64, 64]}, "mlp2": {"hidden_units": [64]}},
            "'fusion_HIJ' grows with the width",
        ),
    ],
)
def test_what_has_no_rule_is_told(model: dict[str, Any], base: dict[str, Any], said: str) -> None:
    config = config_of([128, 128], base, **model)
    built = ClickModel(config.model, LAYOUT)
    with pytest.raises(ConfigError) as caught:
        mup.rates(built, base)
    assert said in str(caught.value)


def write_log(path: Path, rows: int = 4_000) -> None:
    rng = np.random.default_rng(0)
    site, user = rng.integers(0, 30, rows), rng.integers(0, 50, rows)
    effect = rng.standard_normal(30)
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-effect[site]))).astype(int)
    ids = {"site": [f"s{value}" for value in site], "user": [f"u{value}" for value in user]}
    pl.DataFrame({"clicked": clicked} | ids).write_csv(path)


WIDTHS = ["widths", "log.csv", "--label", "clicked", "--steps", 20]


def test_the_check_compares_widths_with_and_without(run: Run) -> None:
    write_log(Path("log.csv"))
    small = ["--set", "model.mlp.hidden_units=[32,32]", "--set", "train.precision=fp32", "--batch-size", 128]
    small += ["--set", "optim.rule=none", "--set", "optim.embedding_learning_rate=1e-4"]  # the MLP learns
    code, out, err = run(*WIDTHS, *small, "--times", 1, "--times", 16, "--json", "--out", "out")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads(Path("out/widths.json").read_text())
    assert [layer["name"] for layer in result["layers"]] == ["mlp.layers.0", "mlp.layers.2", "mlp.layers.4", "logit"]
    for layer in result["layers"]:
        assert layer["standard"]["moved"][0] == layer["mup"]["moved"][0]
        ratio = layer["mup"]["moved"][1] / layer["mup"]["moved"][0]
        assert layer["mup"]["slope"] == pytest.approx(np.log2(ratio) / 4)
    assert [layer["readout"] for layer in result["layers"]] == [False, False, True, False]
    hidden = [layer for layer in result["layers"] if layer["name"].startswith("mlp") and not layer["readout"]]
    slopes = {way: sum(abs(layer[way]["slope"]) for layer in hidden) for way in ("standard", "mup")}
    assert slopes["mup"] < slopes["standard"] / 2
    assert result["holds"]
    report = Path("out/report.md").read_text()
    assert "20 batches of 128 rows" in report
    assert "suit the wide one" in report
    assert Path("out/widths.svg").exists()
    code, out, err = run(*WIDTHS, *small, "--times", 1, "--times", 2, "--out", "out")
    assert code == 0, err
    assert "twice the width moves a layer's outputs" in out


def test_a_wide_model_names_the_narrow_one(run: Run) -> None:
    """The same command line then trains the wide one at the narrow one's rates."""
    write_log(Path("log.csv"))
    wide = ["--set", "model.mlp.hidden_units=[64,64]", "--set", "optim.mup_base.mlp.hidden_units=[8,8]"]
    code, out, err = run(*WIDTHS, *wide, "--times", 1, "--times", 2, "--json", "--out", "out")
    assert code == 0, err
    assert json.loads(out)["narrow"] == {"mlp": {"hidden_units": [8, 8]}}
    train = ["train", "log.csv", "--label", "clicked", "--epochs", 1, "--no-report", *wide]
    code, _, err = run(*train, "--out", "wide")
    assert code == 0, err
    assert "mup_base" in Path("wide/config.yaml").read_text()
    assert "rates of 2 dense weights are lower than those given, down to 1/8" in err
    code, _, err = run("compress", "wide", "--ratio", 2, "--epochs", 1, "--no-report", "--out", "small")
    assert code == 0, err


def test_faults_of_the_check_are_told(run: Run) -> None:
    write_log(Path("log.csv"))
    for more, said in (
        (["--times", 2], "takes two widths at least"),
        (["--model", "lr"], "lr has no MLP whose width could change"),
        (["--epochs", 2], "--epochs has no meaning for widths"),
        (["--set", "compression.trained_bits=8"], "widths are compared of whole models"),
        (["--set", "optim.mup_base.mlp.hidden_units=[4]"], "one of the two networks alone"),
    ):
        code, _, err = run(*WIDTHS, *more, "--out", "out")
        assert code == 2
        assert said in err.replace("\n", " ")


def test_all_whole_numbers_grow() -> None:
    assert widened({"mlp": {"hidden_units": (4, 8), "dropout": 0.5, "batch_norm": True}, "rank": 2}, 3) == {
        "mlp": {"hidden_units": [12, 24], "dropout": 0.5, "batch_norm": True},
        "rank": 6,
    }
