"""Gates over fields: the equations by hand, and which columns they leave."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.config import resolve
from clickherd.data.store import FIRST_VALUE, MISSING, UNKNOWN, FieldLayout, Layout, Store
from clickherd.device_store import HostEpoch, TrainingRows
from clickherd.errors import Interrupted
from clickherd.layers.embedding import EmbeddingTable
from clickherd.network import ClickModel
from clickherd.runtime import seeded
from clickherd.selection.fields import select_fields
from clickherd.selection.gating import FieldGatedTable, FieldGatesConfig, FieldGatesLearner

Run = Callable[..., tuple[int, str, str]]
LAYOUT = Layout((FieldLayout("a", 0, 4), FieldLayout("b", 4, 3), FieldLayout("c", 7, 3)), ())


def table_of(layers: int) -> FieldGatedTable:
    torch.manual_seed(0)
    return FieldGatedTable(EmbeddingTable(10, 2, wide=True, init_std=0.5), LAYOUT, {"a", "c"}, layers)


def test_what_is_left_of_a_row_by_hand() -> None:
    """Half of a's gates are open and none of c's; b has none. Rows lie between the unknown one and their own."""
    table = table_of(2)
    table.is_open_KG = torch.tensor([[True, False], [False, False]])
    table.refresh()
    own, left = table.weight, table.gated_VW
    assert table.open_fields().tolist() == [0.5, 0.0]
    for place in (MISSING, 2, 3):
        torch.testing.assert_close(left[place], (own[place] + own[UNKNOWN]) / 2)
    assert torch.equal(left[UNKNOWN], own[UNKNOWN])
    assert torch.equal(left[4:7], own[4:7])
    torch.testing.assert_close(left[7:], own[7:8].expand(3, 3))


def test_the_gradient_of_the_gates_by_hand() -> None:
    """(Σ of the field's ids + λ) · σ(θ)(1 − σ(θ)); the unknown id's part is not the gate's."""
    table = table_of(2)
    table.gates.copy_(torch.tensor([-1.0, 2.0]))
    of_open = torch.tensor([100.0, 1.0, 2.0, 3.0, 50.0, 50.0, 50.0, 100.0, -4.0, -5.0])
    expected = torch.tensor([6.5, -8.5]) * torch.tensor([0.196612, 0.104994])
    torch.testing.assert_close(table.gate_gradient(of_open, 0.5), expected, rtol=1e-5, atol=1e-6)


def test_gates_are_drawn_with_their_probability() -> None:
    """σ(2) = .881 of a's and σ(-1) = .269 of c's are open, of 40,000; each layer draws its own."""
    table = table_of(40_000)
    table.gates.copy_(torch.tensor([2.0, -1.0]))
    table.draw()
    assert len(table.is_open_KG.unique(dim=0)) == 4
    torch.testing.assert_close(table.open_fields(), torch.tensor([0.8808, 0.2689]), atol=0.01, rtol=0)
    table.decide()
    assert table.open_fields().tolist() == [1.0, 0.0]


def learner_of(store: Store, valid: Store, **settings: float) -> FieldGatesLearner:
    gates = FieldGatesConfig.model_validate({"layers": 4, "penalty": 5.0, "still_epochs": 0} | settings)
    config = resolve(
        {
            "model": {"mlp": {"hidden_units": [8]}},
            "optim": {"rule": "root", "base_batch_size": 32, "averaging": None},  # a share of the common gradient
            "train": {"epochs": 2, "precision": "fp32", "batch_size": 128},
        }
    )
    with seeded(0):
        model = ClickModel(config.model, store.layout, init_std=0.3)
        return FieldGatesLearner(model, config, 128, gates, len(store), valid, {"f0", "f1"})


def test_gates_get_the_gradient_of_the_validation_rows(make_store: Callable[..., Store]) -> None:
    """Of their loss and ρ/N Σ o, as autograd has it for the gates that were drawn: of the training rows, nothing."""
    store, valid = make_store(256), make_store(64, 2)
    learner = learner_of(store, valid)
    learner.micro_batch_size = 20  # of the validation rows, too: several
    table, model = learner.table, learner.model
    order = np.random.default_rng((0, 0)).permutation(64)  # fewer than the least: all in every step
    batch = HostEpoch(valid, order, torch.device("cpu")).take(0, 64)
    with seeded(3):
        table.draw()
    drawn_KG = table.is_open_KG.float().requires_grad_()
    share_F = [*drawn_KG.mean(dim=0), torch.ones(())]

    def left_of(ids: torch.Tensor, place: int) -> torch.Tensor:
        unknown = table.weight[table.unknown_V[ids.long()]] if table.unknown_V is not None else torch.zeros(())
        return unknown + share_F[place] * (table.weight[ids.long()] - unknown)

    both = [left_of(batch.ids[:, place], place) for place in range(2)]
    ((values, offsets),) = batch.bags
    both.append(torch.stack([left_of(values[a:b], 2).mean(dim=0) for a, b in itertools.pairwise(offsets)]))
    rows = torch.stack(both, dim=1)
    model.net.eval()
    logits = model.net(rows[..., 1:], rows[..., 0].sum(dim=1), batch.numeric)
    loss = binary_cross_entropy_with_logits(logits, batch.labels) + 5.0 / 256 * (share_F[0] + share_F[1])
    grad_G = torch.autograd.grad(loss, drawn_KG)[0].sum(dim=0)

    rows_before = table.weight.clone()
    with seeded(3):
        learner.step(TrainingRows(store, torch.device("cpu")).epoch(0, 0), 0, 128, learner.hyper)
    share = 1 - learner.gates.betas[0]
    torch.testing.assert_close(learner.gates.moments[0], share * grad_G * 0.25, rtol=1e-4, atol=1e-9)  # σ'(0) is ¼
    assert (table.gates != 0).all()
    assert not torch.equal(table.weight, rows_before)


def test_validation_rows_are_taken_in_turn(make_store: Callable[..., Store]) -> None:
    """At least 256 in a step, if there are so many; an epoch has each of them once, where they are more than that."""
    learner = learner_of(make_store(256), make_store(1_000, 2))
    rows = []
    for step in range(4):
        learner.embedding.num_steps = step
        rows.append(learner._next_rows())
    assert [len(one) for one in rows] == [500] * 4
    for epoch in (rows[:2], rows[2:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(1_000))
    learner = learner_of(make_store(2_560), make_store(300, 2))
    learner.embedding.num_steps = 19  # the last of the epoch's twenty
    assert len(np.unique(learner._next_rows())) == 256


def test_the_unknown_row_counts_as_often_as_gates_are_closed(make_store: Callable[..., Store]) -> None:
    """Half of them for every value: it is clipped by half the field's rows, not as a value met once."""
    store = make_store(256)
    learner = learner_of(store, make_store(64, 2))
    table, rows = learner.table, learner.embedding
    table.is_open_KG = torch.tensor([[True, False], [False, False], [True, False], [False, False]])
    table.refresh()
    (field, *_) = store.layout.fields
    rows.counts_V[field.offset : field.offset + field.size] = 10
    rows.grad_VW.normal_()
    rows.pass_on()
    values = field.size - 1  # and what is missing
    assert rows.counts_V[field.offset + UNKNOWN] == 10 + 5 * values
    assert rows.counts_V[field.offset + FIRST_VALUE] == 10


def test_validation_rows_teach_the_weights_nothing(make_store: Callable[..., Store]) -> None:
    weights, store = [], make_store(256)
    for seed in (2, 3):
        learner = learner_of(store, make_store(64, seed), still_epochs=1)
        rows = TrainingRows(store, torch.device("cpu")).epoch(0, 0)
        with seeded(3):
            for start in (0, 128):
                learner.step(rows, start, start + 128, learner.hyper)
        weights.append(learner.model.tensors())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def write_log(path: Path, rows: int = 6_000) -> None:
    """Two columns decide, and are seldom missing; three of as many values tell nothing."""
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 30, rows) for name in ("site", "user", "x", "y", "z")}
    effect = np.random.default_rng(1).standard_normal((2, 30)) * 1.2
    logit = effect[0][columns["site"]] + effect[1][columns["user"]] - 0.5
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    frame = pl.DataFrame({"clicked": clicked} | {name: [f"{name}{v}" for v in ids] for name, ids in columns.items()})
    frame.write_parquet(path)


SELECT = ["--label", "clicked", "--method", "gates", "--batch-size", 256, "--epochs", 6, "--json"]
SELECT += ["--set", "model.mlp.hidden_units=[16]", "--set", "model.embedding_dim=4"]


@pytest.mark.parametrize("layers", [1, 8])
def test_columns_that_tell_nothing_go(run: Run, layers: int) -> None:
    write_log(Path("log.parquet"))
    code, out, err = run("select", "log.parquet", *SELECT, "--layers", layers, "--penalty", 30, "--out", "out")
    assert code == 0, err
    result = json.loads(out)
    assert sorted(result["kept"]) == ["site", "user"]
    assert [field["name"] for field in result["features"][:2]] in (["site", "user"], ["user", "site"])
    assert result["features"][2]["score"] < 0.5
    assert json.loads(Path("out/select.json").read_text()) == result
    assert f"{layers} gates a column" in Path("out/report.md").read_text()
    train = ["train", "log.parquet", "--label", "clicked", "--epochs", 2, "--no-report"]
    code, _, err = run(*train, "--features", "out/features.yaml", "--out", "kept")
    assert code == 0, err
    code, out, err = run(
        "select", "log.parquet", *SELECT, "--layers", layers, "--penalty", 30, "--keep", 3, "--out", "out"
    )
    assert code == 0, err
    assert len(json.loads(out)["kept"]) == 3


def test_a_search_that_is_cut_off_goes_on_to_the_same_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "cache"))
    write_log(tmp_path / "log.parquet", 2_000)
    config = resolve(
        {
            "source": {"data": [str(tmp_path / "log.parquet")]},
            "data": {"label": "clicked"},
            "model": {"mlp": {"hidden_units": [8]}},
            "train": {"epochs": 3, "batch_size": 128},
        }
    )
    whole = select_fields(config, FieldGatesConfig(), tmp_path / "whole")
    asked = itertools.count()
    with pytest.raises(Interrupted):
        select_fields(config, FieldGatesConfig(), tmp_path / "cut", should_stop=lambda: next(asked) > 20)
    said: list[str] = []
    again = select_fields(config, FieldGatesConfig(), tmp_path / "cut", announce=said.append)
    assert any("resuming after epoch" in line for line in said)
    assert again["features"] == whole["features"]


def test_faults_are_told(run: Run) -> None:
    write_log(Path("log.parquet"), 1_000)
    for more, said in (
        (["--pairs", 3], "--pairs has no meaning for gates"),
        (["--set", "train.epochs=2"], "takes 3 epochs at least"),
        (["--penalty", 1e7], "no column is worth its penalty"),
        (["--set", "data.valid_fraction=0"], "gates over columns learn from validation rows, and there are none"),
    ):
        code, _, err = run("select", "log.parquet", *SELECT, *more, "--out", "out")
        assert code == 2
        assert said in err.replace("\n", " ")
