"""OptFS: its equations against autograd and by hand, and what `clickherd select --method optfs` leaves."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd import cli_shared
from clickherd.config import Config, resolve
from clickherd.data.store import FIRST_VALUE, FieldLayout, Layout, Store
from clickherd.device_store import HostEpoch
from clickherd.kernels import cpu, reference
from clickherd.network import ClickModel
from clickherd.optim.cowclip import CowClip
from clickherd.runtime import seeded
from clickherd.selection.optfs import GatedClip, GatedLearner, GatedTable, OptFSConfig

Run = Callable[..., tuple[int, str, str]]
ROWS = 256


def config_of(epochs: int = 4, **optim: object) -> Config:
    return resolve(
        {
            "model": {"mlp": {"hidden_units": [8]}},
            "optim": {"rule": "none", "l2": 1e-3, "averaging": None, **optim},
            "train": {"epochs": epochs, "precision": "fp32"},
        }
    )


def learner_of(store: Store, settings: OptFSConfig, epochs: int = 4) -> GatedLearner:
    with seeded(0):
        config = config_of(epochs)
        gated = {field.name for field in store.layout.fields}
        model = ClickModel(config.model, store.layout, init_std=0.3)
        return GatedLearner(model, config, ROWS, settings, ROWS, gated)


def test_a_gate_scales_its_row_and_the_temperature_hardens_it(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    learner = learner_of(store, OptFSConfig(final_temperature=200.0, closed="zero"))
    table = learner.embedding.table
    assert torch.equal(table.gated_VW, table.weight)  # σ(½)/σ(½)
    table.gates[5], table.gates[6] = 0.25, -0.1
    temperatures = []
    for step in range(5):
        learner.embedding.num_steps = step
        learner.embedding.warm()
        temperatures.append(table.temperature)
    assert temperatures == pytest.approx([1, 200 ** (1 / 3), 200 ** (2 / 3), 200, 200])
    start = 1 / (1 + math.exp(-0.5))
    torch.testing.assert_close(table.gated_VW[5], table.weight[5] / start)  # σ(50) is 1
    assert table.gated_VW[6].abs().max() < 1e-7
    assert table.kept[5]
    assert not table.kept[6]
    for field in store.layout.fields:  # unknown and missing have no gate
        assert torch.equal(
            table.gated_VW[field.offset : field.offset + FIRST_VALUE],
            table.weight[field.offset : field.offset + FIRST_VALUE],
        )


@pytest.mark.parametrize("closed", ["zero", "unknown"])
def test_gates_and_rows_get_the_gradients_of_the_loss(
    make_store: Callable[..., Store], closed: Literal["zero", "unknown"]
) -> None:
    """Of L + λΣσ(τ g), as autograd has it; one step of Adam then goes by the sign."""
    store, settings = make_store(ROWS), OptFSConfig(penalty=0.5, still_epochs=0, reach=4.0, closed=closed)
    learner = learner_of(store, settings)
    model, clip = learner.model, learner.embedding
    table = clip.table
    with torch.no_grad():
        table.gates.copy_(torch.randn(len(table.gates), generator=torch.Generator().manual_seed(1)))
    clip.num_steps = 1  # of the second epoch
    clip.warm()
    batch = HostEpoch(store, np.arange(ROWS), torch.device("cpu")).take(0, ROWS)

    weight, gate = table.weight.clone().requires_grad_(), table.gates.clone().requires_grad_()
    start = 1 / (1 + math.exp(-0.5))
    open_V = torch.where(table.is_gated_V, torch.sigmoid(table.temperature * gate), torch.tensor(start))
    base = torch.zeros(())
    if closed == "unknown":
        unknown = torch.zeros(len(gate), dtype=torch.long)
        for field in store.layout.fields:
            unknown[field.offset : field.offset + field.size] = field.offset
        base = weight[unknown]
    rows = base + (weight - base) * (open_V / start)[:, None]
    fields = [rows[batch.ids[:, j].long()] for j in range(batch.ids.shape[1])]
    for values, offsets in batch.bags:
        fields.append(torch.stack([rows[values[a:b].long()].mean(dim=0) for a, b in itertools.pairwise(offsets)]))
    both = torch.stack(fields, dim=1)
    logits = model.net(both[..., 1:], both[..., 0].sum(dim=1), batch.numeric)
    loss = binary_cross_entropy_with_logits(logits, batch.labels)
    loss = loss + 0.5 / ROWS * torch.where(table.is_gated_V, open_V, torch.zeros(())).sum()
    grad_weight, grad_gate = torch.autograd.grad(loss, (weight, gate))

    before = table.gates.clone()
    with patch.object(CowClip, "step", lambda self, hyper: self.grad_VW.clone()) as _:
        clip.num_steps = 2
        batches = HostEpoch(store, np.arange(ROWS), torch.device("cpu"))
        _, of_rows = learner.step(batches, 0, ROWS, learner.hyper)
    torch.testing.assert_close(of_rows, grad_weight, rtol=1e-3, atol=1e-7)
    mean, square = clip.gates.moments
    torch.testing.assert_close(mean, 0.1 * grad_gate, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(square, 0.001 * grad_gate**2, rtol=2e-3, atol=1e-12)
    moved_V = table.gates - before
    clear = table.is_gated_V & (grad_gate.abs() > 1e-4)
    moved = moved_V[clear]
    assert len(moved) > 10
    assert clip.gates.rate == pytest.approx(4.0 / 4)
    # the second step of the run, the second of Adam's: bias corrections of t = 2 on moments of one gradient
    expected = (0.1 / (1 - 0.9**2)) / math.sqrt(0.001 / (1 - 0.999**2))
    torch.testing.assert_close(moved, -expected * grad_gate[clear].sign(), rtol=5e-2, atol=0)
    assert (moved_V[~table.is_gated_V] == 0).all()


@pytest.mark.parametrize("kernels", [cpu, reference])
def test_the_unknown_row_learns_from_closed_values_though_no_row_holds_it(kernels: Any) -> None:
    """By the kernels themselves, whose contract is that a row without a count has no gradient."""
    layout = Layout((FieldLayout("site", 0, 200), FieldLayout("other", 200, 100)), ())
    settings = OptFSConfig(penalty=0.5, still_epochs=0)
    config = config_of(l2=0.0)
    with seeded(0):
        model = ClickModel(config.model, layout, init_std=0.3)
        learner = GatedLearner(model, config, 4, settings, 4, {"site", "other"})
    clip = learner.embedding
    clip.table.gates[150] = -0.5
    clip.warm()
    share = float(clip.table.openness()[150] / clip.table.initial)
    before = clip.table.weight.clone()
    clip.grad_VW[150], clip.counts_V[150] = 1.0, 2  # of the site alone
    with patch.object(GatedTable, "kernels", kernels):
        clip.step(learner.hyper)
    mean, square = clip.exp_avg_VW, clip.exp_avg_sq_VW
    for row, grad in ((0, 1 - share), (150, share)):
        torch.testing.assert_close(mean[row], torch.full_like(mean[row], 0.1 * grad), rtol=1e-5, atol=0)
        torch.testing.assert_close(square[row], torch.full_like(square[row], 0.001 * grad**2), rtol=1e-3, atol=0)
        assert (clip.table.weight[row] < before[row]).all()
    assert torch.equal(clip.table.weight[200], before[200])  # the other's unknown
    assert not clip.grad_VW.any()
    assert not clip.counts_V.any()


def test_gates_stay_through_the_first_epoch(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    learner = learner_of(store, OptFSConfig(penalty=5.0))
    rows = HostEpoch(store, np.arange(ROWS), torch.device("cpu"))
    learner.step(rows, 0, ROWS, learner.hyper)
    assert (learner.embedding.table.gates == 0.5).all()
    learner.step(rows, 0, ROWS, learner.hyper)
    assert (learner.embedding.table.gates != 0.5).any()


def write_log(path: Path, rows: int = 12_000) -> None:
    """Half of the sites decide; the other half, and a column of noise, tell nothing."""
    rng = np.random.default_rng(0)
    site, noise = rng.integers(0, 40, rows), rng.integers(0, 400, rows)
    effect = np.where(np.arange(40) < 20, np.tile([2.0, -2.0], 20), 0.0)
    frame = pl.DataFrame(
        {
            "clicked": (rng.random(rows) < 1 / (1 + np.exp(1 - effect[site]))).astype(int),
            "site": [f"s{value}" for value in site],
            "noise": [f"n{value}" for value in noise],
            "visits": rng.integers(0, 300, rows),
            "price": rng.random(rows),
        }
    )
    frame.write_parquet(path)


SELECT = ["--label", "clicked", "--method", "optfs", "--role", "visits=numeric", "--batch-size", 512]
SELECT += ["--set", "model.mlp.hidden_units=[16]", "--set", "model.embedding_dim=4", "--epochs", 8]


def test_values_that_tell_nothing_go_and_train_takes_those_that_stay(run: Run) -> None:
    write_log(Path("log.parquet"))
    code, out, err = run("select", "log.parquet", *SELECT, "--penalty", 3, "--out", "out", "--json")
    assert code == 0, err
    result = json.loads(out)
    features = {feature["name"]: feature for feature in result["features"]}
    assert set(features) == {"site", "noise", "visits", "price"}
    assert features["noise"]["kept_values"] < 0.2 * features["noise"]["values"]
    kept = pl.read_parquet("out/values.parquet")
    sites = set(kept.filter(pl.col("column") == "site")["value"])
    assert len(sites & {f"s{i}" for i in range(20)}) >= 18
    assert features["noise"]["gated"]
    assert not features["price"]["gated"]
    assert features["price"]["kept_values"] == features["price"]["values"]
    assert result["kept_values"] == len(kept)
    assert result["kept_share"] == len(kept) / sum(f["values"] for f in features.values() if f["gated"])
    assert "| noise |" in Path("out/report.md").read_text()
    assert not Path("out/under-way").exists()

    train = ["train", "log.parquet", "--label", "clicked", "--role", "visits=numeric", "--epochs", 3, "--no-report"]
    scores = {}
    for name, more in (("all", []), ("kept", ["--features", "out/features.yaml"])):
        code, out, err = run(*train, *more, "--out", name, "--json")
        assert code == 0, err
        scores[name] = json.loads(out)["valid"]["auc"]
    assert scores["kept"] > scores["all"] - 0.01
    vocabulary = pl.read_parquet("kept/encoder/vocabularies.parquet")
    assert set(vocabulary.filter(pl.col("column") == "site")["value"]) == sites
    buckets = json.loads(Path("kept/encoder/encoder.json").read_text())["encodings"].get("visits", {"buckets": []})
    assert sorted(map(str, buckets["buckets"])) == sorted(kept.filter(pl.col("column") == "visits")["value"])
    code, _, err = run("predict", "kept", "log.parquet", "--out", "scores.csv")
    assert code == 0, err
    assert len(pl.read_csv("scores.csv")) == 12_000
    code, _, err = run("report", "kept")
    assert code == 0, err

    Path("out/values.parquet").unlink()
    code, _, err = run(*train, "--features", "out/features.yaml", "--out", "late")
    assert code == 2
    assert "cannot read the values that are kept" in err
    swapped = kept.with_columns(kind=pl.lit("bucket"))
    swapped.write_parquet("out/values.parquet")
    code, _, err = run(*train, "--features", "out/features.yaml", "--out", "late")
    assert code == 2
    assert "another kind (bucket) than the column's (value)" in err.replace("\n", " ")
    assert "'site'" in err
    pl.DataFrame({"value": ["a"]}).write_parquet("out/values.parquet")
    code, _, err = run(*train, "--features", "out/features.yaml", "--out", "late")
    assert code == 2
    assert "columns `column`, `kind` and `value`" in err.replace("\n", " ")


def test_a_search_that_is_cut_off_goes_on_to_the_same_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(Path("log.parquet"), 3_000)
    arguments = ["select", "log.parquet", *SELECT, "--penalty", 3, "--json"]
    code, out, err = run(*arguments, "--out", "whole")
    assert code == 0, err
    step, count = GatedClip.step, 0

    def interrupted(self: GatedClip, hyper: object) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 20:
            stop()
        return step(self, hyper)  # type: ignore[arg-type]

    signals: list[cli_shared.StopSignal] = []
    original = cli_shared.StopSignal.__init__

    def remembered(self: cli_shared.StopSignal) -> None:
        original(self)
        signals.append(self)

    def stop() -> None:
        signals[-1].asked = True

    monkeypatch.setattr(cli_shared.StopSignal, "__init__", remembered)
    monkeypatch.setattr(GatedClip, "step", interrupted)
    code, _, err = run(*arguments, "--out", "cut")
    assert code == 130
    assert "continue with: clickherd select log.parquet" in err
    monkeypatch.setattr(GatedClip, "step", step)
    code, _, err = run(*arguments, "--min-count", 40, "--out", "cut")  # another search, not that one
    assert code == 0, err
    code, again, err = run(*arguments, "--out", "cut")
    assert code == 0, err
    assert "resuming after epoch" in err
    assert not Path("cut/under-way").exists()
    assert pl.read_parquet("whole/values.parquet").equals(pl.read_parquet("cut/values.parquet"))
    assert json.loads(again)["kept_values"] == json.loads(out)["kept_values"]


def test_another_search_in_the_same_folder_is_another(run: Run) -> None:
    write_log(Path("log.parquet"), 1_500)
    arguments = ["select", "log.parquet", *SELECT, "--json", "--out", "out"]
    code, _, err = run(*arguments, "--penalty", 1e6, "--role", "price=ignored", "--set", "train.epochs=3")
    assert code == 2
    assert "no value is worth its row" in err
    code, out, err = run(*arguments, "--penalty", 0, "--set", "train.epochs=3", "--min-count", 20)
    assert code == 0, err
    assert json.loads(out)["kept_share"] > 0.5
    Path("recipe.yaml").write_text("train: {epochs: 3}\n")
    plain = ["--label", "clicked", "--method", "optfs", "--set", "model.mlp.hidden_units=[4]", "--json"]
    code, out, err = run("select", "log.parquet", *plain, "--recipe", "recipe.yaml", "--out", "by-recipe")
    assert code == 0, err
    assert json.loads(out)["epochs"] == 3


def test_what_cannot_be_left_out_has_no_gate(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    with seeded(0):
        model = ClickModel(config_of().model, store.layout, init_std=0.3)
        settings = OptFSConfig(penalty=1e5, still_epochs=0)
        learner = GatedLearner(model, config_of(), ROWS, settings, ROWS, {"f0"})
    learner.step(HostEpoch(store, np.arange(ROWS), torch.device("cpu")), 0, ROWS, learner.hyper)
    first, rest = store.layout.fields[0], slice(store.layout.fields[1].offset, None)
    assert (learner.embedding.table.gates[first.offset + FIRST_VALUE : first.offset + first.size] < 0.5).all()
    assert (learner.embedding.table.gates[rest] == 0.5).all()


def test_a_search_that_cannot_choose_is_told(run: Run) -> None:
    write_log(Path("log.parquet"), 400)
    arguments = ["select", "log.parquet", "--label", "clicked", "--method", "optfs", "--out", "out"]
    code, _, err = run(*arguments, "--epochs", 2)
    assert code == 2
    assert "takes 3 epochs at least" in err
    code, _, err = run(*arguments, "--role", "site=ignored", "--role", "noise=ignored", "--role", "visits=ignored")
    assert code == 2
    assert "no column has values that could be left out" in err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "optf"], "Did you mean 'optfs'?"),
        (["--method", "optfs", "--keep", 3], "--keep has no meaning for optfs"),
        (["--method", "optfs", "--pairs", 3], "--pairs has no meaning for optfs"),
        (["--penalty", 3], "--penalty has no meaning for outrank"),
        (["--model", "fm"], "--model has no meaning for outrank"),
        (["--epochs", 3], "--epochs has no meaning for outrank"),
    ],
)
def test_options_of_another_method_are_told(run: Run, arguments: list[object], words: str) -> None:
    Path("log.csv").write_text("clicked,x\n0,a\n1,b\n")
    code, _, err = run("select", "log.csv", "--label", "clicked", *arguments)
    assert code == 2
    assert words in err
