"""The benchmarks' own arithmetic: a table that is wrong misleads more than one that is missing."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmark(name)` imports benchmarks/name.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def run(peer: str, round_: int, **figures: Any) -> dict[str, Any]:
    return {"kind": "speed", "peer": peer, "batch_size": 1024, "round": round_} | figures


def test_ratios_are_taken_within_a_round_and_skip_failures(benchmark: Any) -> None:
    speed = benchmark("speed")
    runs = [
        run("clickherd", 0, rows_per_second=300.0),
        run("fuxictr", 0, rows_per_second=100.0),
        run("clickherd", 1, rows_per_second=80.0),  # the machine was slower in this round, for both
        run("fuxictr", 1, rows_per_second=40.0),
        run("clickherd", 2, rows_per_second=300.0),
        run("fuxictr", 2, error="out of memory"),
    ]
    assert speed.ratio(runs, "clickherd", "fuxictr", 1024) == {0: 3.0, 1: 2.0}
    assert speed.spread({0: 3.0, 1: 2.0}, "{:.2f}") == "2.50 (2.00–3.00)"


def test_peers_take_turns(benchmark: Any) -> None:
    speed = benchmark("speed")
    args = argparse.Namespace(rounds=2, batch_sizes=[8192], peers=["clickherd", "fuxictr"], rows=None, accuracy=False)
    order = [(r["round"], r["peer"], r["rows"]) for r in speed.measurements(args)]
    rows = speed.ROWS[8192]
    assert order == [(0, "clickherd", rows), (0, "fuxictr", rows), (1, "clickherd", rows), (1, "fuxictr", rows)]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("raise SystemExit('no such loader')", "no such loader"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import time; time.sleep(60)", "gave up"),
    ],
)
def test_a_failing_peer_is_recorded(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: str
) -> None:
    speed, environments = benchmark("speed"), benchmark("peers.environments")
    runner = tmp_path / "runner.py"
    runner.write_text(script)
    monkeypatch.setitem(speed.KNOWN, "broken", environments.Peer("Broken", environments.OWN, str(runner)))
    args = argparse.Namespace(data=tmp_path, threads=1, timeout=2)
    failed = run("broken", 0, rows=10) | speed.measure(run("broken", 0, rows=10), args, tmp_path)
    assert error in failed["error"]
    assert "failed" in speed.spread(speed.figures([failed], "broken", 1024, "rows_per_second"), "{:,.0f}")


def test_baselines_learn_from_every_kind_of_column(benchmark: Any) -> None:
    pytest.importorskip("lightgbm")
    baselines = benchmark("baselines")
    rng = np.random.default_rng(0)

    def frame(num_rows: int, categories: int) -> pl.DataFrame:
        category, number = rng.integers(0, categories, num_rows), rng.random(num_rows)
        bags = [rng.choice(["x", "y", "z"], rng.integers(0, 3), replace=False).tolist() for _ in range(num_rows)]
        has_x = np.array(["x" in bag for bag in bags])
        logit = 2 * (category % 2) + 2 * number + 2 * has_x - 3
        return pl.DataFrame(
            {
                "click": (rng.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
                "category": [f"c{c}" if c else None for c in category],
                "number": [float(v) if v > 0.05 else None for v in number],
                "bag": ["|".join(bag) for bag in bags],
            }
        )

    splits = (frame(4000, 10), frame(1000, 10), frame(1000, 12))  # two categories are new in the test rows
    roles = baselines.Roles("click", numeric=("number",), categorical=("category",), multi=("bag",))
    for kept in (roles, baselines.Roles("click", categorical=("category",)), baselines.Roles("click", multi=("bag",))):
        found = baselines.baselines(*splits, kept)
        assert set(found) == {"logistic regression", "LightGBM"}
        for name, model in found.items():
            assert model["test"]["auc"] > (0.75 if kept is roles else 0.58), name
            assert model["test"]["logloss"] < 0.69, name
