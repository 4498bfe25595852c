"""OptEmbed: its equations against autograd and by hand, the evolution, and what `clickherd select` leaves of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.compact.decoder import DecodedModel
from clickherd.config import resolve
from clickherd.data.store import FIRST_VALUE, FieldLayout, Layout, Store
from clickherd.device_store import HostEpoch
from clickherd.errors import Interrupted
from clickherd.layers.embedding import EmbeddingTable
from clickherd.network import ClickModel
from clickherd.optim.cowclip import CowClip
from clickherd.runtime import seeded
from clickherd.selection.evolution import Lengths, Space, evolve
from clickherd.selection.optembed import OptEmbedConfig, OptEmbedLearner, Prefixes, ThresholdTable, step_slope
from clickherd.selection.sizes import select_sizes

Run = Callable[..., tuple[int, str, str]]
ROWS = 128


def test_the_slope_of_the_step_by_hand() -> None:
    x = torch.tensor([0.0, 0.1, -0.3, 0.4, 0.41, -1.0, 1.01])
    torch.testing.assert_close(step_slope(x), torch.tensor([2.0, 1.6, 0.8, 0.4, 0.4, 0.4, 0.0]))


def test_rows_longer_than_their_threshold_stay_by_hand() -> None:
    """‖(1, -.5)‖₁ = 1.5; the linear weight does not count, and unknown and missing have no threshold."""
    layout = Layout((FieldLayout("a", 0, 4), FieldLayout("b", 4, 4)), ())
    table = EmbeddingTable(8, 2, wide=True, init_std=0.0)
    table.weight.copy_(torch.tensor([[9, 0, 0], [9, 0, 0], [9, 1, -0.5], [9, 1, 0.2]] * 2, dtype=torch.float32))
    own = ThresholdTable(table, layout, {"a"})
    own.gates.fill_(1.3)
    own.refresh()
    assert own.kept.tolist() == [True, True, True, False, True, True, True, True]
    assert torch.equal(own.gated_VW[3], table.weight[0])  # the field's unknown row
    assert torch.equal(own.gated_VW[2], table.weight[2])
    torch.testing.assert_close(own.beyond()[2:4], torch.tensor([0.2, -0.1]))
    # -Σ of the field's values, and the derivative of α exp(-t)
    grad = own.threshold_gradient(torch.tensor([0.0, 0.0, 0.3, -0.1, 7.0, 7.0, 7.0, 7.0]) * own.is_gated_V, 0.5)
    torch.testing.assert_close(grad, torch.tensor([-0.2 - 0.5 * 0.272532]), rtol=1e-5, atol=0)


class Step(torch.autograd.Function):
    """The paper's step, for autograd."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return grad * step_slope(*ctx.saved_tensors)


def learner_of(store: Store, **settings: float) -> OptEmbedLearner:
    config = resolve(
        {
            "model": {"embedding_dim": 3, "mlp": {"hidden_units": [8]}},
            "optim": {"rule": "none", "averaging": None},
            "train": {"epochs": 3, "precision": "fp32", "batch_size": ROWS},
        }
    )
    of_search = OptEmbedConfig.model_validate({"still_epochs": 0, "penalty": 4.0} | settings)
    gated = {field.name for field in store.layout.fields}
    with seeded(0):
        model = ClickModel(config.model, store.layout, init_std=0.3)
        return OptEmbedLearner(model, config, ROWS, of_search, len(store), gated)


def test_thresholds_and_rows_get_the_gradients_of_the_loss(make_store: Callable[..., Store]) -> None:
    store = make_store(ROWS)
    learner = learner_of(store)
    model, table = learner.model, learner.embedding.table
    with torch.no_grad():
        table.gates.copy_(torch.tensor([0.6, 0.8, 0.7]))
    table.refresh()
    assert 0.2 < table.kept.float().mean() < 0.9
    learner.micro_batch_size = ROWS
    batch = HostEpoch(store, np.arange(ROWS), torch.device("cpu")).take(0, ROWS)
    with seeded(5):  # the one draw of the step
        lengths_BF = torch.randint(1, 4, (ROWS, 3))

    weight, thresholds = table.weight.clone().requires_grad_(), table.gates.clone().requires_grad_()
    base = torch.zeros_like(weight)
    opened = torch.ones(len(weight))
    for place, field in enumerate(store.layout.fields):
        own = slice(field.offset, field.offset + field.size)
        base = torch.cat([base[: own.start], weight[field.offset].expand(field.size, -1), base[own.stop :]])
        steps = Step.apply(weight[own, 1:].abs().sum(dim=1) - thresholds[place])
        ungated = torch.arange(field.size) < FIRST_VALUE
        opened = torch.cat([opened[: own.start], torch.where(ungated, 1.0, steps), opened[own.stop :]])
    rows = base + opened[:, None] * (weight - base)
    fields = [rows[batch.ids[:, j].long()] for j in range(2)]
    ((values, offsets),) = batch.bags
    fields.append(torch.stack([rows[values[a:b].long()].mean(dim=0) for a, b in itertools.pairwise(offsets)]))
    both = torch.stack(fields, dim=1)
    cut = both[..., 1:] * (torch.arange(3) < lengths_BF[..., None])
    assert isinstance(model.net, DecodedModel)
    logits = model.net.inner(cut, both[..., 0].sum(dim=1), batch.numeric)
    loss = binary_cross_entropy_with_logits(logits, batch.labels) + 4.0 / ROWS * (-thresholds).exp().sum()
    grad_weight, grad_thresholds = torch.autograd.grad(loss, (weight, thresholds))

    with patch.object(CowClip, "step", lambda self, hyper: self.grad_VW.clone()), seeded(5):
        learner.embedding.num_steps = 1
        rows_of = HostEpoch(store, np.arange(ROWS), torch.device("cpu"))
        _, of_rows = learner.step(rows_of, 0, ROWS, learner.hyper)
    torch.testing.assert_close(of_rows, grad_weight, rtol=1e-3, atol=1e-7)
    mean, _ = learner.embedding.gates.moments
    torch.testing.assert_close(mean, 0.1 * grad_thresholds, rtol=1e-3, atol=1e-8)


def test_prefixes_are_of_every_length_as_often() -> None:
    prefixes = Prefixes(2, 5)
    rows = torch.ones(20_000, 2, 5)
    with seeded(0):
        left = prefixes(rows)
    lengths = left.sum(dim=2)
    assert torch.equal(left, (torch.arange(5) < lengths[..., None]).float())  # prefixes, nothing else
    shares = torch.bincount(lengths.flatten().long(), minlength=6) / lengths.numel()
    torch.testing.assert_close(shares, torch.tensor([0, 0.2, 0.2, 0.2, 0.2, 0.2]), atol=0.01, rtol=0)
    prefixes.eval()
    assert torch.equal(prefixes(rows), rows)
    prefixes.set_lengths([2, 4])
    assert prefixes(rows)[7].sum(dim=1).tolist() == [2, 4]
    assert prefixes.decode(rows[:, 0], 1)[3].tolist() == [1, 1, 1, 1, 0]


def test_the_evolution_finds_what_trying_all_does() -> None:
    """Of 4⁴ lengths, with the numbers that one in two rows of full length would have."""
    space = Space((10, 3, 0, 5), 4, 36)
    worth = np.array([[0, 3, 4, 4.5], [0, 1, 5, 5.5], [0, 1, 2, 3], [0, 4, 4.2, 4.3]])
    scored: list[Lengths] = []

    def score(lengths: Lengths) -> float:
        scored.append(lengths)
        return float(sum(worth[place, length - 1] for place, length in enumerate(lengths)))

    every = [one for one in itertools.product(range(1, 5), repeat=4) if space.numbers(one) <= 36]
    best = max(score(one) for one in every)
    scored.clear()
    found = evolve(space, score, np.random.default_rng(0), generations=30, mutated=10, crossed=10, mutation=0.3)
    assert found[0][0] == best
    assert len(set(scored)) == len(scored) == len(found)
    assert all(space.numbers(one) <= 36 and min(one) >= 1 and max(one) <= 4 for one in scored)
    assert [one[0] for one in found] == sorted((one[0] for one in found), reverse=True)


def write_log(path: Path, rows: int = 4_000) -> None:
    """A column decides, a second one of as many values tells nothing."""
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 30, rows) for name in ("site", "noise")}
    effect = np.random.default_rng(1).standard_normal(30) * 1.5
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-effect[columns["site"]]))).astype(int)
    frame = pl.DataFrame({"clicked": clicked} | {name: [f"{name}{v}" for v in ids] for name, ids in columns.items()})
    frame.write_parquet(path)


SELECT = ["--label", "clicked", "--method", "optembed", "--batch-size", 256, "--epochs", 4, "--json"]
SELECT += ["--set", "model.mlp.hidden_units=[8]", "--set", "model.embedding_dim=4", "--out", "out"]


def test_what_is_found_can_be_trained(run: Run) -> None:
    write_log(Path("log.parquet"))
    code, out, err = run("select", "log.parquet", *SELECT, "--penalty", 300, "--budget", 0.4)
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads(Path("out/select.json").read_text())
    site, noise = (next(one for one in result["features"] if one["name"] == name) for name in ("site", "noise"))
    assert site["kept_values"] > noise["kept_values"]
    assert result["numbers_share"] <= 0.4
    features = yaml.safe_load(Path("out/features.yaml").read_text())
    shorter = {one["name"]: one["numbers"] for one in result["features"] if one["kept"] and one["numbers"] < 4}
    assert features["dims"] == {"embedding": 4, "of": shorter}
    train = ["train", "log.parquet", "--label", "clicked", "--epochs", 1]
    code, _, err = run(*train, "--no-report", "--features", "out/features.yaml", "--out", "short")
    assert code == 0, err
    config = yaml.safe_load(Path("short/config.yaml").read_text())
    assert config["compression"]["dims"] == shorter
    assert config["model"]["embedding_dim"] == 4  # as in the search, though it is not given again
    code, _, err = run("evaluate", "short", "log.parquet")
    assert code == 0, err
    again = ["select", "log.parquet", "--label", "clicked", "--features", "out/features.yaml"]  # its columns, whole
    code, _, err = run(*again, "--method", "gates", "--penalty", 0, "--out", "gated")
    assert code == 0, err
    Path("out/features.yaml").write_text("features: [site]\ndims: {embedding: 4, of: {site: 9}}\n")
    code, _, err = run(*train, "--no-report", "--features", "out/features.yaml", "--out", "long")
    assert code == 2
    assert "compression.dims.site = 9: an embedding has 4 numbers" in err.replace("\n", " ")


def test_faults_are_told(run: Run) -> None:
    write_log(Path("log.parquet"), 1_000)
    pl.read_parquet("log.parquet").sort("clicked").write_parquet("valid.parquet")
    for more, said in (
        (["--budget", 0.1], "a number for each of"),
        (["--keep", 2], "--keep has no meaning for optembed"),
        (["--set", "model.embedding_dim=1"], "hold a number at most"),
        (["--model", "fgcnn"], "hold several embeddings"),
        (["--set", "data.valid_fraction=0"], "there are no validation rows"),
        (["--valid", "valid.parquet"], "too few validation rows to search with"),
    ):
        code, _, err = run("select", "log.parquet", *SELECT, *more)
        assert code == 2
        assert said in err.replace("\n", " ")


def test_another_budget_asks_the_same_supernet(run: Run) -> None:
    """A budget that is too small is told when the supernet is learned: that work is not lost."""
    write_log(Path("log.parquet"), 2_000)
    code, _, err = run("select", "log.parquet", *SELECT, "--penalty", 0, "--budget", 0.1)
    assert code == 2
    assert "Raise --budget" in err
    code, out, err = run("select", "log.parquet", *SELECT, "--penalty", 0, "--budget", 0.6)
    assert code == 0, err
    assert "training is finished" in err
    assert 0.1 < json.loads(out)["numbers_share"] <= 0.6
    assert not Path("out/under-way").exists()


@pytest.mark.parametrize("cut", [15, 40])  # while the supernet is trained, and while it is searched with
def test_a_search_that_is_cut_off_goes_on_to_the_same_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "cache"))
    write_log(tmp_path / "log.parquet", 2_000)
    config = resolve(
        {
            "source": {"data": [str(tmp_path / "log.parquet")]},
            "data": {"label": "clicked"},
            "model": {"mlp": {"hidden_units": [8]}},
            "train": {"epochs": 3, "batch_size": 256},
        }
    )
    settings = OptEmbedConfig(generations=5)
    whole = select_sizes(config, settings, tmp_path / "whole")
    asked = itertools.count()
    with pytest.raises(Interrupted):
        select_sizes(config, settings, tmp_path / "cut", should_stop=lambda: next(asked) > cut)
    said: list[str] = []
    again = select_sizes(config, settings, tmp_path / "cut", announce=said.append)
    assert any("resuming" in line or "training is finished" in line for line in said)
    assert again["features"] == whole["features"]
    assert again["supernet"] == whole["supernet"]
    assert not (tmp_path / "cut/under-way").exists()
