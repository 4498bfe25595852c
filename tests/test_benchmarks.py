"""The benchmarks' own arithmetic: a table that is wrong misleads more than one that is missing."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from clickherd.config import merge, resolve
from clickherd.models import MODELS

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmark(name)` imports benchmarks/name.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`runner(name)` imports benchmarks/peers/name.py as the runners import one another."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def run(peer: str, round_: int, **figures: Any) -> dict[str, Any]:
    return {"kind": "speed", "peer": peer, "batch_size": 1024, "round": round_} | figures


def test_every_weight_has_its_place_in_fuxictr_s_network(benchmark: Any) -> None:
    for module in ("adapters", "adapters_final", "adapters_interaction", "adapters_rankmixer", "adapters_sequence"):
        benchmark(f"parity.{module}")
    registry = benchmark("parity.registry")
    assert {case.model for case in registry.CASES} == {*MODELS}
    for case in registry.CASES:
        net = case.config.build(len(registry.FIELDS), 0, **({"num_sequences": 1} if case.sequence else {}))
        table = torch.zeros(sum(registry.FIELDS.values()), case.config.row_width + case.config.wide)
        weights = registry.Weights(net.state_dict(), table, case.config)
        copied = case.adapter(weights)
        assert not weights.unused, case
        if case.build is None and case.config.row_width == case.config.embedding_dim:  # else some are not theirs
            assert sum(t.numel() for t in copied.values() if t.is_floating_point()) >= weights.count, case


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


def comparison(**settings: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"rounds": 2, "model": "deepfm"} | settings)


def test_peers_take_turns(benchmark: Any) -> None:
    speed = benchmark("speed")
    args = comparison(batch_sizes=[8192], peers=["clickherd", "fuxictr"], rows=None, accuracy=False)
    order = [(r["round"], r["peer"], r["rows"]) for r in speed.measurements(args)]
    rows = speed.ROWS[8192]
    assert order == [(0, "clickherd", rows), (0, "fuxictr", rows), (1, "clickherd", rows), (1, "fuxictr", rows)]


def test_trainers_without_batches_train_once_on_all_rows(benchmark: Any) -> None:
    names = ["clickherd", "lightgbm"]
    args = comparison(batch_sizes=[1024, 8192], peers=names, rows=10, accuracy=True)
    speed = [r for r in benchmark("speed").measurements(args) if r["peer"] == "lightgbm"]
    assert [(r["kind"], r["measure"], r["rows"]) for r in speed] == [("unbatched", "accuracy", 0)]
    args = comparison(batch_sizes=[1024, 8192], peers=names, points=10, epochs=1)
    curves = [(r["peer"], r["round"], r["batch_size"]) for r in benchmark("time_to_auc").measurements(args)]
    of_clickherd = [("clickherd", round_, size) for round_ in (0, 1) for size in (1024, 8192)]
    assert sorted(curves) == [*of_clickherd, ("lightgbm", 0, 1), ("lightgbm", 1, 1)]


def test_a_trainer_without_the_network_is_left_out_and_the_table_says_so(benchmark: Any) -> None:
    speed, driver, tables = benchmark("speed"), benchmark("driver"), benchmark("tables")
    args = comparison(batch_sizes=[8192], peers=["clickherd", "lightgbm"], rows=10, accuracy=True, model="dcnv2")
    assert {r["peer"] for r in speed.measurements(args)} == {"clickherd"}
    why = driver.KNOWN["lightgbm"].lacks("dcnv2")
    assert "LightGBM 4.7.0, native categories: has no DCN-v2" in tables.left_out({"left_out": {"lightgbm": why}})


def test_networks_are_named_by_their_number_of_weights(benchmark: Any) -> None:
    def counted(peer: str, count: int, **settings: str) -> dict[str, Any]:
        return run(peer, 0) | {"settings": {"dense_parameters": count} | settings}

    runs = [counted("clickherd", 430_814), counted("fbgemm", 430_814), counted("fuxictr", 477_745, network="wider")]
    lines = benchmark("tables").networks({"runs": [*runs, runs[0]]}).splitlines()
    assert "- 430,814: clickherd; FBGEMM 1.8.0 table-batched embedding, torch net" in lines
    assert "- 477,745: FuxiCTR 2.3.10 (wider)" in lines


@pytest.mark.parametrize("model", ["deepfm", "dcnv2", "wide_deep"])
def test_the_plain_network_computes_what_clickherds_does(runner: Any, model: str) -> None:
    """With equal weights, in the order in which either lists them."""
    networks = runner("networks")
    ours = resolve({"model": {"name": model}}).model.build(num_fields=4, num_numeric=3)
    plain = networks.Network(model, num_fields=4, num_numeric=3)
    with torch.no_grad():
        for weight, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
            theirs.normal_(0, 0.1)
            weight.copy_(theirs.reshape(weight.shape))
        rows, linear, numeric = torch.randn(5, 4, 10), torch.randn(5, 4), torch.randn(5, 3)
        torch.testing.assert_close(plain(rows, linear, numeric), ours(rows, linear.sum(1), numeric))


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
    driver, tables, environments = benchmark("driver"), benchmark("tables"), benchmark("peers.environments")
    runner = tmp_path / "runner.py"
    runner.write_text(script)
    monkeypatch.setitem(driver.KNOWN, "broken", environments.Peer("Broken", environments.OWN, str(runner)))
    args = argparse.Namespace(data=tmp_path, model="deepfm", threads=1, timeout=2, budget=1)
    asked = run("broken", 0, rows=10, measure="speed")
    failed = asked | driver.measure(asked, args, tmp_path)
    assert error in failed["error"]
    assert error in tables.failures([failed])
    assert "failed" in tables.spread(tables.figures([failed], "broken", 1024, "rows_per_second"), "{:,.0f}")


def test_a_peer_that_cannot_be_installed_is_recorded_and_the_others_are_measured(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, environments = benchmark("driver"), benchmark("peers.environments")
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "environments")
    nowhere = environments.Environment("nowhere", (("--no-index", "no-such-package==1.0"),))
    monkeypatch.setitem(driver.KNOWN, "nowhere", environments.Peer("Nowhere", nowhere, "run.py"))
    runner = tmp_path / "runner.py"
    runner.write_text("print('{\"rows_per_second\": 5}')")
    monkeypatch.setitem(driver.KNOWN, "here", environments.Peer("Here", environments.OWN, str(runner)))
    missing = driver.install(["here", "nowhere"])
    assert "no-such-package==1.0" in missing["nowhere"]
    asked = [run(peer, 0, rows=10, measure="speed") for peer in ("nowhere", "here")]
    args = argparse.Namespace(data=tmp_path, model="deepfm", threads=1, timeout=60, budget=1)
    file = tmp_path / "result.json"
    done = list(driver.carry_out({"missing": missing, "runs": []}, asked, args, tmp_path, file))
    assert "not installed" in done[0]["error"]
    assert "no-such-package" in done[0]["error"]
    assert done[1]["rows_per_second"] == 5
    assert json.loads(file.read_text())["runs"] == done


def result_of(*runs: dict[str, Any]) -> dict[str, Any]:
    machine = {
        "cpu": "A CPU",
        "cores": 2,
        "memory_gib": 8,
        "python": "3.11",
        "packages": {},
        "date": "today",
        "load_average_at_start": [0.1],
    }
    best = {"auc": 0.83, "logloss": 0.42}
    data = {"rows": {"train": 1000, "test": 100}, "ids": 50, "best_reachable": best}
    return {
        "machine": machine,
        "data": data,
        "threads": 2,
        "command": ["python", "x.py"],
        "model": "deepfm",
        "left_out": {},
        "share": 0.99,
        "budget_seconds": 100.0,
        "runs": list(runs),
    }


def test_the_speed_table_sets_speed_memory_and_scores_side_by_side(benchmark: Any) -> None:
    speed = benchmark("speed")

    def at_8192(peer: str, **figures: Any) -> dict[str, Any]:
        return run(peer, 0, peak_rss_mib=700.0, **figures) | {"batch_size": 8192}

    runs = [
        at_8192("clickherd", rows_per_second=3000.0),
        at_8192("fuxictr", rows_per_second=1000.0),
        at_8192("torchrec", error="no such operator"),
        at_8192("clickherd", auc=0.76, logloss=0.47, rows_per_second=2900.0) | {"kind": "accuracy"},
        run("lightgbm", 0, auc=0.7, logloss=0.5, seconds=250.4, cpu_seconds=480.6, peak_rss_mib=900.0)
        | {"kind": "unbatched", "settings": {"budget": "300 rounds or 900 seconds", "rounds": 120}},
        run("xgboost", 0, error="gave up after 900 s") | {"kind": "unbatched"},
    ]
    lines = speed.table(result_of(*runs)).splitlines()
    assert "| clickherd | 3,000 | – | 700 | 0.7600 | 0.4700 |" in lines
    assert "| FuxiCTR 2.3.10 | 1,000 | 3.00 | 700 | – | – |" in lines
    budget = "300 rounds or 900 seconds; 120 rounds done"
    assert f"| LightGBM 4.7.0, native categories | {budget} | 250 | 481 | 900 | 0.7000 | 0.5000 |" in lines
    assert "- torchrec, batch 8,192: no such operator" in lines
    assert "- xgboost: gave up after 900 s" in lines


def test_the_encoding_table_sets_cpu_seconds_side_by_side_within_a_round(benchmark: Any) -> None:
    encoding = benchmark("encoding")

    def encoded(name: str, round_: int, cpu: float) -> dict[str, Any]:
        return {"encoder": name, "round": round_, "cpu_seconds": cpu, "seconds": cpu / 2, "peak_mib": 1500.0}

    runs = [
        encoded("clickherd", 0, 2.0),
        encoded("pandas", 0, 8.0),
        {"encoder": "fuxictr", "round": 0, "error": "no Ray"},
    ]
    runs += [encoded("clickherd", 1, 4.0), encoded("pandas", 1, 12.0)]
    result = result_of() | {"runs": runs, "data": {"rows": 1000, "bytes": 1 << 20}}
    lines = encoding.table(result).splitlines()
    assert "| clickherd | 3.0 (2.0–4.0) | 1.5 (1.0–2.0) | 1,500 (1,500–1,500) | – |" in lines
    (line,) = (line for line in lines if line.startswith("| pandas"))
    assert line.endswith("| 10.0 (8.0–12.0) | 5.0 (4.0–6.0) | 1,500 (1,500–1,500) | 3.5 (3.0–4.0) |")
    assert "- fuxictr: no Ray" in lines


def test_the_encoding_table_has_no_figure_for_memory_that_is_unknown(benchmark: Any) -> None:
    encoding = benchmark("encoding")
    run = {"encoder": "clickherd", "round": 0, "cpu_seconds": 2.0, "seconds": 1.0, "values": 7}
    assert "memory unknown" in encoding.progress_line(run)
    result = result_of() | {"runs": [run], "data": {"rows": 1000, "bytes": 1 << 20}}
    assert "| clickherd | 2.0 | 1.0 | unknown | – |" in encoding.table(result).splitlines()


def test_what_is_started_on_few_cores_stays_there(benchmark: Any) -> None:
    cores = os.sched_getaffinity(0)
    with benchmark("encoding").on_cores(1):
        told = subprocess.check_output([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"])
    assert int(told) == 1
    assert os.sched_getaffinity(0) == cores


def test_a_watched_process_ends_with_the_watch_even_after_an_error() -> None:
    # in a process of its own: everything that the watching process has started is ended
    script = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from process_tree import ProcessTree
process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
try:
    with ProcessTree(process.pid, timeout=60) as tree:
        tree.restart()
        assert tree.figures()["cpu_seconds"] >= 0
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(process.wait(timeout=30))
"""
    told = subprocess.check_output([sys.executable, "-c", script, str(BENCHMARKS)])
    assert int(told) == -signal.SIGKILL


def test_time_to_auc_counts_to_the_first_point_at_the_target(benchmark: Any) -> None:
    time_to_auc = benchmark("time_to_auc")

    def curve(peer: str, kind: str, *points: tuple[float, float, float], **settings: Any) -> dict[str, Any]:
        named = [dict(zip(("progress", "seconds", "auc"), point, strict=True)) for point in points]
        asked = {"kind": kind, "peer": peer, "batch_size": 8192, "round": 0}
        return asked | {"points": named, "settings": settings}

    runs = [
        curve("clickherd", "batched", (0.5, 10.0, 0.7), (1.0, 20.0, 0.8)),  # the best deep one: the target is 0.792
        curve("fuxictr", "batched", (0.5, 30.0, 0.792), (1.0, 60.0, 0.78)),
        curve("deepctr-torch", "batched", (0.5, 40.0, 0.6), (1.0, 80.0, 0.7919)),
        curve("lightgbm", "unbatched", (30, 5.0, 0.7), (60, 9.0, 0.9), rounds=60),
    ]
    assert time_to_auc.target(runs, 0.99)[0] == pytest.approx(0.792)
    lines = time_to_auc.table(result_of(*runs)).splitlines()
    assert "| clickherd, batch 8,192 | 20.0 | 1 epochs | 0.8000 | 1 epochs | 20.0 |" in lines
    assert "| FuxiCTR 2.3.10, batch 8,192 | 30.0 | 0.5 epochs | 0.7920 | 0.5 epochs | 60.0 |" in lines
    assert "| DeepCTR-Torch 0.3.0, batch 8,192 | not reached | – | 0.7919 | 1 epochs | 80.0 |" in lines
    assert "| LightGBM 4.7.0, native categories | 9.0 | 60 rounds | 0.9000 | 60 rounds | 9.0 |" in lines
    short = time_to_auc.table(result_of(*runs) | {"budget_seconds": 25.0}).splitlines()
    assert "| FuxiCTR 2.3.10, batch 8,192 | not within 25 s | – | 0.7920 | 0.5 epochs | 60.0 |" in short
    assert "| clickherd, batch 8,192 | 20.0 | 1 epochs | 0.8000 | 1 epochs | 20.0 |" in short
    later = curve("torchrec", "batched", (1.0, 9.0, 0.7), (2.0, 18.0, 0.9))  # the target is of the first epoch
    assert time_to_auc.target([*runs, later], 0.99) == (pytest.approx(0.792), "clickherd, batch 8,192")
    again = [*runs, runs[0] | {"round": 1, "points": [{"progress": 1.0, "seconds": 9.0, "auc": 0.5}]}]
    assert "| clickherd, batch 8,192 | 20.0 in 1 of 2 |" in time_to_auc.table(result_of(*again))


@pytest.mark.parametrize(
    ("rows", "batch_size", "points", "ends"),
    [
        (1000, 10, 4, [250, 500, 750, 1000]),
        (1000, 300, 10, [300, 600, 900, 1000]),  # never within a batch
        (100, 1000, 10, [100]),
    ],
)
def test_an_epoch_is_halted_after_whole_batches(
    runner: Any, rows: int, batch_size: int, points: int, ends: list[int]
) -> None:
    assert runner("measure").stops(rows, batch_size, points) == ends


class Ascending:
    """A trainer whose predictions improve with the rows that it has seen."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.seen: list[float] = []

    def prepare(self, rows: Any) -> Any:
        return rows.numeric[:, 0].tolist()

    def fit(self, prepared: list[float]) -> None:
        self.seen += prepared

    def predict(self, rows: Any) -> np.ndarray[Any, Any]:
        share = min(len(self.seen) / 100, 1.0)
        noise = np.random.default_rng(0).random(len(rows.labels))
        return np.asarray(share * rows.labels + (1 - share) * noise)


def test_a_curve_feeds_every_row_once_an_epoch_and_leaves_scoring_off_the_clock(runner: Any, tmp_path: Path) -> None:
    measure = runner("measure")
    write_rows(tmp_path, train=100, test=200)
    peer = Ascending()
    job = measure.Job(tmp_path, tmp_path, 0, 8, 1, 0, "", "curve", points=4, epochs=2)
    found = measure.MEASURES["curve"](job, peer)
    assert peer.seen == [*range(100), *range(100)]
    assert [point["progress"] for point in found["points"]] == [0.32, 0.56, 0.8, 1.0, 1.32, 1.56, 1.8, 2.0]
    aucs = [point["auc"] for point in found["points"]]
    assert aucs == sorted(aucs)
    assert aucs[-1] == 1.0
    seconds = [point["seconds"] for point in found["points"]]
    assert seconds == sorted(seconds)


def test_clickherds_curve_has_its_points_within_one_run(runner: Any, tmp_path: Path) -> None:
    measure, run_clickherd = runner("measure"), runner("run_clickherd")
    write_rows(tmp_path, train=100, test=50)
    job = measure.Job(tmp_path, tmp_path, 0, 10, 1, 0, "default", "curve", points=5, epochs=2)
    peer = run_clickherd.ClickHerd(job, measure.read_fields(tmp_path))
    found = measure.MEASURES["curve"](job, peer)
    assert [point["progress"] for point in found["points"]] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0]
    assert len({point["auc"] for point in found["points"]}) > 1


def test_a_curve_ends_when_its_budget_is_used_up(runner: Any, tmp_path: Path) -> None:
    measure, run_clickherd = runner("measure"), runner("run_clickherd")
    write_rows(tmp_path, train=100, test=50)
    job = measure.Job(tmp_path, tmp_path, 0, 10, 1, 0, "default", "curve", points=5, epochs=2, budget=1e-9)
    for peer in (Ascending(), run_clickherd.ClickHerd(job, measure.read_fields(tmp_path))):
        assert [point["progress"] for point in measure.MEASURES["curve"](job, peer)["points"]] == [0.2]


def test_clickherd_predicts_from_its_store_what_it_predicts_from_arrays(runner: Any, tmp_path: Path) -> None:
    measure, run_clickherd = runner("measure"), runner("run_clickherd")
    write_rows(tmp_path, train=100, test=50)
    job = measure.Job(tmp_path, tmp_path, 0, 10, 1, 0, "default", "prediction", scoring_batch_size=16)
    peer = run_clickherd.ClickHerd(job, measure.read_fields(tmp_path))
    found = measure.MEASURES["prediction"](job, peer)
    assert (found["rows"], len(found["seconds"])) == (50, measure.SCORINGS)
    test = measure.read_rows(tmp_path, "test")
    np.testing.assert_allclose(peer.scorer(test, 16)(), peer.predict(test), rtol=1e-5)


def write_rows(folder: Path, **splits: int) -> None:
    """A data folder with one field of five ids and one numeric column that counts the rows."""
    meta = {"fields": [{"name": "C1", "size": 5}], "numeric": ["I1"], "rows": splits}
    (folder / "meta.json").write_text(json.dumps(meta))
    rng = np.random.default_rng(0)
    for split, num_rows in splits.items():
        np.save(folder / f"{split}_ids.npy", rng.integers(0, 5, (num_rows, 1), np.int32))
        np.save(folder / f"{split}_numeric.npy", np.arange(num_rows, dtype=np.float32)[:, None])
        np.save(folder / f"{split}_labels.npy", (np.arange(num_rows) % 3 == 0).astype(np.float32))


def test_trees_are_scored_after_evenly_spaced_rounds(runner: Any) -> None:
    boosted = runner("boosted")
    assert boosted.points(300, 10) == [*range(30, 301, 30)]
    assert boosted.points(3, 10) == [1, 2, 3]
    assert boosted.points(0, 10) == []


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


def test_steps_are_timed_on_the_first_rows_of_a_drawn_log(benchmark: Any, tmp_path: Path) -> None:
    scaling, steps = benchmark("scaling"), benchmark("steps")
    store = scaling.write_log(tmp_path / "log", 3000, 2000)
    args = argparse.Namespace(store=store, rows=1000, steps=3, batch_size=400, threads=1, seed=0)
    found = steps.timed_steps(args)
    assert abs(found["num_ids"] - 2000) < 200
    assert 0 < found["touched"] < found["num_ids"]
    assert found["share_touched"] == pytest.approx(found["touched"] / found["num_ids"], abs=1e-3)
    assert found["peak_rss_mib"] >= found["own_mib"] > 0


def test_frequencies_of_ids_fall_alike_at_every_size_of_the_vocabulary(benchmark: Any) -> None:
    criteo = benchmark("criteo")
    uniform = (np.arange(1_000_000) + 0.5) / 1_000_000
    for size in (1000, 100_000):
        counts = np.bincount(criteo.zipf(size, uniform), minlength=size)
        assert len(counts) == size
        assert counts[1] / counts[9] == pytest.approx(5**criteo.ZIPF, rel=0.2)


def test_the_scaling_table_sets_costs_beside_the_smallest_size(benchmark: Any) -> None:
    def size(round_: int, rows: int, **figures: float) -> dict[str, Any]:
        rest = dict.fromkeys(("own_mib", "mapped_mib", "touched"), 300.0) | {"share_touched": 0.125}
        return {"kind": "rows", "rows": rows, "ids": 1000, "round": round_, "peak_rss_mib": 600.0} | rest | figures

    runs = [
        size(0, 10_000, rows_per_second=100.0),
        size(0, 20_000, rows_per_second=80.0),
        size(1, 10_000, rows_per_second=60.0),
        {"kind": "rows", "rows": 20_000, "ids": 1000, "round": 1, "error": "no memory left"},
    ]
    text = benchmark("scaling").series_table(runs, "rows")
    assert text.startswith("1,000 ids")
    assert "| 20,000 | 80 | 1.25 | 600 | 300 | 300 | 300 | 12.50% |" in text.splitlines()
    assert "- 20,000: no memory left" in text


def test_a_command_is_timed_until_it_shows_what_is_waited_for(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = benchmark("command")
    script = tmp_path / "clickherd"
    script.write_text("#!/bin/sh\necho loss 0.5; sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(command, "CLICKHERD", script)
    assert command.seconds_to(re.compile(rb"loss \d"), [], {}) > 0  # though the command goes on
    script.write_text("#!/bin/sh\necho no such file; exit 2\n")
    with pytest.raises(SystemExit, match="no such file"):
        command.seconds_to(None, [], {})


def test_the_gpu_benchmark_asks_for_a_gpu(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert benchmark("gpu").main([]) == 2
    assert "CUDA" in capsys.readouterr().err


def test_the_gpu_benchmark_checks_the_kernels_and_tells_what_differs(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = pytest.importorskip("clickherd.kernels.gpu", reason="triton is not installed", exc_type=ModuleNotFoundError)
    script = benchmark("gpu")
    assert script.main(["--check-only"]) == 0
    gather = gpu.gather

    def wrong(*arguments: Any) -> Any:
        rows, wide = gather(*arguments)
        return rows * 1.001, wide

    monkeypatch.setattr(gpu, "gather", wrong)
    assert script.main(["--check-only"]) == 1
    assert "rows, wide=True" in capsys.readouterr().err


def test_the_gpu_benchmark_accounts_for_a_run(benchmark: Any) -> None:
    """The same code on a CPU: tiny, but it trains, scores and has a budget for every part."""
    script = benchmark("gpu")
    args = script.arguments(["--device", "cpu", "--batch-size", "500", "--epochs", "2"])
    layout = script.layout_of(2000)
    assert abs(layout.num_ids - 2000) < 200
    result = script.measure(script.configured(args), layout, 5000, torch.device("cpu"))
    assert result["rows"] == {"train": 4500, "test": 500}
    assert result["train_loss"][1] < result["train_loss"][0]
    assert result["seconds"]["total"] == pytest.approx(sum(v for k, v in result["seconds"].items() if k != "total"))
    assert all(part["measured_ms"] > 0 and part["roofline_ms"] > 0 for part in result["parts"][1:])
    assert "whole step" in script.table_of(result | {"precision": "fp32", "epochs": 2})


def test_the_leaderboard_is_that_of_the_result_files(benchmark: Any) -> None:
    leaderboard = benchmark("leaderboard")
    assert leaderboard.PAGE.read_text() == leaderboard.page(), "python benchmarks/leaderboard.py writes it anew"


def test_every_model_whose_speed_is_compared_is_built_as_asked(benchmark: Any) -> None:
    for name, pair in benchmark("zoo_speed").MODELS.items():
        config = resolve({"model": {"name": name, **pair.model}}).model
        found = config.model_dump(mode="json")
        assert merge(found, json.loads(json.dumps(pair.model))) == found
        assert config.build(5, 0).__class__.__name__.lower() == name.replace("_", "")


def test_the_validation_rows_of_the_first_seed_choose_lambda(benchmark: Any) -> None:
    zoo = benchmark("zoo")
    entry = benchmark("zoo_models").ENTRIES["movielens_1m"]["deepfm"]
    runs: list[dict[str, Any]] = []
    assert zoo.tried(runs, entry, "fuxictr", True) == entry.l2
    for seed, l2, valid, test in [
        (7, 0.0, 0.80, 0.83),
        (7, 0.001, 0.82, 0.81),
        (7, 0.01, 0.81, 0.84),
        (8, 0.001, 0.79, 0.80),
    ]:
        scores = {"valid": {"auc": valid}, "test": {"auc": test}}
        runs.append({"trainer": "fuxictr", "model": "deepfm", "seed": seed, "l2": l2} | scores)
    assert zoo.tried(runs, entry, "fuxictr", False) == (0.001,)
    assert [run["seed"] for run in zoo.chosen_runs(runs, entry, "fuxictr")] == [7, 8]
    assert zoo.chosen_runs(runs, entry, "clickherd") == []
    assert zoo.tried(runs, entry, "defaults", True) == (None,)


def test_fuxictr_gets_codes_of_the_training_rows_values_and_lists_padded(benchmark: Any) -> None:
    zoo = benchmark("zoo")
    size, (train, test) = zoo.encoded([pl.Series(["b", "a", "b"]), pl.Series(["c", "a"])])
    assert (size, train.to_list(), test.to_list()) == (4, [2, 1, 2], [3, 1])  # 0 pads, 3 is unknown
    assert zoo.padded(np.array([5, 6, 7]), np.array([1, 2]), 3).tolist() == [[5, 0, 0], [6, 7, 0]]
