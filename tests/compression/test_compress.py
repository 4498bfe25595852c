"""`clickherd compress`: a run folder like any other, in a fraction of the bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import clickherd
from clickherd import cli_shared
from clickherd.compact import packing
from clickherd.compact.ranks import reducible
from clickherd.compression.allocation import Allocation, allocate
from clickherd.compression.compress import made
from clickherd.compression.sensitivity import measure
from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.estimator import CTRClassifier
from clickherd.loaded import load
from clickherd.network import ClickModel
from clickherd.outputs import outputs_of
from clickherd.runtime import seeded

Run = Callable[..., tuple[int, str, str]]
TRAIN = ["--label", "clicked", "--epochs", 4, "--no-report", "--set", "train.patience=null"]
TRAIN += ["--set", "model.mlp.hidden_units=[64,64]", "--set", "model.embedding_dim=8", "--batch-size", 512]


def write_log(path: Path, rows: int = 8_000) -> None:
    """A site, a user and a list of topics, each with a say in the click."""
    rng = np.random.default_rng(0)
    site, user, topic = rng.integers(0, 60, rows), rng.integers(0, 900, rows), rng.integers(0, 30, (rows, 2))
    effects = np.random.default_rng(1).standard_normal(1000)
    logit = 1.5 * effects[site] + effects[100 + user] + effects[topic].sum(axis=1) - 1
    frame = pl.DataFrame(
        {
            "clicked": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
            "site": [f"s{value}" for value in site],
            "user": [f"u{value}" for value in user],
            "topics": [f"t{a}|t{b}" for a, b in topic],
            "price": rng.random(rows),
        }
    )
    frame.write_parquet(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log and a run of it, `full`."""
    from typer.testing import CliRunner

    from clickherd.cli import app

    folder = tmp_path_factory.mktemp("trained")
    write_log(folder / "log.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLICKHERD_CACHE", str(folder / "cache"))
        done = CliRunner().invoke(app, ["train", "log.parquet", *map(str, TRAIN), "--out", "full"])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder, with a working directory of its own to write to."""
    monkeypatch.setenv("CLICKHERD_CACHE", str(trained / "cache"))
    monkeypatch.chdir(tmp_path)
    return trained


def test_a_quarter_of_the_bytes_predicts_about_the_same(run: Run, here: Path) -> None:
    code, out, err = run("compress", here / "full", "--out", "small", "--ratio", 4, "--json")
    assert code == 0, err
    result = json.loads(out)
    facts = result["compression"]
    before, after = facts["frontier"][0], facts["result"]
    assert after["bytes"] <= before["bytes"] / 3.9
    weights = Path("small/model.safetensors").stat().st_size
    assert after["bytes"] <= weights <= after["bytes"] + 4096
    assert after["valid"]["auc"] >= before["valid"]["auc"] - 0.003
    assert result["valid"]["auc"] == pytest.approx(after["valid"]["auc"])
    sizes = [point["bytes"] for point in facts["frontier"]]
    assert sizes == sorted(sizes, reverse=True)
    chosen = next(point for point in facts["frontier"] if point["ratio"] == 4)
    assert after["valid"]["auc"] >= chosen["valid"]["auc"]  # training on leaves none that is worse
    said = {part["name"]: part for part in facts["parts"]}
    assert set(said) == {"site", "user", "topics", "price", "mlp.layers.0", "mlp.layers.2"}
    assert json.loads(Path("small/compress.json").read_text()) == facts
    assert "| user | 8 numbers of 32 bits |" in Path("small/compress.md").read_text()
    assert "var(--ink)" in Path("small/compress.svg").read_text()
    assert Path("small/report.html").exists()

    data = here / "log.parquet"
    scores = {}
    for name, folder in (("full", here / "full"), ("small", Path("small"))):
        code, _, err = run("predict", folder, data, "--out", f"{name}.csv")
        assert code == 0, err
        scores[name] = pl.read_csv(f"{name}.csv").to_numpy()
    assert np.corrcoef(scores["full"].ravel(), scores["small"].ravel())[0, 1] > 0.98
    code, out, err = run("evaluate", "small", data, "--json")
    assert code == 0, err
    assert json.loads(out)["auc"] > 0.7
    for verb in (["report", "small"], ["train", "--resume", "small", "--json"]):
        code, out, err = run(*verb)
        assert code == 0, err
    assert json.loads(out)["valid"]["auc"] == pytest.approx(after["valid"]["auc"])
    np.testing.assert_array_equal(clickherd.load("small").predict_proba(data), scores["small"].ravel())


def test_what_is_asked_of_a_compressed_run_in_python_works(run: Run, here: Path) -> None:
    code, _, err = run("compress", here / "full", "--out", "small", "--epochs", 0, "--ratio", 3, "--no-report")
    assert code == 0, err
    log = pl.read_parquet(here / "log.parquet")
    X, y = log.drop("clicked"), log["clicked"].to_numpy()
    classifier = CTRClassifier.load("small")
    before = classifier.predict_proba(X)
    classifier.save("same")
    np.testing.assert_array_equal(CTRClassifier.load("same").predict_proba(X), before)
    classifier.partial_fit(X, y)
    assert not np.array_equal(classifier.predict_proba(X), before)
    classifier.save("further")
    assert load("further").model.packed is not None
    np.testing.assert_allclose(
        CTRClassifier.load("further").predict_proba(X), classifier.predict_proba(X), rtol=0, atol=0.03
    )


def test_a_compression_that_is_cut_off_ends_as_one_in_one_go(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clickherd.learner import Learner

    arguments = ["compress", here / "full", "--ratio", 4, "--no-report", "--rate", 0.3]
    code, _, err = run(*arguments, "--out", "whole")
    assert code == 0, err
    signals: list[cli_shared.StopSignal] = []
    begin, step = cli_shared.StopSignal.__init__, Learner.step
    count = 0

    def remembered(self: cli_shared.StopSignal) -> None:
        begin(self)
        signals.append(self)

    def interrupted(self: Learner, *arguments: object) -> object:
        nonlocal count
        count += 1
        signals[-1].asked = count == 7
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cli_shared.StopSignal, "__init__", remembered)
    monkeypatch.setattr(Learner, "step", interrupted)
    code, _, err = run(*arguments, "--out", "cut")
    assert code == 130
    assert "clickherd train --resume cut" in err
    monkeypatch.setattr(Learner, "step", step)
    code, _, err = run("train", "--resume", "cut", "--no-report")
    assert code == 0, err
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    facts = [json.loads(Path(f"{name}/compress.json").read_text()) for name in ("whole", "cut")]
    assert facts[0]["result"]["valid"] == facts[1]["result"]["valid"]
    assert "| finished |" in Path("cut/compress.md").read_text()
    assert not Path("cut/start.safetensors").exists()


def test_one_that_is_cut_off_before_training_begins_goes_on_from_the_trained_weights(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clickherd import runs

    arguments = ["compress", here / "full", "--ratio", 4, "--no-report"]
    code, _, err = run(*arguments, "--out", "whole")
    assert code == 0, err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "taught", interrupted)
        code, _, err = run(*arguments, "--out", "cut")
        assert code != 0
    code, _, err = run("train", "--resume", "cut", "--no-report")
    assert code == 0, err
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    full = json.loads((here / "full/metrics.json").read_text())  # neither began at random weights
    assert json.loads(Path("cut/metrics.json").read_text())["valid"]["auc"] > full["valid"]["auc"] - 0.003


def test_without_training_on_it_is_a_run_as_well(run: Run, here: Path) -> None:
    code, out, err = run("compress", here / "full", "--out", "small", "--epochs", 0, "--ratio", 9, "--json")
    assert code == 0, err
    assert "learning from" not in err
    facts = json.loads(out)["compression"]
    chosen = next(point for point in facts["frontier"] if point["ratio"] == 9)
    assert facts["result"]["valid"] == chosen["valid"]
    assert (facts["result"]["bytes"], facts["result"]["ratio"]) == (chosen["bytes"], 9)
    for verb in (["report", "small"], ["train", "--resume", "small"]):
        code, _, err = run(*verb)
        assert code == 0, err
    assert yaml.safe_load(Path("small/config.yaml").read_text())["train"]["epochs"] == 4  # those of the run


def test_faults_are_told(run: Run, here: Path) -> None:
    full = here / "full"
    code, _, err = run("compress", full, "--out", "tiny", "--ratio", 500)
    assert code == 2
    assert "times smaller at most, not 500" in err.replace("\n", " ")
    assert "Ask for a --ratio of" in err.replace("\n", " ")
    assert not Path("tiny").exists()
    code, _, err = run("compress", full, "--ratio", 1, "--out", "same")
    assert code == 2
    assert "compress.ratio = 1" in err.replace("\n", " ")
    code, _, err = run("compress", "nowhere")
    assert code == 2
    assert "not a run folder" in err
    code, _, err = run("compress", full, "--epochs", 0, "--ratio", 2, "--no-report", "--out", "small")
    assert code == 0, err
    code, _, err = run("compress", full, "--out", "small")
    assert code == 2
    assert "already exists" in err
    code, _, err = run("compress", "small", "--out", "smaller")
    assert code == 2
    assert "is compressed already" in err
    shutil.copytree(full, "other")
    config = Path("other/config.yaml")
    config.write_text(config.read_text().replace("fingerprint: ", "fingerprint: x"))
    for more, said in (
        ("train.teacher=other", "train.teacher was trained on other rows"),
        ("train.teacher=nowhere", "train.teacher = nowhere: no finished run folder"),
        ("compression.dims.nope=2", "compression.dims names 'nope'"),
        ("compression.ranks.nope=2", "compression.ranks names no layer 'nope'"),
        ("train.epochs=0", "train.epochs = 0"),
    ):
        code, _, err = run("train", here / "log.parquet", *TRAIN, "--set", more, "--out", "new")
        assert code == 2
        assert said in err.replace("\n", " ")
        assert not Path("new").exists()
    with pytest.raises(ValueError, match="for runs of the command line"):
        CTRClassifier(settings={"train": {"teacher": "other"}}).fit(np.eye(4), [0, 1, 0, 1])


def test_rows_of_one_label_and_none_to_validate(run: Run, here: Path) -> None:
    log = pl.read_parquet(here / "log.parquet")
    log.filter(pl.col("clicked") == 0).head(300).write_parquet("zeros.parquet")
    for name, more in (("one", ["--valid", "zeros.parquet"]), ("none", ["--set", "data.valid_fraction=0"])):
        code, _, err = run("train", here / "log.parquet", *TRAIN, *more, "--out", name)
        assert code == 0, err
        code, out, err = run("compress", name, "--ratio", 3, "--out", f"{name}-small", "--json", "--no-report")
        assert code == 0, err
        assert json.loads(out)["compression"]["result"]["bytes"] > 0
        assert not Path(f"{name}-small/compress.svg").exists()


def test_a_recipe_can_state_what_a_model_consists_of(run: Run, here: Path) -> None:
    """Trained from the first step on with short rows and a layer of low rank, rounded at the end, taught by another."""
    Path("small.yaml").write_text(
        "compression: {dims: {user: 3, site: 0}, bits: {user: 8, topics: 4}, ranks: {mlp.layers.2: 4}}\n"
    )
    more = ["--recipe", "small.yaml", "--set", f"train.teacher={here / 'full'}", "--out", "taught", "--json"]
    code, out, err = run("train", here / "log.parquet", *TRAIN, *more)
    assert code == 0, err
    assert json.loads(out)["valid"]["auc"] > 0.7
    packed = load("taught").model.packed
    assert packed is not None
    assert {(field.dim, field.bits) for field in packed.fields} == {(0, 32), (3, 8), (8, 32), (8, 4)}


@pytest.mark.parametrize("name", ["lr", "fm", "deepfm", "fgcnn", "masknet", "dcnv2_mix"])
def test_every_model_is_as_small_as_was_believed(make_store: Callable[..., Store], name: str) -> None:
    config = resolve({"model": {"name": name}})
    store = make_store(80)
    with seeded(0):
        model = ClickModel(config.model, store.layout, init_std=0.3)
    batch = store.take(np.arange(80))
    parts = measure(model, batch, store)
    whole = made(model, parts, Allocation(tuple(part.options[0] for part in parts)), config)
    whole.pack()
    others = whole.num_bytes - sum(part.options[0].num_bytes for part in parts)
    small = allocate(parts, [0])[0]  # as small as it gets, and on the way there
    for allocation in (small, *allocate(parts, [sum(part.options[0].num_bytes for part in parts) // 2])):
        smaller = made(model, parts, allocation, config)
        before = smaller.predict(batch)
        smaller.pack()
        slack = packing.ALIGNMENT * len(store.layout.fields)
        assert abs(smaller.num_bytes - others - allocation.num_bytes) <= slack
        packed = smaller.predict(batch)
        assert np.abs(packed - before).max() < 0.2
        smaller.unpack()
        np.testing.assert_allclose(smaller.predict(batch), packed, atol=1e-5)


def test_measuring_leaves_the_model_as_it_was(make_store: Callable[..., Store]) -> None:
    config = resolve({"model": {"name": "dcnv2", "embedding_dim": 4, "mlp": {"hidden_units": [16]}}})
    store = make_store(600)
    torch.manual_seed(0)
    model = ClickModel(config.model, store.layout, init_std=0.3)
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    batch = store.take(np.arange(600))
    parts = measure(model, batch, store)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.tensors().items())
    for part in parts:
        assert part.options[0].loss == 0
        assert all(option.loss >= 0 for option in part.options)
        if part.is_field:  # eight bits cost less than four, all numbers less than none
            of = {(option.dim, option.bits): option.loss for option in part.options}
            assert of[4, 8] < of[4, 4]
            assert of[4, 8] < of[0, 16]
    outputs = outputs_of(model, batch, reducible(model.net))
    assert set(outputs) == {part.name for part in parts if not part.is_field}
    assert all(len(found) == 600 for found in outputs.values())
