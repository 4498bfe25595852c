"""Calibration: probabilities come true on rows that it was not learned from, and it goes with the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clickherd import CTRClassifier, load, metrics
from clickherd.calibrate import fit
from clickherd.calibration import Method

Run = Callable[..., tuple[int, str, str]]
METHODS = [method for method in get_args(Method) if method != "none"]
FAST = ["--label", "Clicked?", "--epochs", 3, "--set", "model.mlp.hidden_units=[8]", "--rule", "none", "--threads", 1]


def overconfident(num_rows: int, seed: int) -> tuple[Any, Any]:
    """Labels, and probabilities whose logits are three times too large and moved by one."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1, num_rows)
    y_true = (rng.random(num_rows) < 1 / (1 + np.exp(-z))).astype(np.float32)
    return y_true, 1 / (1 + np.exp(-(3 * z + 1)))


@pytest.mark.parametrize("method", METHODS)
def test_a_miscalibrated_model_gets_better_on_held_out_rows(method: Method) -> None:
    calibration = fit(method, *overconfident(20_000, 0))
    assert calibration is not None
    y_true, y_score = overconfident(20_000, 1)
    better = calibration.apply(y_score)
    assert metrics.ece(y_true, better) < 0.5 * metrics.ece(y_true, y_score)
    assert metrics.logloss(y_true, better) < metrics.logloss(y_true, y_score) - 0.05
    assert metrics.auc(y_true, better) == pytest.approx(
        metrics.auc(y_true, y_score), abs=0 if method != "isotonic" else 2e-3
    )


def test_platt_finds_the_slope_and_the_intercept_that_undo_the_fault() -> None:
    found = fit("platt", *overconfident(200_000, 0))
    assert found is not None
    assert found.method == "platt"
    assert found.slope == pytest.approx(1 / 3, abs=0.01)
    assert found.intercept == pytest.approx(-1 / 3, abs=0.02)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(METHODS),
    arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1)),
    st.integers(0, 2**32 - 1),
    arrays(np.float64, 20, elements=st.floats(0, 1)),
)
def test_any_labels_and_scores_give_probabilities_in_the_same_order(
    method: Method, y_score: Any, seed: int, new: Any
) -> None:
    y_true = np.random.default_rng(seed).integers(0, 2, len(y_score)).astype(np.float32)
    calibration = fit(method, y_true, y_score)
    assert calibration is not None
    out = calibration.apply(np.sort(new))
    assert ((out >= 0) & (out <= 1)).all()
    assert (np.diff(out) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_keeps_its_calibration_and_applies_it_everywhere(run: Run, odd_clicks: Path, method: Method) -> None:
    shared = ["train", odd_clicks, *FAST, "--json"]
    assert run(*shared, "--out", "plain", "--no-report")[0] == 0
    code, out, err = run(*shared, "--out", "run", "--set", f"train.calibration={method}")
    assert code == 0, err
    result = json.loads(out)
    kept = json.loads(Path("run/calibration.json").read_text())
    assert kept["method"] == method
    plain = load("plain").predict_proba(str(odd_clicks))
    trained = load("run")
    assert trained.model.calibration is not None
    expected = trained.model.calibration.apply(plain)
    assert not np.allclose(expected, plain, atol=1e-4)
    np.testing.assert_allclose(trained.predict_proba(str(odd_clicks)), expected, rtol=1e-12)
    frame = pl.read_csv(odd_clicks).drop("Clicked?")
    np.testing.assert_allclose(CTRClassifier.load("run").predict_proba(frame)[:, 1], expected, rtol=1e-12)
    assert run("predict", "run", odd_clicks, "--out", "p.csv")[0] == 0
    np.testing.assert_allclose(pl.read_csv("p.csv")["click_probability"], expected, rtol=1e-12)
    assert run("evaluate", "run", odd_clicks, "--json")[0] == 0
    assert f"Probabilities are calibrated ({method})" in Path("run/report.html").read_text(encoding="utf-8")
    before = json.loads(Path("plain/metrics.json").read_text())
    assert result["valid"]["logloss"] < before["valid"]["logloss"]
    if method != "isotonic":
        assert result["test"]["auc"] == before["test"]["auc"]


def test_a_folder_and_its_settings_must_agree_on_the_calibration(run: Run, odd_clicks: Path) -> None:
    shared = ["train", odd_clicks, *FAST, "--no-report"]
    assert run(*shared, "--out", "run", "--set", "train.calibration=platt")[0] == 0
    file, config = Path("run/calibration.json"), Path("run/config.yaml")
    whole, written = file.read_text(), config.read_text()
    for text, says in (
        ("{", "damaged"),
        ('{"method": "platt", "slope": -1}', "damaged"),
        ('{"method": "isotonic", "scores": [0.1, 0.2], "probabilities": [0.3]}', "damaged"),
        ('{"method": "temperature", "slope": 1}', "of temperature, the settings say train.calibration = platt"),
    ):
        file.write_text(text)
        code, _, err = run("predict", "run", odd_clicks, "--out", "p.csv")
        assert code == 2
        assert says in err
    file.unlink()
    assert "is missing" in run("predict", "run", odd_clicks, "--out", "p.csv")[2]
    file.write_text(whole)
    config.write_text(written.replace("calibration: platt", "calibration: none"))
    assert "do not know" in run("predict", "run", odd_clicks, "--out", "p.csv")[2]
    file.unlink()  # as in a run of before there was such a setting
    config.write_text(written.replace("  calibration: platt\n", ""))
    assert run("predict", "run", odd_clicks, "--out", "p.csv")[0] == 0


def test_without_validation_rows_there_is_nothing_to_learn_it_from(run: Run, odd_clicks: Path) -> None:
    flags = ["--set", "train.calibration=platt", "--set", "data.valid_fraction=0", "--out", "run"]
    code, _, err = run("train", odd_clicks, *FAST, *flags)
    assert code == 2
    assert "train.calibration = platt, but there are no validation rows" in err
    assert not Path("run").exists()
    pl.read_csv(odd_clicks).filter(pl.col("Clicked?") == 1).write_csv("ones.csv")
    flags = ["--set", "train.calibration=platt", "--valid", "ones.csv", "--out", "run"]
    code, _, err = run("train", odd_clicks, *FAST, *flags)
    assert code == 2
    assert "all validation rows have the label 1" in err
    code, _, err = run("train", odd_clicks, *FAST, "--set", "train.calibration=plat", "--out", "run")
    assert code == 2
    assert "temperature" in err


def test_the_estimator_calibrates_saves_and_loads(odd_clicks: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(odd_clicks)
    X, y = frame.drop("Clicked?"), frame["Clicked?"].to_numpy()
    own = {"train": {"calibration": "temperature"}, "model": {"mlp": {"hidden_units": [8]}}}
    model = CTRClassifier(epochs=2, rule="none", settings=own, threads=1).fit(X, y)
    assert model.model_.calibration is not None
    model.save(tmp_path / "saved")
    again = CTRClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="no validation rows"):
        CTRClassifier(epochs=2, settings=own, valid_fraction=0.0).fit(X, y)
    with pytest.raises(ValueError, match="no validation rows"):
        CTRClassifier(epochs=2, settings=own).partial_fit(X, y)
