"""Gates over fields: the equations by hand, and which columns they leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from clickherd.data.store import MISSING, UNKNOWN, FieldLayout, Layout
from clickherd.layers.embedding import EmbeddingTable
from clickherd.selection.gating import FieldGatedTable

Run = Callable[..., tuple[int, str, str]]
LAYOUT = Layout((FieldLayout("a", 0, 4), FieldLayout("b", 4, 3), FieldLayout("c", 7, 3)), ())


def table_of(layers: int) -> FieldGatedTable:
    torch.manual_seed(0)
    return FieldGatedTable(EmbeddingTable(10, 2, wide=True, init_std=0.5), LAYOUT, {"a", "c"}, layers)


def test_what_is_left_of_a_row_by_hand() -> None:
    """Half of a's gates are open and none of c's; b has none. Rows lie between the unknown one and their own."""
    table = table_of(2)
    table.gates.copy_(torch.tensor([[0.3, -0.1], [-0.2, -0.4]]))
    table.refresh()
    own, left = table.weight, table.gated_VW
    assert table.open_fields().tolist() == [0.5, 0.0]
    for place in (MISSING, 2, 3):
        torch.testing.assert_close(left[place], (own[place] + own[UNKNOWN]) / 2)
    assert torch.equal(left[UNKNOWN], own[UNKNOWN])
    assert torch.equal(left[4:7], own[4:7])
    torch.testing.assert_close(left[7:], own[7:8].expand(3, 3))


def test_the_gradient_of_the_gates_by_hand() -> None:
    """(Σ of the field's ids + λ) · σ(θ)(1 − σ(θ)) / K; the unknown id's part is not the gate's."""
    table = table_of(2)
    table.gates.copy_(torch.tensor([[0.0, 2.0], [-1.0, 0.5]]))
    of_open = torch.tensor([100.0, 1.0, 2.0, 3.0, 50.0, 50.0, 50.0, 100.0, -4.0, -5.0])
    slope = torch.tensor([[0.25, 0.104994], [0.196612, 0.235004]])
    expected = torch.tensor([6.5, -8.5]) * slope / 2
    torch.testing.assert_close(table.gate_gradient(of_open, 0.5), expected, rtol=1e-5, atol=1e-6)


def test_one_layer_starts_open_and_several_differ() -> None:
    assert (table_of(1).gates == 0.5).all()
    several = table_of(8).gates
    assert several.shape == (8, 2)
    assert len(several.unique()) == 16


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
    assert result["features"][2]["open"] < 0.5
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


def test_faults_are_told(run: Run) -> None:
    write_log(Path("log.parquet"), 1_000)
    for more, said in (
        (["--pairs", 3], "--pairs has no meaning for gates"),
        (["--set", "train.epochs=2"], "takes 3 epochs at least"),
        (["--penalty", 1e7], "no column is worth its penalty"),
    ):
        code, _, err = run("select", "log.parquet", *SELECT, *more, "--out", "out")
        assert code == 2
        assert said in err.replace("\n", " ")
