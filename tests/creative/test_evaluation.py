"""Scores of a creative run: numbers known beforehand, strict JSON, and one offline page."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clickherd.config import merge
from clickherd.creative import evaluation as module
from clickherd.creative import judging
from clickherd.creative.config import CreativeConfig, creative_config, dump
from clickherd.creative.dataset import ImageSet
from clickherd.creative.evaluation import Evaluation
from clickherd.creative.judge import Judge
from clickherd.creative.page import told
from clickherd.creative.sources import HELD_OUT, TRAIN, VALID
from clickherd.creative.studio import load
from clickherd.creative.train import load_config, train_creative
from clickherd.errors import DataError, RunError
from creative_scored import make_few, quickly, refuse, write_set

Tiny = Callable[..., CreativeConfig]
LABELS = ["object", "colour", "background", "position"]


# ------------------------------------------------------------------------------------------------- all of it


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    make_few(monkeypatch)


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A copy of the shared run, evaluated: the folder, the scores, what was announced."""
    folder = tmp_path_factory.mktemp("evaluated") / "a run & <more>"
    shutil.copytree(trained, folder)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        make_few(patch)
        result = quickly(folder, announce=said.append)
    return folder, result, said


def test_evaluation_json_is_strict_and_holds_the_scores(whole: Any) -> None:
    folder, result, _ = whole
    read = json.loads((folder / "evaluation.json").read_text(), parse_constant=refuse)
    assert read == result
    assert set(read) == {
        "run",
        "machine",
        "pictures",
        "clip",
        "features",
        "unread",
        "real",
        "priors",
        "diversity",
        "memorised",
        "inversion_psnr",
        "edits",
        "probe",
    }
    assert read["pictures"] == 6
    assert list(read["priors"]) == ["diffusion", "ar", "none", "image"]
    assert list(read["real"]["seen"]) == [*LABELS, "all"]
    for name, scores in read["priors"].items():
        assert scores["fid"] > 0
        assert all(0 <= share <= 1 for share in scores["seen"].values())
        assert ("held_out" in scores) == ("cosine" in scores) == (name != "image")
    assert read["inversion_psnr"]["inverted"] > read["inversion_psnr"]["random"]
    assert read["inversion_psnr"]["inverted_worst"] <= read["inversion_psnr"]["inverted"]
    assert set(read["edits"]) <= set(LABELS)
    for label, by_theta in read["edits"].items():
        assert list(by_theta) == ["0.25", "0.5"]
        assert set(by_theta["0.5"]["kept"]) == set(LABELS) - {label}
    shares = list(read["probe"]["variance"].values())
    assert shares == sorted(shares)
    assert shares[-1] > 0.999
    assert read["probe"]["variance"].keys() == read["probe"]["agreement"].keys()


def test_the_page_shows_the_scores_and_every_sheet_offline(whole: Any) -> None:
    folder, result, said = whole
    text = (folder / "report.html").read_text()
    sheets = ["generate", "held-out", "priors", "vary", "blend", "edit", "probe", "nearest"]
    assert re.findall(r'<section aria-labelledby="([\w-]+)">', text) == [*sheets, "scores"]
    assert text.count('<img src="data:image/png;base64,') == len(sheets)
    assert {path.stem for path in (folder / "pictures").iterdir()} == set(sheets)
    assert not re.search("https?:", text)
    assert "<script" not in text
    assert html.escape(str(folder)) in text
    assert str(folder) not in text  # with its & and <
    for name in ("diffusion", "ar", "none", "image"):
        assert f"{result['priors'][name]['fid']:.2f}" in text
    assert f"{result['inversion_psnr']['inverted']:.1f} dB" in text
    assert f"{100 * result['real']['seen']['position']:.1f}%" in text
    assert f"{100 * result['clip']['image_to_text@5']:.1f}%" in text
    assert f"{result['memorised']['ratio']:.2f}" in text
    assert said[-1] == "contact sheets"
    assert "6 pictures: scores of fewer than 64 are mostly chance (--number, --valid)" in said


def test_the_judge_is_trained_once_and_reused(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, said = whole
    assert len([line for line in said if "training a judge" in line]) == 1
    monkeypatch.setattr(judging, "train_judge", None)
    one, other = (Evaluation(load(folder), 6, seed, lambda _: None) for seed in (0, 7))
    images = one.images.images[:8]
    assert (one.judge.predict(images)["colour"] == other.judge.predict(images)["colour"]).all()


def test_the_judge_has_never_seen_what_it_judges_whatever_the_seed(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[np.ndarray] = []

    class Enough(Exception):  # noqa: N818
        pass

    def spy(images: Any, labels: Any, rows: np.ndarray, *_: Any, **__: Any) -> None:
        learned.append(rows)
        raise Enough

    monkeypatch.setattr(judging, "train_judge", spy)
    judged = []
    for seed in (0, 1, 2):
        evaluation = Evaluation(load(copied), 512, seed, lambda _: None)
        with pytest.raises(Enough):
            _ = evaluation.judge
        judged += [*evaluation.real, *evaluation.held_out]
    assert not {*np.concatenate(learned)} & {*judged}
    split = ImageSet.load(copied / "data").split
    assert set(split[learned[0]]) == {TRAIN, HELD_OUT}
    assert set(split[judged]) == {VALID, HELD_OUT}


def test_the_same_seed_gives_the_same_scores(whole: Any) -> None:
    folder, result, _ = whole
    sampled = load(folder, sample={"prior_steps": 2, "decoder_steps": 2, "invert_steps": 2, "candidates": 1})
    again = Evaluation(sampled, 6, 0, lambda _: None)
    found = again.prior("diffusion")
    for name in ("fid", "kid", "seen", "held_out", "cosine"):
        assert found[name] == pytest.approx(result["priors"]["diffusion"][name], rel=1e-4)
    assert again.diversity() == pytest.approx(result["diversity"], rel=1e-4)


# ------------------------------------------------------------------------------------------------- numbers by hand


class Reader:
    """A judge that recognises the run's images and knows their labels."""

    def __init__(self, evaluation: Evaluation) -> None:
        images = np.array(evaluation.images.images)
        self.keys = {image.tobytes(): row for row, image in enumerate(images)}
        self.labels = evaluation.labels

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        rows = [self.keys.get(image.tobytes(), -1) for image in images]
        return {name: np.where(np.array(rows) < 0, -1, codes[rows]) for name, codes in self.labels.items()}

    def features(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, ::37].astype(np.float32) / 255


@pytest.fixture
def known(trained: Path) -> Evaluation:
    """An evaluation whose judge is always right."""
    evaluation = Evaluation(load(trained), 8, 0, lambda _: None)
    evaluation.__dict__["judge"] = Reader(evaluation)
    return evaluation


def test_a_decoder_that_gives_the_real_images_back_scores_as_they_do(
    known: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def draw(prompts: list[str], indices: list[int], *_: Any, **__: Any) -> torch.Tensor:
        asked.extend(prompts)
        rows = known.real if len(prompts) == len(known.real) and prompts[0] == captions[0] else known.held_out
        return known.workshop.pixels(rows)

    captions = known.captions(known.real)
    monkeypatch.setattr(known.studio, "draw", draw)
    scores = known.prior("none")
    assert scores["fid"] == pytest.approx(0, abs=1e-6)
    assert scores["seen"] == {**dict.fromkeys(LABELS, 1.0), "all": 1.0}
    assert scores["held_out"]["all"] == 1
    assert asked[:8] == captions
    assert known.memorised()["share"] == pytest.approx(known.memorised()["expected_share"])
    assert known.memorised()["ratio"] == 1
    monkeypatch.setattr(known.studio, "decoded", lambda *_, **__: known.workshop.pixels(known.real))
    own = known._compared(known.of_own_embeddings())
    assert own["fid"] == pytest.approx(0, abs=1e-6)
    assert own["seen"]["all"] == 1


def test_pictures_of_other_prompts_agree_in_what_they_share(known: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture is the real image of the next prompt: agreement is what neighbours have in common, by hand."""
    turned = np.roll(known.real, -1)
    monkeypatch.setattr(known.studio, "draw", lambda *_, **__: known.workshop.pixels(turned))
    known.__dict__["held_out"] = known.real[:0]
    seen = known.prior("none")["seen"]
    same = {name: known.labels[name][known.real] == known.labels[name][turned] for name in LABELS}
    assert seen == {
        **{name: pytest.approx(hits.mean()) for name, hits in same.items()},
        "all": pytest.approx(np.all(list(same.values()), axis=0).mean()),
    }
    assert 0 < seen["position"] < 1


def test_an_edit_that_does_what_it_is_asked_scores_all_and_one_that_does_nothing_none(
    known: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, images, _, _ = known.inverted
    asked: list[tuple[str, str]] = []
    true = module.encode_texts
    monkeypatch.setattr(module, "encode_texts", lambda clip, texts: (asked.append(texts), true(clip, texts))[1])
    by_label: dict[str, np.ndarray] = {}

    def places(label: str) -> list[int]:
        """Those with a training image whose labels are theirs but for this one, by hand."""
        train = known.images.rows(TRAIN)
        same = {name: codes[train] == codes[rows][:, None] for name, codes in known.labels.items()}
        others = np.all([same[name] if name != label else ~same[name] for name in LABELS], axis=0)
        return np.flatnonzero(others.any(axis=1)).tolist()

    queue = [label for label in LABELS if places(label) for _ in module.THETAS]
    monkeypatch.setattr(known.studio, "decoded", lambda z, *_, **__: images[places(queue.pop(0))])
    nothing = known.edits()
    assert nothing
    assert set(nothing) == {label for label in LABELS if places(label)}
    for label, by in nothing.items():
        for found in by.values():
            assert found["changed"] == 0
            assert found["kept"] == dict.fromkeys([name for name in LABELS if name != label], 1.0)
            assert found["pictures"] == len(places(label))
    for before, after in zip(asked[::2], asked[1::2], strict=True):  # the captions differ in one label alone
        assert len(before) == len(after)
        assert all(a != b for a, b in zip(before, after, strict=True))

    def edited(label: str) -> torch.Tensor:
        by_label[label] = np.array([known._other(rows[k], label) for k in places(label)])
        return known.workshop.pixels(by_label[label])

    queue = [label for label in LABELS if places(label) for _ in module.THETAS]
    monkeypatch.setattr(known.studio, "decoded", lambda z, *_, **__: edited(queue.pop(0)))
    for label, by in known.edits().items():
        for found in by.values():
            assert found["changed"] == 1
            assert set(found["kept"].values()) == {1.0}
        one, other = known.labels[label][rows[places(label)]], known.labels[label][by_label[label]]
        assert (one != other).all()
        assert set(known.images.split[by_label[label]]) == {TRAIN}


def test_the_inversion_is_measured_against_other_noise(known: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    _, images, _, _ = known.inverted
    shifts = iter((0.02, 0.2))
    monkeypatch.setattr(known.studio, "decoded", lambda *_, **__: images + next(shifts))
    found = known.inversion()
    assert found["pictures"] == 4
    assert found["inverted"] == pytest.approx(10 * np.log10(4 / 0.02**2), abs=0.01)
    assert found["random"] == pytest.approx(10 * np.log10(4 / 0.2**2), abs=0.01)


# ------------------------------------------------------------------------------------------------- what is told


def test_a_set_without_validation_images_is_told_with_the_mend(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    source = write_set(tmp_path / "shop", [("a hat", "a mug")[i % 2] for i in range(12)])
    folder = run_of(source, valid_fraction=0)
    assert json.loads((folder / "metrics.json").read_text())["stages"]["clip"]["valid_loss"] is None
    with pytest.raises(DataError, match=r"0 validation images.*data\.valid_fraction=0\.1 or with --valid"):
        quickly(folder)


def test_a_run_that_is_not_trained_yet_is_told(copied: Path) -> None:
    (copied / "decoder" / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"stage decoder is not trained.*--stage decoder"):
        quickly(copied)
    shutil.copy(copied / "clip" / "model.safetensors", copied / "decoder")  # of no decoder, but there
    over = {"data": {"size": 32}, "decoder": {"size": 16}, "upsampler": {"on": True}}
    config = creative_config(merge(load_config(copied).model_dump(), over))
    (copied / "config.yaml").write_text(dump(config))
    with pytest.raises(RunError, match=r"stage upsampler is not trained.*--stage upsampler"):
        quickly(copied)
    assert not (copied / "judge").exists()  # no minutes are spent first
    with pytest.raises(RunError, match="no run folder"):
        quickly(copied / "clip")


def test_told_has_pictures_beside_real_images(whole: Any) -> None:
    _, result, _ = whole
    rows = told(result)
    assert [row[0] for row in rows] == [
        "all labels right",
        "… of combinations never seen",
        *(f"FID by embedding alone, prior: {name}" for name in ("diffusion", "ar", "none", "image")),
        "KID likewise, prior: diffusion",
        "inversion, dB",
        *(f"text diff 0.5: {label} asked / others kept" for label in result["edits"]),
        "diversity",
        "copies of training images",
    ]
    assert all(len(row) == 3 for row in rows)
    assert rows[0][1:] == [
        f"{result['priors']['diffusion']['caption']['seen']['all']:.3f}",
        f"{result['real']['seen']['all']:.3f}",
    ]
    assert rows[2][1:] == [f"{result['priors']['diffusion']['fid']:.2f}", ""]
    by_name = {row[0]: row[1:] for row in rows}
    kid = result["priors"]["diffusion"]
    assert by_name["KID likewise, prior: diffusion"][0] == f"{kid['kid']:.4f} ± {kid['kid_std']:.4f}"
    for label, by_theta in result["edits"].items():
        changed, kept = by_theta["0.5"]["changed"], min(by_theta["0.5"]["kept"].values())
        row = by_name[f"text diff 0.5: {label} asked / others kept"]
        assert row == [f"{changed:.3f} / {kept:.3f}", ""]
    assert set(result["edits"]) == set(result["real"]["seen"]) - {"all"}
    real = result["diversity"].get("real")
    assert by_name["diversity"][1] == ("–" if real is None else f"{real:.3f}")


def test_judged_images_are_at_the_size_of_the_decoder(tmp_path: Path, tiny: Tiny, observer: Any) -> None:
    """Of a run with an upsampler: the judge learns from what it is asked about."""
    sizes = {"data": {"size": 32, "number": 40}, "decoder": {"size": 16, "steps": 1}, "upsampler": {"on": True}}
    train_creative(
        tiny(sizes, {"judge": {"size": 32, "steps": 2}}),
        tmp_path / "run",
        ["clip", "decoder", "upsampler"],
        announce=lambda _: None,
        observer=observer,
    )
    evaluation = Evaluation(load(tmp_path / "run"), 4, 0, lambda _: None)
    seen = []
    true = Judge.forward

    def spy(self: Judge, images: torch.Tensor) -> Any:
        seen.append(images.shape[-1])
        return true(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Judge, "forward", spy)
        _ = evaluation.judge
    assert set(seen) == {16}
    assert evaluation.pixels(evaluation.real).shape[-1] == 16
    evaluation.__dict__["inverted"] = (evaluation.real, evaluation.workshop.pixels(evaluation.real), None, None)
    found = evaluation.upsampling()
    assert found["bicubic"] > 15  # dB, of real images
    assert np.isfinite(found["upsampler"])
    large = evaluation.workshop.pixels(evaluation.real, full=True)
    evaluation.studio.enlarged = lambda *_: large  # type: ignore[method-assign]
    assert evaluation.upsampling() == {"upsampler": 99, "bicubic": found["bicubic"]}
