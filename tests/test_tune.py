"""`clickherd tune`: what a study searches, keeps, repeats and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

optuna = pytest.importorskip("optuna", reason="the extra [tune] is not installed")

Run = Callable[..., tuple[int, str, str]]
WriteLog = Callable[[Path, int], None]
FAST = ["--label", "Clicked?", "--set", "model.mlp.hidden_units=[8]", "--set", "data.min_count=1", "--threads", "1"]
SPACE = ["--search", "model.embedding_dim=2..6"]


def settings_of(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the finished trials tried and got, in order."""
    finished = [t for t in result["table"] if t["state"] != "fail"]
    return [(t["settings"], t["state"], t["score"], t["epochs"]) for t in finished]


def test_a_study_finds_settings_and_leaves_a_recipe_that_repeats_its_best_trial(run: Run, odd_clicks: Path) -> None:
    code, out, err = run("tune", odd_clicks, *FAST, *SPACE, "--epochs", 2, "--trials", 6, "--out", "study", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["trials"]["finished"] == 6
    assert json.loads(Path("study/study.json").read_text()) == result
    best = result["best"]
    complete = [t for t in result["table"] if t["state"] == "complete"]
    assert best["score"] == max(t["score"] for t in complete) == best["valid"]["auc"]
    assert set(best["settings"]) == set(result["space"]) == set(result["importance"])
    assert "model.mlp.hidden_units" not in result["space"]  # set, so not searched
    assert sum(result["importance"].values()) == pytest.approx(1, abs=0.05)
    for trial in result["table"]:
        assert 2 <= trial["settings"]["model.embedding_dim"] <= 6
        assert 0 <= trial["settings"]["model.mlp.dropout"] <= 0.5
    first = next(trial["settings"] for trial in result["table"] if trial["trial"] == 0)
    given = {"model.mlp.dropout": 0.0, "optim.learning_rate": 1e-3, "optim.embedding_learning_rate": 8e-3}
    shared = given.keys() & first.keys()
    assert shared
    assert {name: first[name] for name in shared} == pytest.approx({name: given[name] for name in shared})
    assert all(name in Path("study/report.md").read_text() for name in result["space"])
    for drawn in ("trials.svg", "importance.svg"):
        assert "<svg" in Path("study", drawn).read_text()
    assert not list(Path("study/under-way").iterdir())

    flags = ["--out", "run", "--no-report", "--json", "--threads", "1"]
    code, out, err = run("train", "--recipe", "study/best.yaml", *flags)
    assert code == 0, err
    assert json.loads(out)["valid"]["auc"] == best["score"]
    for name, value in best["settings"].items():
        setting: Any = yaml.safe_load(Path("run/config.yaml").read_text())
        for part in name.split("."):
            setting = setting[part]
        assert setting == value


def test_the_same_command_goes_on_as_if_it_had_not_ended(run: Run, odd_clicks: Path) -> None:
    flags = [*FAST, *SPACE, "--epochs", 1, "--json"]
    _, whole, err = run("tune", odd_clicks, *flags, "--trials", 12, "--out", "whole")
    assert run("tune", odd_clicks, *flags, "--trials", 6, "--out", "parts")[0] == 0, err
    code, parts, err = run("tune", odd_clicks, *flags, "--trials", 12, "--out", "parts")
    assert code == 0
    assert "6 of 12 trials are finished" in err
    assert settings_of(json.loads(parts)) == settings_of(json.loads(whole))
    code, again, err = run("tune", odd_clicks, *flags, "--trials", 12, "--out", "parts")
    assert json.loads(again)["table"] == json.loads(parts)["table"]


@pytest.mark.parametrize(("pruner", "cuts"), [("median", True), ("halving", True), ("none", False)])
def test_bad_trials_are_cut_short_by_their_score_per_epoch(run: Run, odd_clicks: Path, pruner: str, cuts: bool) -> None:
    fixed = ("optim.l2=0", "optim.learning_rate=4e-3", "model.mlp.dropout=0", "model.embedding_dim=4")
    flags = [word for setting in (*fixed, "train.patience=null") for word in ("--set", setting)]
    flags += ["--search", "optim.embedding_learning_rate=1e-9|3e-2", "--epochs", 4, "--trials", 10 if cuts else 4]
    flags += ["--rule", "none"]
    code, out, err = run("tune", odd_clicks, *FAST, *flags, "--pruner", pruner, "--out", "study", "--json")
    assert code == 0, err
    result = json.loads(out)
    cut = [t for t in result["table"] if t["state"] == "pruned"]
    assert (len(cut) > 0) == cuts
    assert len(cut) == result["trials"]["pruned"]
    assert all(t["epochs"] < 4 for t in cut)
    assert all(t["epochs"] == 4 for t in result["table"] if t["state"] == "complete")
    assert result["best"]["settings"]["optim.embedding_learning_rate"] == 0.03


def test_the_score_to_search_by_is_the_one_that_is_monitored(run: Run, odd_clicks: Path) -> None:
    flags = [*FAST, *SPACE, "--set", "train.monitor=logloss", "--epochs", 1, "--trials", 3, "--out", "study", "--json"]
    code, out, err = run("tune", odd_clicks, *flags)
    assert code == 0, err
    result = json.loads(out)
    assert result["best"]["score"] == min(t["score"] for t in result["table"]) == result["best"]["valid"]["logloss"]


def in_background(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from clickherd.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_share_a_study_and_its_trials(run: Run, write_log: WriteLog) -> None:
    write_log(Path("clicks.csv"), 3000)
    arguments = [
        "tune",
        "clicks.csv",
        *FAST,
        *SPACE,
        "--batch-size",
        "64",
        "--epochs",
        "3",
        "--trials",
        "6",
        "--out",
        "study",
        "--json",
    ]
    processes = [in_background(arguments) for _ in range(3)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    results = [json.loads(out) for out, _ in outputs]
    assert {result["trials"]["finished"] for result in results} == {6}
    assert results[0]["best"] == results[1]["best"] == results[2]["best"]
    tried = [json.dumps(t["settings"], sort_keys=True) for t in results[0]["table"]]
    assert len(set(tried)) == 6  # nothing twice
    assert sum("trial " in err for _, err in outputs) > 1  # not all by one of them


def test_ctrl_c_keeps_the_study_and_the_same_command_goes_on_with_the_trial(run: Run, write_log: WriteLog) -> None:
    write_log(Path("long.csv"), 3000)
    arguments = ["tune", "long.csv", *FAST, *SPACE, "--batch-size", "32", "--epochs", "6", "--trials", "3"]
    cut = in_background([*arguments, "--out", "study"])
    deadline = time.monotonic() + 120
    while not any(Path("study").glob("under-way/1-*/metrics.jsonl")):  # the second trial has had an epoch
        assert cut.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGINT)
    _, told = cut.communicate()
    assert cut.returncode == 130, told
    assert "continue with: clickherd tune long.csv" in " ".join(told.split())
    code, out, err = run(*arguments, "--out", "study", "--json")
    assert code == 0, err
    assert "1 of 3 trials are finished" in err
    resumed = json.loads(out)
    assert resumed["trials"]["finished"] == 3
    code, out, err = run(*arguments, "--out", "whole", "--json")
    assert settings_of(json.loads(out)) == settings_of(resumed)


def test_a_killed_trial_is_given_up_and_run_again(
    run: Run, odd_clicks: Path, monkeypatch: pytest.MonkeyPatch, write_log: WriteLog
) -> None:
    write_log(Path("long.csv"), 3000)
    arguments = [
        "tune",
        "long.csv",
        *FAST,
        *SPACE,
        "--batch-size",
        "64",
        "--epochs",
        "4",
        "--trials",
        "1",
        "--out",
        "study",
    ]
    cut = in_background(arguments)
    deadline = time.monotonic() + 120
    while not any(Path("study").glob("under-way/0-*/metrics.jsonl")):
        assert cut.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cut.kill()
    cut.communicate()
    monkeypatch.setattr("clickherd.tune.GRACE", 1)
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    assert "waiting for other processes' trials" in err
    result = json.loads(out)
    assert result["trials"] == {"finished": 1, "complete": 1, "pruned": 0, "diverged": 0, "failed": 1}
    assert result["table"][0]["settings"] == result["table"][1]["settings"]


def test_a_study_goes_on_only_with_the_settings_that_began_it(run: Run, odd_clicks: Path) -> None:
    flags = [*FAST, "--epochs", 1, "--trials", 1, "--out", "study"]
    assert run("tune", odd_clicks, *flags, *SPACE)[0] == 0
    for other, says in (
        (["--set", "optim.zeta=1e-4", *SPACE], "optim.zeta = 1e-05, not 0.0001"),
        (["--search", "model.embedding_dim=2..8"], "the space of model.embedding_dim = 2..6, not 2..8"),
        (["--epochs", 2, *SPACE], "train.epochs = 1, not 2"),
    ):
        code, _, err = run("tune", odd_clicks, *flags, *other)
        assert code == 2
        assert says in err, err
        assert "--out" in err


def test_diverged_trials_are_finished_and_never_the_best(run: Run, odd_clicks: Path) -> None:
    rates = ["--search", "optim.learning_rate=4e-3|1e37", "--set", "optim.warmup_epochs=0"]
    code, out, err = run("tune", odd_clicks, *FAST, *rates, "--epochs", 1, "--trials", 6, "--out", "study", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["trials"]["finished"] == 6
    assert result["trials"]["diverged"] > 0
    assert result["best"]["settings"]["optim.learning_rate"] == 4e-3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--search", "optim.learnin_rate=1e-4..1e-2"], ["optim.learnin_rate", "Did you mean 'learning_rate'"]),
        (["--space", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--pruner", "medain"], ["medain", "Did you mean 'median'"]),
        (["--storage", "nonsense"], ["--storage", "postgresql://"]),
        (["--storage", "sqlite:////nowhere/study.db"], ["cannot open the study's storage"]),
        (["--set", "data.valid_fraction=0"], ["validation rows", "--valid"]),
        (["--out", "taken"], ["taken", "other things"]),
        (["--model", "deepfn"], ["deepfn", "deepfm"]),
    ],
)
def test_mistakes_end_with_2_and_say_what_is_valid(
    run: Run, odd_clicks: Path, arguments: list[Any], says: list[str]
) -> None:
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    code, out, err = run("tune", odd_clicks, *FAST, "--epochs", 1, "--trials", 1, *arguments)
    assert code == 2, err
    assert out == ""
    for word in says:
        assert word in err, err


def test_without_optuna_the_extra_is_named(run: Run, odd_clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clickherd.tune", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run("tune", odd_clicks, *FAST)
    assert code == 2
    assert "pip install 'clickherd[tune]'" in err
