import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from clickherd.report import FieldImportance, ReportData, write_report
from clickherd.report.curves import Ranking, thin, thin_evenly, wilson

VOID = {"meta", "link", "br", "hr", "img"}


class Page(HTMLParser):
    """A report as a reader's browser sees it: visible text, tags, attributes; fails on tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.labels, self.addresses, self.ids, self.open = "", [], [], [], []
        self.charts: list[list[float]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "svg" and "aria-label" in facts:
            self.labels.append(facts["aria-label"])
        self.addresses += [facts[key] for key in ("href", "src", "xlink:href") if key in facts]
        self.ids += [facts["id"]] if "id" in facts else []
        assert tag != "script"
        assert not any(key.startswith("on") for key in facts)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data.replace("\u00a0", " ")


def clicks(rows: int, rate: float = -2.5, bias: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the logits, and scores that are the logits' own probabilities shifted by `bias`."""
    rng = np.random.default_rng(seed)
    logit = rate + rng.standard_normal(rows)
    y_true = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return y_true, (1 / (1 + np.exp(-logit - bias))).astype(np.float32)


def run(y_true: np.ndarray, y_score: np.ndarray, **over: object) -> ReportData:
    """A run of three epochs, the second one best."""
    valid = [{"auc": auc, "logloss": loss} for auc, loss in ((0.70, 0.31), (0.74, 0.29), (0.73, 0.30))]
    history = [
        {
            "epoch": epoch,
            "train_loss": 0.4 - 0.05 * epoch,
            "valid": scores,
            "samples_per_second": 250_000.0,
            "clipped_fraction": 0.2 / epoch,
            "seconds": 4.0,
        }
        for epoch, scores in enumerate(valid, start=1)
    ]
    data = ReportData(
        title="Ads",
        run="runs/ads",
        model="deepfm",
        config_yaml="model:\n  name: deepfm\n",
        scores={"valid": {"auc": 0.74, "logloss": 0.29}, "test": {"auc": 0.7312, "logloss": 0.2911, "gauc": None}},
        history=history,
        losses=[(step, 0.4 - step / 1000) for step in range(1, 91)],
        y_true=y_true,
        y_score=y_score,
        judged_on="test",
        importance=[FieldImportance("site", 0.05, 0.002, 0.01), FieldImportance("hour", -0.001, 0.001, -0.0001)],
        profile={
            "rows": {"train": 800, "test": 100},
            "positive_rate": {"train": 0.1, "test": 0.11},
            "columns": {"site": {"role": "categorical", "distinct": 40, "missing": 0.25, "top": [("news", 321)]}},
        },
        unseen={"site": 7, "city": 3},
        summary={
            "rows": {"train": 1_000_000, "valid": 1, "test": len(y_true)},
            "batch_size": 65_536,
            "epochs": 3,
            "best_epoch": 2,
            "seconds": {"encode": 1.0, "train": 192.0, "evaluate": 0.5},
            "samples_per_second": 250_000.0,
            "peak_rss_mib": 2048.0,
        },
        best_possible=None,
        notes=["A note of the run."],
        machine="4 cores",
    )
    return replace(data, **over)


def page(tmp_path: Path, data: ReportData) -> Page:
    write_report(tmp_path / "report.html", data)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_report_is_complete_in_itself_and_has_every_part(tmp_path: Path) -> None:
    shown = page(tmp_path, run(*clicks(20_000)))
    assert all(address.startswith(("#", "data:")) for address in shown.addresses)
    assert {address[1:] for address in shown.addresses if len(address) > 1 and address[0] == "#"} <= set(shown.ids)
    assert len(shown.ids) == len(set(shown.ids))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", html)
    assert not re.search(r"#0(?P<n>\d)0(?P=n)0(?P=n)", html)  # every stand-in became a colour of the page's theme
    assert {"training", "ranking", "calibration", "targeting", "fields", "data", "settings"} <= set(shown.ids)
    assert len(shown.labels) == 10
    for told in ("Ads", "0.7312", "0.2911", "250 k", "3 min 12 s", "Epoch 2 of 3", "A note of the run.", "4 cores"):
        assert told in shown.text
    for told in ("name: deepfm", "news", "321", "25.0%", "city", "hour"):
        assert told in shown.text


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    data = run(*clicks(3_000))
    write_report(tmp_path / "a.html", data)
    write_report(tmp_path / "b.html", data)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("bias", "verdict"), [(0.0, "Well calibrated"), (0.6, "Over-predicts by"), (-0.6, "Under-predicts by")]
)
def test_calibration_in_words(tmp_path: Path, bias: float, verdict: str) -> None:
    assert verdict in page(tmp_path, run(*clicks(60_000, bias=bias))).text


def test_scores_that_average_out_but_are_too_extreme_are_told(tmp_path: Path) -> None:
    y_true, _ = clicks(60_000, rate=0.0)
    y_score = np.where(clicks(60_000, rate=0.0)[1] > 0.5, 0.97, 0.03).astype(np.float32)
    assert "not throughout" in page(tmp_path, run(y_true, y_score)).text


def test_the_best_reachable_scores_are_set_beside(tmp_path: Path) -> None:
    y_true, y_score = clicks(20_000)
    shown = page(tmp_path, run(y_true, y_score, best_possible={"auc": 0.7702, "logloss": 0.28})).text
    assert f"{100 * (0.7312 - 0.5) / (0.7702 - 0.5):.0f}% of the way from guessing’s 0.5" in shown
    assert "best reachable, 0.2800" in shown


def test_names_and_settings_are_shown_as_text_not_markup(tmp_path: Path) -> None:
    nasty = "<script>alert('$x_1$')</script>"
    data = run(
        *clicks(500),
        title=nasty,
        config_yaml=nasty,
        importance=[FieldImportance(nasty, 0.1, 0.0, 0.1), FieldImportance("地区", 0.05, 0.0, 0.1)],
        profile={"columns": {nasty: {"top": [(nasty, 1)]}}},
    )
    shown = page(tmp_path, data)
    assert shown.text.count(nasty) >= 5
    assert "地区" in shown.text


NOTHING = np.empty(0, np.float32)
EDGES = {
    "a dozen rows": (*clicks(12, rate=0.0), "mostly chance"),
    "one click": (np.eye(1, 300, 7, dtype=np.float32)[0], clicks(300)[1], "a single click"),
    "no click": (np.zeros(300, np.float32), clicks(300)[1], "ranking cannot be judged"),
    "only clicks": (np.ones(300, np.float32), clicks(300)[1], "ranking cannot be judged"),
    "one score": (clicks(3000)[0], np.full(3000, 0.1, np.float32), "All rows have the same score, 10.0%"),
    "scores of zero": (clicks(3000)[0], np.zeros(3000, np.float32), "All rows have the same score, 0%"),
    "zeros and ones": (clicks(3000)[0], clicks(3000)[0], "AUC 1.0000"),
    "one row": (np.ones(1, np.float32), np.ones(1, np.float32), "ranking cannot be judged"),
    "no rows": (NOTHING, NOTHING, "No rows were scored"),
    "no finite scores": (np.ones(9, np.float32), np.full(9, np.nan, np.float32), "9 of 9 test rows have no finite"),
}


@pytest.mark.parametrize("edge", EDGES)
def test_little_or_odd_data_still_give_a_report_that_says_so(tmp_path: Path, edge: str) -> None:
    y_true, y_score, told = EDGES[edge]
    shown = page(tmp_path, run(y_true, y_score))
    assert told in shown.text
    assert not re.search(r"\b(nan|inf)\b", shown.text)


def test_parts_without_data_are_left_out(tmp_path: Path) -> None:
    data = run(
        *clicks(500),
        history=[{"epoch": 1, "train_loss": 0.3}],
        losses=[],
        importance=[],
        profile={},
        unseen={},
        summary={},
        scores={},
        notes=[],
        config_yaml="",
        machine="",
    )
    shown = page(tmp_path, data)
    assert not {"fields", "data", "settings", "scores"} & set(shown.ids)
    assert "training" in shown.ids
    assert not any("by epoch" in label for label in shown.labels)  # one epoch makes no curve


def test_columns_may_come_as_a_list(tmp_path: Path) -> None:
    profile = {"columns": [{"name": "site", "role": "categorical", "unknown": {"valid": 0.1, "test": None}}]}
    assert "categorical" in page(tmp_path, run(*clicks(500), profile=profile)).text


def test_a_million_rows_make_a_small_file(tmp_path: Path) -> None:
    page(tmp_path, run(*clicks(1_000_000, rate=-5.0)))
    assert (tmp_path / "report.html").stat().st_size < 500_000


def test_labels_and_scores_of_different_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be alike"):
        write_report(tmp_path / "report.html", run(np.ones(3), np.ones(2)))
    assert list(tmp_path.iterdir()) == []


def test_importing_the_report_loads_no_plotting_library() -> None:
    code = "import sys, clickherd.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=60).filter(
        lambda rows: {0, 1} == {label for label, _ in rows}
    )
)
def test_curves_agree_with_scikit_learn_also_on_ties(rows: list[tuple[int, int]]) -> None:
    y_true, y_score = np.array(rows, np.float32).T
    y_score = y_score / 8
    ranking = Ranking.of(y_true, y_score)
    fpr, tpr, _ = oracle.roc_curve(y_true, y_score, drop_intermediate=False)
    np.testing.assert_allclose(ranking.roc, (fpr, tpr), atol=1e-12)
    assert ranking.auc == pytest.approx(oracle.roc_auc_score(y_true, y_score))
    assert ranking.average_precision == pytest.approx(oracle.average_precision_score(y_true, y_score))
    bins = ranking.calibration(5)
    assert bins.rows.sum() == len(rows)
    assert bins.clicks.sum() == y_true.sum()
    assert (bins.rows * bins.predicted).sum() == pytest.approx(y_score.sum())
    assert (np.diff(bins.predicted) > 0).all()


def test_gain_cuts_ties_in_proportion() -> None:
    ranking = Ranking.of(np.array([1.0, 0.0, 1.0, 0.0]), np.full(4, 0.5))
    np.testing.assert_allclose(ranking.gain(np.array([0.1, 0.5, 1.0])), [0.1, 0.5, 1.0])


def test_wilson_interval_of_a_known_case() -> None:
    low, high = wilson(np.array([0.0, 5.0]), np.array([10.0, 10.0]))
    np.testing.assert_allclose(low, [0.0, 0.2366], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634], atol=1e-4)
    assert low[0] == 0


@pytest.mark.parametrize("thinner", [thin, thin_evenly])
def test_thinned_curves_keep_their_ends_and_only_their_own_points(thinner: type[thin]) -> None:
    x = np.linspace(0, 1, 100_001)
    y = np.sqrt(x)
    kept_x, kept_y = thinner(x, y, 300)
    assert 100 < len(kept_x) <= 300
    assert (kept_x[0], kept_x[-1]) == (0, 1)
    np.testing.assert_array_equal(kept_y, np.sqrt(kept_x))
    assert np.trapezoid(kept_y, kept_x) == pytest.approx(2 / 3, abs=1e-3)
