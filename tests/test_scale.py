"""`clickherd scale`: what it sweeps, keeps, recommends and refuses."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.optim.scaling import EXPONENTS
from clickherd.report.sweep import size_labels
from clickherd.scale import batch_sizes_for, comparable, recommend, table

Run = Callable[..., tuple[int, str, str]]
WriteLog = Callable[[Path, int], None]
SMALL = ["--label", "Clicked?", "--epochs", 2, "--set", "model.mlp.hidden_units=[8]", "--set", "data.min_count=1"]


GRID = ["--batch-size", 64, "--batch-size", 128, "--rule", "sqrt", "--rule", "cowclip", "--seeds", 2]


def test_a_sweep_recommends_by_validation_and_leaves_a_recipe_that_repeats_its_run(run: Run, odd_clicks: Path) -> None:
    code, out, err = run("scale", odd_clicks, *SMALL, *GRID, "--margin", 0.01, "--out", "sweep", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [(c["batch_size"], c["rule"], c["seeds"]) for c in result["table"]] == [
        (size, rule, 2) for size in (64, 128) for rule in ("sqrt", "cowclip")
    ]
    for cell in result["table"]:
        runs = [r for r in result["runs"] if (r["batch_size"], r["rule"]) == (cell["batch_size"], cell["rule"])]
        assert [r["seed"] for r in runs] == [0, 1]
        assert cell["valid_auc"] == pytest.approx(np.mean([r["valid"]["auc"] for r in runs]))
        assert cell["test_auc"] == pytest.approx(np.mean([r["test"]["auc"] for r in runs]))
        assert cell["rows_per_second"] > 0
        assert (cell["clipped_fraction"] is None) == (cell["rule"] != "cowclip")
    chosen = result["recommended"]
    best = max(cell["valid_auc"] for cell in result["table"])
    assert chosen["best"]["valid_auc"] == best
    assert chosen["valid_auc"] >= best - 0.01
    assert json.loads(Path("sweep/scale.json").read_text()) == result
    report = Path("sweep/report.md").read_text()
    assert "Recommended: batch" in report
    assert "| 64 | sqrt | 2 |" in report
    drawn = Path("sweep/scale.svg").read_text()
    assert 'xmlns="http://www.w3.org/2000/svg"' in drawn
    assert "var(--ink)" in drawn.split("</style>")[1]
    assert not list(Path("sweep/under-way").iterdir())

    code, out, err = run("train", "--recipe", "sweep/recommended.yaml", "--out", "run", "--no-report", "--json")
    assert code == 0, err
    trained = json.loads(out)
    assert trained["batch_size"] == chosen["batch_size"]
    (same,) = [
        r
        for r in result["runs"]
        if (r["batch_size"], r["rule"], r["seed"]) == (chosen["batch_size"], chosen["rule"], 0)
    ]
    assert trained["valid"]["auc"] == same["valid"]["auc"]
    assert trained["test"]["auc"] == same["test"]["auc"]


def test_finished_runs_are_not_repeated_and_a_sweep_can_be_widened(run: Run, odd_clicks: Path) -> None:
    few = ["--batch-size", 64, "--rule", "none", "--seeds", 1]
    assert run("scale", odd_clicks, *SMALL, *few, "--out", "sweep")[0] == 0
    first = Path("sweep/runs.jsonl").read_text()
    code, out, err = run("scale", odd_clicks, *SMALL, *few, "--out", "sweep", "--json", "--threads", 1)
    assert code == 0
    assert "runs: 1 in all, 1 finished before" in err
    assert Path("sweep/runs.jsonl").read_text() == first
    code, out, err = run("scale", odd_clicks, *SMALL, *few, "--batch-size", 128, "--out", "sweep", "--json")
    assert "runs: 2 in all, 1 finished before" in err
    assert [cell["batch_size"] for cell in json.loads(out)["table"]] == [64, 128]
    assert Path("sweep/runs.jsonl").read_text().startswith(first)


def test_another_sweep_s_folder_is_left_as_it_is(run: Run, odd_clicks: Path) -> None:
    few = ["--batch-size", 64, "--rule", "none", "--seeds", 1, "--out", "sweep"]
    assert run("scale", odd_clicks, *SMALL, *few)[0] == 0
    report = Path("sweep/report.md").read_text()
    code, _, err = run("scale", odd_clicks, *SMALL, *few, "--set", "optim.l2=1e-3")
    assert (code, "sweep of other rows or settings" in err, "Choose another --out" in err) == (2, True, True)
    assert Path("sweep/report.md").read_text() == report
    with Path("sweep/sweep.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        code, _, err = run("scale", odd_clicks, *SMALL, *few, "--seeds", 2)
    assert (code, "another command is at work" in err) == (2, True)
    Path("sweep/sweep.lock").unlink()
    Path("sweep/sweep.lock").mkdir()
    code, _, err = run("scale", odd_clicks, *SMALL, *few, "--seeds", 2)
    assert (code, "cannot write there" in err) == (2, True)
    Path("study").mkdir()
    Path("study/study.db").touch()
    code, _, err = run("scale", odd_clicks, *SMALL, *few, "--out", "study")
    assert (code, "the folder holds other things" in err) == (2, True)


def test_only_seeds_that_all_have_are_compared() -> None:
    def runs(rule: str, scores: list[float]) -> list[dict[str, Any]]:
        return [{"batch_size": 64, "rule": rule, "seed": i, "valid": {"auc": score}} for i, score in enumerate(scores)]

    few, many = runs("none", [0.8, 0.7]), runs("root", [0.8, 0.7, 0.3])
    assert comparable([*few, *many]) == [*few, *many[:2]]
    assert comparable(many) == many
    apart = [*few[:1], *many[1:]]
    assert comparable(apart) == apart
    assert comparable([]) == []
    diverged = [*many[:2], {"batch_size": 64, "rule": "root", "seed": 2, "failed": "loss is not finite"}]
    assert comparable([*few, *diverged]) == few  # though its other seeds went well


def test_it_is_said_which_seeds_decided(run: Run, odd_clicks: Path) -> None:
    few = ["--batch-size", 64, "--rule", "none", "--seeds", 1, "--out", "sweep", "--json"]
    code, out, _ = run("scale", odd_clicks, *SMALL, *few)
    assert (code, json.loads(out)["unequal_seeds"]) == (0, None)
    more = ["--batch-size", 128, "--rule", "sqrt", "--seeds", 2, "--margin", 1, "--out", "sweep", "--json"]
    code, out, _ = run("scale", odd_clicks, *SMALL, *more)
    result = json.loads(out)
    assert (code, result["unequal_seeds"]) == (0, "seed 0 decided")
    (first,) = [r for r in result["runs"] if (r["batch_size"], r["seed"]) == (128, 0)]
    assert result["recommended"]["batch_size"] == 128
    assert result["recommended"]["valid_auc"] == first["valid"]["auc"] != result["table"][1]["valid_auc"]
    assert "the same seeds: seed 0 decided" in Path("sweep/report.md").read_text()


def test_a_line_that_was_cut_off_is_run_again(run: Run, odd_clicks: Path) -> None:
    few = ["--batch-size", 64, "--batch-size", 128, "--rule", "none", "--seeds", 1, "--out", "sweep"]
    assert run("scale", odd_clicks, *SMALL, *few)[0] == 0
    whole = Path("sweep/runs.jsonl").read_text()
    Path("sweep/runs.jsonl").write_text(whole[:-40])
    code, _, err = run("scale", odd_clicks, *SMALL, *few)
    assert code == 0, err
    assert "runs: 2 in all, 1 finished before" in err
    assert [json.loads(line)["batch_size"] for line in Path("sweep/runs.jsonl").read_text().splitlines()] == [64, 128]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(run: Run, write_log: WriteLog) -> None:
    write_log(Path("long.csv"), 3000)
    grid = ["--batch-size", "32", "--batch-size", "64", "--rule", "none", "--seeds", "1", "--threads", "1"]
    arguments = ["scale", "long.csv", *map(str, SMALL), *grid, "--epochs", "6", "--out", "sweep"]
    command = [sys.executable, "-c", "from clickherd.cli import main; main()", *arguments]
    cut = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    runs, deadline = Path("sweep/runs.jsonl"), time.monotonic() + 120
    while not (
        runs.exists() and runs.read_text() and any(Path("sweep/under-way").glob("*/metrics.jsonl"))
    ):  # the second run is under way
        assert cut.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGINT)
    _, told = cut.communicate()
    assert cut.returncode == 130, told
    assert "continue with: clickherd scale long.csv" in " ".join(told.split())
    kept = runs.read_text()
    assert len(kept.splitlines()) == 1
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    assert "runs: 2 in all, 1 finished before" in err
    assert runs.read_text().startswith(kept)
    resumed = {(r["batch_size"], r["seed"]): r["valid"] for r in json.loads(out)["runs"]}
    code, out, err = run(*arguments[:-1], "whole", "--json")
    assert code == 0, err
    assert {(r["batch_size"], r["seed"]): r["valid"] for r in json.loads(out)["runs"]} == resumed


def test_a_run_that_diverges_is_told_and_not_recommended(run: Run, odd_clicks: Path) -> None:
    grid = ["--batch-size", 64, "--rule", "none", "--rule", "linear", "--seeds", 1, "--out", "sweep"]
    huge = ["--set", "optim.base_batch_size=1", "--set", "optim.learning_rate=1e36"]  # linear's × 64 overflows
    calm = ["--set", "optim.embedding_learning_rate=1e-3", "--set", "optim.warmup_epochs=0"]
    code, out, err = run("scale", odd_clicks, *SMALL, *grid, *huge, *calm, "--json")
    assert code == 0, err
    cells = {cell["rule"]: cell for cell in json.loads(out)["table"]}
    assert cells["linear"]["diverged"] == 1
    assert cells["linear"]["valid_auc"] is None
    assert "linear seed 0 diverged" in err
    chosen = json.loads(out)["recommended"]
    assert chosen is None or chosen["rule"] == "none"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rule", "cowclap"], ["optim.rule", "cowclap", "cowclip"]),
        (["--batch-size", 5000], ["5,000", "training rows"]),
        (["--set", "data.valid_fraction=0"], ["validation rows", "--valid"]),
        (["--valid", "ones.csv"], ["validation rows have the label 1", "AUC"]),
        (["--set", "optim.l22=1"], ["optim.l22", "l2", "zeta"]),
        (["--out", "taken"], ["taken", "other things"]),
        (["--out", "clicks.csv"], ["clicks.csv", "cannot make the folder"]),
        (["--label", "Cliked?"], ["Cliked?", "Clicked?"]),
    ],
)
def test_mistakes_end_with_2_and_say_what_is_valid(
    run: Run, odd_clicks: Path, arguments: list[Any], says: list[str]
) -> None:
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    pl.read_csv(odd_clicks).filter(pl.col("Clicked?") == 1).write_csv("ones.csv")
    code, out, err = run("scale", odd_clicks, *SMALL, *arguments)
    assert code == 2, err
    assert out == ""
    for word in says:
        assert word in err, err
    assert not Path("runs").exists()


def test_no_data_are_asked_for_by_the_verb(run: Run) -> None:
    code, _, err = run("scale", "--label", "x")
    assert code == 2
    assert "clickherd scale clicks.csv" in err


@settings(deadline=None)
@given(st.integers(1, 10**9))
def test_batch_sizes_by_themselves_grow_fourfold_and_leave_updates(num_rows: int) -> None:
    sizes = batch_sizes_for(num_rows)
    assert 1 <= len(sizes) <= 4
    assert all(b == 4 * a for a, b in itertools.pairwise(sizes))
    assert sizes[-1] * 8 <= num_rows or sizes == [1]


@st.composite
def sweeps(draw: st.DrawFn) -> list[dict[str, Any]]:
    cells = draw(st.lists(st.tuples(st.sampled_from([64, 256, 1024]), st.sampled_from(list(EXPONENTS))), min_size=1))
    aucs = st.floats(0.5, 1.0)
    return [
        {
            "batch_size": size,
            "rule": rule,
            "seed": seed,
            "valid": {"auc": draw(aucs), "logloss": 0.4},
            "test": {"auc": draw(aucs), "logloss": 0.4},
            "epochs": 3,
            "best_epoch": 2,
            "seconds": 1.0,
            "rows_per_second": 10.0,
            "clipped_fraction": None,
        }
        for size, rule in dict.fromkeys(cells)
        for seed in range(2)
    ]


@settings(deadline=None)
@given(sweeps(), st.floats(0, 0.1))
def test_the_largest_batch_within_the_margin_is_recommended_whatever_the_test_scores(
    runs: list[dict[str, Any]], margin: float
) -> None:
    cells = table(runs)
    chosen = recommend(cells, margin)
    assert chosen is not None
    best = max(cell["valid_auc"] for cell in cells)
    assert chosen["valid_auc"] >= best - margin
    for cell in cells:
        if cell["valid_auc"] >= best - margin:
            assert cell["batch_size"] <= chosen["batch_size"]
            if cell["batch_size"] == chosen["batch_size"]:
                assert cell["valid_auc"] <= chosen["valid_auc"]
    blind = recommend(table([{**run, "test": None} for run in runs]), margin)
    assert blind == chosen


def test_batch_sizes_that_would_touch_on_the_axis_go_below_one_another() -> None:
    assert size_labels([1024]) == ["1,024"]
    assert size_labels([1024, 65_536]) == ["1,024", "65,536"]
    close = ["1,024", "8,192", "\n16,384", "65,536", "\n131,072"]
    assert size_labels([1024, 8192, 16_384, 65_536, 131_072]) == close
    assert size_labels([8192, 16_384, 32_768, 65_536, 131_072, 262_144])[1::2] == ["\n16,384", "\n65,536", "\n262,144"]
