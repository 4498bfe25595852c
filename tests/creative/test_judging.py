"""Sets of any kind are judged: by labels, by captions, or by CLIP where a judge could learn nothing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clickherd.creative import judging
from clickherd.creative.evaluation import Evaluation
from clickherd.creative.page import told
from clickherd.creative.sources import VALID
from clickherd.creative.studio import load
from creative_scored import make_few, quickly, refuse, write_set


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    make_few(monkeypatch)


def test_class_folders_without_labels_are_judged_by_their_captions(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "shop" / ("red_hat", "blue_shoe", "tea_pot")[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    folder = run_of(tmp_path / "shop")
    result = quickly(folder)
    assert list(result["priors"]) == ["none", "image"]
    assert list(result["real"]) == ["seen"]
    assert list(result["real"]["seen"]) == ["caption", "all"]
    assert result["edits"] == {}
    assert "real" in result["diversity"]
    json.loads((folder / "evaluation.json").read_text(), parse_constant=refuse)
    text = (folder / "report.html").read_text()
    assert "Combinations never seen" not in text
    assert "Text diffs" in text  # to look at
    assert [row[0] for row in told(result)] == [
        "all labels right",
        "FID by embedding alone, prior: none",
        "FID by embedding alone, prior: image",
        "KID likewise, prior: none",
        "inversion, dB",
        "diversity",
        "copies of training images",
    ]


def test_rows_that_lack_a_label_do_not_count(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    kinds = [("hat", "shoe", None, "mug")[i % 4] for i in range(48)]
    makers = [("x", "y", "x")[i % 3] if i % 8 else None for i in range(48)]
    captions = [f"a {kind or 'thing'} by {maker}" for kind, maker in zip(kinds, makers, strict=True)]
    folder = run_of(write_set(tmp_path / "shop", captions, kind=kinds, maker=makers), labels=["kind", "maker"])
    evaluation = Evaluation(load(folder), 100, 0, lambda _: None)
    whole_rows = {k for k in range(48) if kinds[k] and makers[k]}
    assert set(evaluation.real) == {*evaluation.images.rows(VALID)} & whole_rows
    assert set(evaluation.judge.classes) == {"kind", "maker"}
    assert len(evaluation.judge.classes["kind"]) == 3
    for row in evaluation.real:
        for label in ("kind", "maker"):
            other = evaluation._other(row, label)
            assert other is None or other in whole_rows
    result = quickly(folder)
    assert result["pictures"] == min(6, len(evaluation.real))
    assert set(result["real"]["seen"]) == {"kind", "maker", "all"}


@pytest.mark.parametrize(
    ("captions", "label", "fault"),
    [
        (
            [f"a mug, number {i}" for i in range(24)],
            None,
            "24 captions of 24 images, fewer than 4 of each",
        ),
        (["a mug"] * 24, None, "label 'caption' has 1 value among the images to learn from"),
        ([f"a mug, number {i}" for i in range(24)], "mug", "label 'kind' has 1 value among the images to learn from"),
        (["a mug", "a hat"] * 12, "", "label 'kind' has 0 values among the images to learn from"),
    ],
)
def test_what_needs_no_judge_is_told_where_a_judge_has_nothing_to_learn(
    tmp_path: Path, run_of: Callable[..., Path], captions: list[str], label: str | None, fault: str
) -> None:
    columns = {} if label is None else {"kind": [label] * 24}
    folder = run_of(write_set(tmp_path / "shop", captions, **columns), labels=list(columns))
    told_of: list[str] = []
    result = quickly(folder, announce=told_of.append)
    assert any(re.search(rf"not judged: .*{fault} \(--label names", text) for text in told_of)
    assert len(result["unread"]) == 1
    assert not (folder / "judge").exists()
    assert (result["features"], result["real"], result["edits"]) == ("CLIP", {}, {})
    for of in result["priors"].values():
        assert {"fid", "kid"} <= of.keys()
        assert not {"seen", "held_out"} & of.keys()
    assert result["inversion_psnr"]["inverted"] > 0
    assert result["probe"]["agreement"] == {}
    text = (folder / "report.html").read_text()
    assert f"{fault}. FID" in html.unescape(text)
    assert html.unescape(text).count("Probes") >= 1
    assert len(result["probe"]["variance"]) > 1
    assert "Shows what was asked" not in text
    assert told(result)[0][0] == "FID by embedding alone, by CLIP, prior: none"


def test_labels_that_cannot_be_learned_are_left_out_and_the_others_judged(
    tmp_path: Path, run_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MOST_VALUES", 10)
    kinds, skus = [("hat", "mug")[i % 2] for i in range(24)], [f"sku {i}" for i in range(24)]
    source = write_set(tmp_path / "shop", kinds, kind=kinds, sku=skus, all=kinds)
    folder = run_of(source, labels=["kind", "sku", "all"])
    result = quickly(folder)
    assert set(result["real"]["seen"]) == {"kind", "all"}
    assert len(result["unread"]) == 2
    assert any(re.search(r"'sku' has \d\d values, 10 at most", fault) for fault in result["unread"])
    assert any("cannot be called 'all'" in fault for fault in result["unread"])


def test_features_of_a_run_without_a_judge_are_its_clips(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    folder = run_of(write_set(tmp_path / "shop", [f"a mug, number {i}" for i in range(24)]))
    evaluation = Evaluation(load(folder), 4, 0, lambda _: None)
    pixels = evaluation.pixels(evaluation.real)
    expected = evaluation.workshop.embedded(evaluation.studio.clip)[0][evaluation.real] * 4  # √16
    np.testing.assert_allclose(evaluation.features(pixels), expected.numpy(), atol=1e-4)
