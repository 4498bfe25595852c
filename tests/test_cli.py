"""The command line as a user meets it: what it prints, what it leaves on disk, how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from clickherd import CTRClassifier, load
from clickherd.checkpoint import load as load_tensors

Run = Callable[..., tuple[int, str, str]]
SMALL = ["--set", "model.mlp.hidden_units=[16]", "--set", "data.min_count=1"]


def log(num_rows: int = 1200, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 40, num_rows), rng.integers(0, 30, num_rows)
    taste = np.random.default_rng(9).standard_normal((40, 30))
    click = rng.random(num_rows) < 1 / (1 + np.exp(-2 * taste[user, item]))
    return pl.DataFrame(
        {
            "clicked": click.astype(int),
            "user_id": user,
            "item": [f"i{i}" for i in item],
            "price": rng.lognormal(1, 1, num_rows).round(3),
            "tags": rng.choice(["a|b", "b", "c|a"], num_rows),
        }
    )


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.csv"
    log().write_csv(path)
    return path


def test_train_prints_exactly_the_json_of_the_design(run: Run, clicks: Path, tmp_path: Path) -> None:
    code, out, err = run("train", clicks, "--label", "clicked", "--epochs", 2, "--out", "run", "--json", *SMALL)
    assert code == 0, err
    result = json.loads(out)
    assert list(result) == [
        "model",
        "rows",
        "batch_size",
        "epochs",
        "best_epoch",
        "valid",
        "test",
        "seconds",
        "samples_per_second",
        "peak_rss_mib",
        "run",
    ]
    assert list(result["rows"]) == ["train", "valid", "test"]
    assert sum(result["rows"].values()) == 1200
    assert list(result["test"]) == ["auc", "logloss", "gauc", "ne", "calibration"]
    assert list(result["seconds"]) == ["encode", "train", "evaluate"]
    assert result["test"]["gauc"] is not None  # user_id groups rows by itself
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == result
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "metrics.json",
        "model.safetensors",
        "encoder",
        "checkpoint",
        "report.html",
    }
    for role in ("user_id categorical", "price numeric", "tags multi"):
        assert role in err


def test_a_second_run_reuses_the_store_and_repeats_the_first_bit_for_bit(run: Run, clicks: Path) -> None:
    results = []
    for name in ("one", "two"):
        code, out, err = run(
            "train", clicks, "--label", "clicked", "--epochs", 2, "--out", name, "--json", "--no-report", *SMALL
        )
        assert code == 0
        assert ("reusing" in err) == (name == "two")
        results.append(json.loads(out))
    assert results[0]["test"] == results[1]["test"]
    one, two = (load_tensors(Path(name) / "model.safetensors")[0] for name in ("one", "two"))
    assert all((one[name] == two[name]).all() for name in one)


def test_new_files_may_be_written_in_another_way(run: Run, clicks: Path, tmp_path: Path) -> None:
    run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    frame = pl.read_csv(clicks)
    frame.write_csv(tmp_path / "odd.csv", separator="^")
    assert run("predict", "run", clicks, "--out", "a.csv")[0] == 0
    code, _, err = run("predict", "run", "odd.csv", "--out", "b.csv", "--set", "data.separator=^")
    assert code == 0, err
    assert Path("a.csv").read_text() == Path("b.csv").read_text()
    assert run("evaluate", "run", "odd.csv", "--set", "data.separator=^", "--json")[0] == 0
    for setting, named in (("optim.l2=1", "optim"), ("data.min_count=3", "data.min_count")):
        code, _, err = run("predict", "run", clicks, "--out", "c.csv", "--set", setting)
        assert code == 2
        assert f"does not take {named}" in err


def test_crossed_columns_are_asked_for_in_a_flag_and_go_with_the_run(run: Run, clicks: Path, tmp_path: Path) -> None:
    flags = ["--label", "clicked", "--epochs", 1, "--no-report", *SMALL]
    code, _, err = run("train", clicks, "--cross", "user_id*item", "--out", "run", *flags)
    assert code == 0, err
    assert "user_id*item categorical crossed" in err
    assert run("predict", "run", clicks, "--out", "p.csv")[0] == 0
    code, _, err = run("train", clicks, "--cross", "user_id*itme", *flags)
    assert code == 2
    assert "Did you mean 'item'?" in err


def test_predict_and_evaluate_need_only_the_run_folder(run: Run, clicks: Path, tmp_path: Path) -> None:
    run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    clicks.unlink()
    new = log(100, seed=5).with_columns(item=pl.when(pl.col("price") > 3).then(pl.lit("new")).otherwise("item"))
    new.drop("clicked").write_parquet("new.parquet")
    new.write_parquet("labelled.parquet")
    code, _, err = run("predict", moved, "new.parquet", "--out", "p.csv")
    assert code == 0
    assert f"item {(new['item'] == 'new').sum()}" in err
    predicted = pl.read_csv("p.csv")["click_probability"].to_numpy()
    np.testing.assert_allclose(predicted, load(moved).predict_proba(new.drop("clicked")), rtol=1e-12)
    code, out, _ = run("evaluate", moved, "labelled.parquet", "--json")
    scores = json.loads(out)
    assert {"auc", "logloss", "gauc", "ne", "calibration", "ece", "unseen"} <= set(scores)
    assert scores["unseen"]["item"] == (new["item"] == "new").sum()


def test_the_resolved_config_repeats_the_run(run: Run, clicks: Path) -> None:
    _, first, _ = run(
        "train", clicks, "--label", "clicked", "--epochs", 1, "--out", "a", "--json", "--no-report", *SMALL
    )
    code, again, _ = run("train", "--recipe", "a/config.yaml", "--out", "b", "--json", "--no-report")
    assert code == 0
    assert json.loads(again)["test"] == json.loads(first)["test"]


def test_report_is_written_again(run: Run, clicks: Path) -> None:
    run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    assert not Path("run/report.html").exists()
    code, out, _ = run("report", "run")
    assert code == 0
    assert "<html" in Path(out.strip()).read_text(encoding="utf-8")


def test_the_report_tells_what_was_left_out_unknown_and_why_training_ended(run: Run, clicks: Path) -> None:
    data = log().with_columns(
        same=pl.lit("x"),
        void=pl.lit(None, dtype=pl.String),
        spare=pl.col("price"),
        item=pl.when(pl.int_range(1200) < 1000).then("item").otherwise(pl.lit("late")),
    )
    data[:1000].write_csv("train.csv")
    data[1000:].write_csv("valid.csv")
    few = ["--epochs", 50, "--set", "train.patience=1", "--role", "spare=ignored", "--batch-size", 256]
    code, out, err = run(
        "train", "train.csv", "--valid", "valid.csv", "--label", "clicked", *few, "--json", "--out", "run", *SMALL
    )
    assert code == 0, err
    stopped = json.loads(out)["epochs"]
    assert 1 < stopped < 50
    written = Path("run/report.html").read_text(encoding="utf-8")
    for told in (
        f"Training stopped after epoch {stopped} of at most 50: no better validation score for one epoch.",
        "Not used as features: same (every row has the same value).",
        "Not used as features: void (every value is missing).",
        "Not used as features: spare (as set).",
        "200 <small>values</small>",  # item, late in every validation row
        "within epochs",
    ):
        assert told in written
    assert "Clipped gradients" not in written
    run("report", "run")
    assert Path("run/report.html").read_text(encoding="utf-8") == written


def test_a_run_that_clips_shows_how_much(run: Run, clicks: Path) -> None:
    for clip in ("1e-4", "1e4"):  # the clip takes many rows, or none: then there is nothing to draw
        flags = ["--rule", "cowclip", "--set", f"optim.clip={clip}", "--epochs", 2, "--out", clip, *SMALL]
        assert run("train", clicks, "--label", "clicked", *flags)[0] == 0
        drawn = "Clipped gradients" in Path(clip, "report.html").read_text(encoding="utf-8")
        assert drawn == (clip == "1e-4")


def test_other_labels_take_positive(run: Run) -> None:
    log().with_columns(
        clicked=pl.when(pl.col("clicked") == 1).then(pl.lit(">50K")).otherwise(pl.lit("<=50K"))
    ).write_csv("income.csv")
    code, _, err = run("train", "income.csv", "--label", "clicked", "--out", "run")
    assert code == 2
    assert ">50K" in err
    assert "<=50K" in err
    assert "--positive" in err
    code, _, err = run(
        "train", "income.csv", "--label", "clicked", "--positive", ">50K", "--epochs", 1, "--out", "run", *SMALL
    )
    assert code == 0, err


def test_labels_to_evaluate_are_those_of_training_and_the_advice_says_so(run: Run, clicks: Path) -> None:
    run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    new = log(100, seed=5)
    new.rename({"clicked": "click"}).write_csv("renamed.csv")
    new.with_columns(clicked=pl.when(pl.col("clicked") == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))).write_csv(
        "words.csv"
    )
    for file, says in (("renamed.csv", "Did you mean 'click'"), ("words.csv", "'no', 'yes'")):
        code, _, err = run("evaluate", "run", file)
        assert code == 2
        assert file in err
        assert says in err
        assert "'clicked' with 0 and 1" in err
        assert "--" not in err  # evaluate has no option for it


def test_a_positive_label_that_is_missing_in_rows_to_evaluate_is_named(run: Run) -> None:
    words = pl.when(pl.col("clicked") == 1)
    log().with_columns(clicked=words.then(pl.lit("yes")).otherwise(pl.lit("no"))).write_csv("words.csv")
    log(100).with_columns(clicked=words.then(pl.lit("y")).otherwise(pl.lit("n"))).write_csv("letters.csv")
    few = ["--label", "clicked", "--positive", "yes", "--epochs", 1, "--out", "run", "--no-report", *SMALL]
    assert run("train", "words.csv", *few)[0] == 0
    code, _, err = run("evaluate", "run", "letters.csv")
    assert code == 2
    assert "found 'n', 'y'" in err
    assert "'clicked' with 'no', 'yes' ('yes' is a click)" in err.replace("'yes', 'no'", "'no', 'yes'")
    assert "--" not in err


def write(text: str | bytes) -> Path:
    path = Path("bad.csv")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


GOOD = "clicked,item,price\n" + "".join(f"{i % 2},i{i % 7},{i}.5\n" for i in range(200))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, ["bad.csv"]),
        ("", ["bad.csv", "empty"]),
        ("clicked,item\n", ["bad.csv", "row"]),
        (GOOD.replace("clicked", "klicked"), ["clicked", "klicked", "--label"]),
        (GOOD.replace("\n1,", "\n2,"), ["clicked", "--positive", "0", "2"]),
        (GOOD.replace("\n1,", "\n0,"), ["clicked", "all training rows have the label 0"]),
        (GOOD + "1,i3\n", ["bad.csv", "line 202"]),
        (GOOD + "1,i3,4,5\n", ["bad.csv", "line 202"]),
        (GOOD + "1,i3,inf\n", ["price", "inf", "bad.csv"]),
        (GOOD + "1,i3,nan\n", ["price", "nan", "bad.csv"]),
        (GOOD.replace("item", "price"), ["price", "same name"]),
        (GOOD.encode() + b"1,\xff\xfe,3\n", ["bad.csv", "line 202", "UTF-8"]),
        (GOOD + ",i3,4\n", ["clicked", "bad.csv", "row 201"]),
        ("clicked,item\n" + "0,x\n1,x\n" * 50, ["item", "same value"]),
    ],
    ids=[
        "missing-file",
        "empty-file",
        "header-only",
        "no-label-column",
        "labels-not-0-1",
        "one-class",
        "short-row",
        "long-row",
        "infinity",
        "nan",
        "duplicate-column",
        "not-utf8",
        "missing-label",
        "nothing-to-learn-from",
    ],
)
def test_bad_rows_end_with_2_and_say_where(run: Run, text: str | bytes | None, says: list[str]) -> None:
    path = Path("bad.csv") if text is None else write(text)
    code, out, err = run("train", path, "--label", "clicked", "--out", "run", *SMALL)
    assert code == 2, err
    assert out == ""
    for word in says:
        assert word.lower() in err.lower(), err
    assert not Path("run").exists()


@pytest.mark.parametrize(("text", "role"), [("nan", None), ("NaN", None), (" inf", None), ("it's", "price=numeric")])
def test_the_advice_for_a_missing_value_in_other_words_works_as_printed(run: Run, text: str, role: str | None) -> None:
    path = write(GOOD + f"1,i3,{text}\n0,NULL,\\N\n1,,N/A\n")
    flags = ["--label", "clicked", "--epochs", 1, "--no-report", *SMALL, *(["--role", role] if role else [])]
    code, _, err = run("train", path, *flags)
    assert code == 2
    words = shlex.split(err[err.index("--set") : err.index(" if it means missing")])
    code, _, err = run("train", path, *flags, "--out", "run", *words)
    assert code == 0, err
    encoder = load("run").encoder
    assert set(encoder.embedded["item"].values) == {f"i{i}" for i in range(7)}  # NULL and the rest still mean missing
    code, _, err = run("predict", "run", write(GOOD + "1,i3,infinity\n"), "--out", "p.csv")
    assert code == 2
    assert "infinity" not in str(encoder.reading.null_values)
    assert "--set" not in err  # predict has no option for it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "deepfn"], ["deepfn", "deepfm", "dcnv2"]),
        (["--rule", "cowclap"], ["cowclip", "n2-lambda"]),
        (["--set", "optim.l22=1"], ["optim.l22", "l2", "zeta"]),
        (["--set", "train.batch_size=-1"], ["train.batch_size", "-1"]),
        (["--set", "nonsense"], ["nonsense", "group.name=value"]),
        (["--role", "prize=numeric"], ["prize", "price"]),
        (["--role", "price=number"], ["price", "number", "numeric"]),
        (["--recipe", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--out", "taken"], ["taken", "already exists"]),
        (["--test", "nowhere.parquet"], ["nowhere.parquet"]),
    ],
)
def test_bad_settings_end_with_2_and_list_what_is_valid(
    run: Run, clicks: Path, arguments: list[str], says: list[str]
) -> None:
    Path("taken").mkdir()
    code, _, err = run("train", clicks, "--label", "clicked", *arguments)
    assert code == 2, err
    for word in says:
        assert word in err, err
    assert list(Path("taken").iterdir()) == []


def test_a_type_that_changes_between_files_is_named(run: Run) -> None:
    log(300).write_csv("a.csv")
    log(300).with_columns(price=pl.lit("cheap")).write_csv("b.csv")
    code, _, err = run("train", "a.csv", "b.csv", "--label", "clicked", "--out", "run")
    assert code == 2
    for word in ("b.csv", "price", "cheap"):
        assert word in err


def test_a_column_missing_at_prediction_is_named(run: Run, clicks: Path) -> None:
    run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    log(10).drop("price").write_csv("new.csv")
    code, _, err = run("predict", "run", "new.csv", "--out", "p.csv")
    assert code == 2
    assert "price" in err
    assert not Path("p.csv").exists()


def test_constant_and_empty_columns_are_left_out_with_a_note(run: Run) -> None:
    log().with_columns(same=pl.lit("x"), void=pl.lit(None, dtype=pl.String)).write_csv("more.csv")
    code, _, err = run("train", "more.csv", "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    assert code == 0
    assert "same ignored" in err
    assert "void ignored" in err
    code, _, err = run("train", "more.csv", "--label", "clicked", "--role", "same=categorical", "--out", "run2")
    assert code == 2
    assert "same" in err


def test_evaluate_of_no_run_folder_says_so(run: Run, clicks: Path) -> None:
    code, _, err = run("evaluate", "nowhere", clicks)
    assert code == 2
    assert "nowhere" in err


def train_in_background(clicks: Path, out: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "clickherd",
        "train",
        str(clicks),
        "--label",
        "clicked",
    ]
    command += ["--epochs", "6", "--batch-size", "64", "--out", out, "--no-report", *SMALL]
    command += ["--set", "train.patience=null", "--set", "train.checkpoint_seconds=0.001"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_resumes_to_the_identical_weights(run: Run, number: signal.Signals) -> None:
    log(20_000).write_csv("long.csv")
    whole = train_in_background(Path("long.csv"), "whole")
    assert whole.wait() == 0
    cut = train_in_background(Path("long.csv"), "cut")
    deadline = time.monotonic() + 60
    while not Path("cut/metrics.jsonl").exists():  # the first epoch is done, the second runs
        assert cut.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(cut.pid, number)
    assert cut.wait() == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert not Path("cut/metrics.json").exists()
    code, _, err = run("train", "--resume", "cut", "--no-report")
    assert code == 0
    assert "resuming" in err
    expected, got = (load_tensors(Path(name) / "model.safetensors")[0] for name in ("whole", "cut"))
    assert all((expected[name] == got[name]).all() for name in expected)
    final, resumed = (load_tensors(Path(name) / "checkpoint" / "state.safetensors")[0] for name in ("whole", "cut"))
    assert all((final[name] == resumed[name]).all() for name in final)
    assert (
        json.loads(Path("whole/metrics.json").read_text())["test"]
        == json.loads(Path("cut/metrics.json").read_text())["test"]
    )


def test_changed_rows_are_not_resumed_or_reported(run: Run, clicks: Path) -> None:
    run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    log().with_columns(clicked=1 - pl.col("clicked")).write_csv(clicks)  # same columns, same values, other labels
    for arguments in (["train", "--resume", "run"], ["report", "run"]):
        code, _, err = run(*arguments)
        assert code == 2
        assert "not those that the run began with" in err


def test_a_run_resumes_from_any_folder(run: Run, clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("train", clicks.name, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    code, _, err = run("train", "--resume", "../run", "--no-report")
    assert code == 0, err


def test_brackets_in_names_are_shown_as_they_are(run: Run) -> None:
    for name in ("logs[/old].csv", "logs[ab].csv"):
        code, _, err = run("train", name, "--label", "clicked")
        assert code == 2
        assert name in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "gpu"], ["train.device", "gpu"]),
        (["--recipe", "."], ["recipe"]),
        (["--set", "model.name=[a]"], ["unknown model"]),
        (["--set", "model=dcm"], ["dcm", "dcnv2"]),
        (["--out", "clicks.csv/run"], ["clicks.csv/run"]),
        (["--set", "train.mask={itme: 0.5}", "--out", "run"], ["train.mask", "Did you mean 'item'?"]),
        (["--model", "finalmlp", "--set", "model.context=[itme]", "--out", "run"], ["context", "Did you mean 'item'?"]),
    ],
)
def test_more_mistakes_end_with_2_and_leave_nothing(
    run: Run, clicks: Path, arguments: list[str], says: list[str]
) -> None:
    before = {path.name for path in Path().iterdir()}
    code, _, err = run("train", clicks, "--label", "clicked", *arguments)
    assert code == 2, err
    assert all(word in err for word in says), err
    assert {path.name for path in Path().iterdir()} - {"cache", "runs"} == before


def test_describe_names_odd_values_and_says_when_it_counts_a_sample(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = log().with_columns(pl.col("price").cast(pl.String), price2=pl.lit("x"))
    frame = frame.with_columns(price=pl.when(pl.int_range(1200) == 700).then(pl.lit("n/a?")).otherwise("price"))
    for file in ("few.csv", "few.parquet"):
        frame.write_csv(file) if file.endswith("csv") else frame.write_parquet(file)
        for rows, told in ((1200, False), (1199, True)):
            monkeypatch.setattr("clickherd.data.describe.SAMPLE_ROWS", rows)
            code, out, err = run("data", "describe", file, "--label", "clicked")
            assert code == 0, err
            words = "".join(out.replace("│", " ").split())
            assert "'n/a?'" in words
            assert ("therearemore" in words) == told


def test_bench_holds_training_against_its_matrix_products(run: Run) -> None:
    flags = ["--rows", 4096, "--ids", 5000, "--batch-size", 512, "--batch-size", 1024, "--json", *SMALL[:2]]
    code, out, err = run("bench", "--model", "dcnv2", *flags)
    assert code == 0, err
    results = json.loads(out)["results"]
    assert [(r["model"], r["batch_size"]) for r in results] == [("dcnv2", 512), ("dcnv2", 1024)]
    for record in results:
        assert record["rows_per_second"] > 0
        assert record["share"] == pytest.approx(
            record["rows_per_second"] / record["products_rows_per_second"], abs=1e-3
        )
    assert "cores" in err
    assert "dcnv2, products in" in err


def test_an_interruption_before_training_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clickherd.runs.prepare_sources", interrupted)
    code, _, err = run("train", "clicks.csv", "--label", "clicked")
    assert code == 130
    assert "interrupted" in err


def test_bench_of_a_network_without_products_and_with_settings_it_does_not_take(run: Run) -> None:
    code, out, err = run("bench", "--model", "lr", "--rows", 2048, "--ids", 5000, "--batch-size", 512, "--json")
    assert code == 0, err
    (record,) = json.loads(out)["results"]
    assert record["rows_per_second"] > 0
    assert record["share"] is record["products_rows_per_second"] is None
    for setting in ("train.batch_size=64", "train.device=cuda"):
        code, _, err = run("bench", "--set", setting)
        assert code == 2
        assert setting.partition("=")[0] in err
    assert run("bench", "--model", "deepfn")[0] == 2


def test_bf16_products_hardly_move_the_scores(run: Run, clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # slow elsewhere, but the same
    scores = []
    for precision in ("fp32", "bf16"):
        flags = ["--epochs", 3, "--out", precision, "--no-report", "--json", *SMALL]
        code, out, err = run("train", clicks, "--label", "clicked", *flags, "--set", f"train.precision={precision}")
        assert code == 0, err
        scores.append(json.loads(out)["test"]["auc"])
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_a_run_in_bf16_goes_on_where_there_are_no_units_for_it(
    run: Run, clicks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    code, _, err = run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report", *SMALL)
    assert code == 0, err
    assert "precision: bf16" in Path("run/config.yaml").read_text()
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    code, _, err = run("train", "--resume", "run", "--no-report")
    assert code == 0, err
    assert "going on in fp32" in err
    assert CTRClassifier.load("run").config_.train.precision == "fp32"


def test_predictions_do_not_replace_the_rows_that_they_are_for(run: Run, clicks: Path) -> None:
    code, _, err = run("train", clicks, "--label", "clicked", "--epochs", 1, "--out", "run", "--no-report")
    assert code == 0, err
    before = clicks.read_bytes()
    Path("logs").mkdir()
    Path("logs/day.csv").write_bytes(before)
    for data, out in ((clicks, clicks), ("*.csv", clicks), ("logs", "logs/day.csv")):
        code, _, err = run("predict", "run", data, "--out", out)
        assert code == 2
        assert "would replace the rows" in err.replace("\n", " ")
    assert clicks.read_bytes() == Path("logs/day.csv").read_bytes() == before


def test_labels_that_training_did_not_have_are_told(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"label": rng.choice(["yes", "no"], 400), "site": rng.choice(["a", "b"], 400)})
    frame.write_csv("log.csv")
    code, _, err = run("train", "log.csv", "--label", "label", "--positive", "yes", "--epochs", 1, "--out", "run")
    assert code == 0, err
    frame.with_columns(pl.when(pl.int_range(400) == 7).then(pl.lit("Yes")).otherwise("label").alias("label")).write_csv(
        "odd.csv"
    )
    code, _, err = run("evaluate", "run", "odd.csv")
    assert code == 2
    assert "training had no label 'Yes'" in err.replace("\n", " ")
    assert "line 9" in err.replace("\n", " ")
    frame.filter(pl.col("label") == "no").write_csv("none.csv")
    code, _, err = run("evaluate", "run", "none.csv")
    assert code == 0, err


def test_small_mistakes_are_told_apart(run: Run, clicks: Path) -> None:
    Path("folder").mkdir()
    for more, said in (
        (["--out", "folder"], "something that is no run already exists there"),
        (["--device", "gpu"], "it is cpu, cuda or cuda:N"),
    ):
        code, _, err = run("train", clicks, "--label", "clicked", *more)
        assert code == 2
        assert said in err.replace("\n", " ")
    pl.DataFrame({"clicked": [0, 1] * 50, "price": ["96,82", "1.003,50"] * 50}).write_csv("comma.csv", separator=";")
    code, _, err = run("train", "comma.csv", "--label", "clicked", "--role", "price=numeric")
    assert code == 2
    assert "decimal point" in err.replace("\n", " ")
