"""`clickherd creative …` as a user meets it: what it prints, what it leaves on disk, how it ends."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clickherd import cli
from clickherd.checkpoint import load as load_tensors
from clickherd.creative import page
from clickherd.creative.dataset import ImageSet
from clickherd.creative.images import save_png
from clickherd.creative.watch import Watch

Run = Callable[..., tuple[int, str, str]]
SIGNAL = signal.signal
STAGES = ("clip", "prior", "ar_prior", "decoder")
PROMPT = "a photo of a red mug on the left, white background"
SMALL = [
    "threads=1",
    "data.number=60",
    "data.size=16",
    "clip.embedding_dim=16",
    "clip.image.width=16",
    "clip.image.layers=1",
    "clip.text.width=16",
    "clip.text.layers=1",
    "prior.width=16",
    "prior.layers=1",
    "ar_prior.width=16",
    "ar_prior.layers=1",
    "ar_prior.buckets=8",
    "decoder.channels=[8,16]",
    "decoder.head_dim=8",
    "decoder.context_dim=8",
    "judge.width=16",
    "judge.size=16",
    "judge.steps=5",
    "sample.prior_steps=2",
    "sample.decoder_steps=2",
    "sample.invert_steps=5",
    "sample.candidates=1",
    *(f"{name}.{setting}" for name in STAGES for setting in ("steps=3", "batch_size=8")),
]
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    """What the command line does with signals ends with the test."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        SIGNAL(number, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by `clickherd creative train`; nothing may be written into it."""
    folder = tmp_path_factory.mktemp("creative") / "run"
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ended = CliRunner().invoke(
        cli.app, ["creative", "train", "products", "--out", str(folder), "--threads", "1", *SETTINGS]
    )
    for number, handler in kept.items():
        SIGNAL(number, handler)
    assert ended.exit_code == 0, ended.output
    assert f"run in {folder}" in ended.stdout
    return folder


@pytest.fixture
def mug(trained: Path, tmp_path: Path) -> Path:
    save_png(np.array(ImageSet.load(trained / "data").images[0]), tmp_path / "mug.png")
    return tmp_path / "mug.png"


@pytest.fixture
def shoe(trained: Path, tmp_path: Path) -> Path:
    save_png(np.array(ImageSet.load(trained / "data").images[1]), tmp_path / "shoe.png")
    return tmp_path / "shoe.png"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copied")
    return tmp_path / "copied"


def weights(folder: Path) -> dict[str, Any]:
    files = {name: folder / name / "model.safetensors" for name in STAGES}
    return {f"{name}.{key}": t for name, file in files.items() for key, t in load_tensors(file)[0].items()}


# ------------------------------------------------------------------------------------------------- train


def test_train_prints_one_json_object_and_tells_the_rest_on_stderr(run: Run, trained: Path) -> None:
    code, out, err = run("creative", "train", "--out", "run", "--threads", 1, "--json", *SETTINGS)
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads(Path("run/metrics.json").read_text())
    assert list(result["stages"]) == list(STAGES)
    assert result["run"] == "run"
    assert "60 images of 16 × 16 pixels for training" in err
    for name in STAGES:
        assert f"{name}: 3 steps in" in err
    assert err.count("valid loss") == len(STAGES)
    one, other = weights(Path("run")), weights(trained)
    assert all((one[name] == other[name]).all() for name in other)


def test_flags_and_settings_reach_the_run(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "shop" / ("hat", "mug")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    flags = ["--caption", "a photo of a {class}", "--label", "class", "--size", 16, "--valid", "shop", "--seed", 4]
    code, _, err = run("creative", "train", "shop", *flags, "--stage", "clip", "--out", "run", *SETTINGS)
    assert code == 0, err
    images = ImageSet.load(Path("run/data"))
    assert set(images.captions) == {"a photo of a hat", "a photo of a mug"}
    assert images.values == {"class": ["hat", "mug"]}
    assert images.split.tolist() == [0] * 12 + [1] * 12
    assert "seed: 4" in Path("run/config.yaml").read_text()
    assert not Path("run/prior").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("handlers_kept")
def test_a_signal_in_training_leaves_a_run_to_go_on_with(
    run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(signal, "signal", SIGNAL)  # which `run` keeps from being set
    step, taken = Watch.step, []

    def step_and_stop(self: Watch, done: int, loss: Any) -> None:
        step(self, done, loss)
        taken.append(done)
        if len(taken) == 5:  # of CLIP three, of the prior two
            signal.raise_signal(number)

    monkeypatch.setattr(Watch, "step", step_and_stop)
    code, out, err = run("creative", "train", "--out", "cut", "--threads", 1, *SETTINGS)
    assert (code, out) == (130, "")
    assert "stopping after this batch" in err
    assert "interrupted; continue with: clickherd creative train --resume cut" in err
    assert Path("cut/checkpoint/prior.safetensors").exists()
    monkeypatch.setattr(Watch, "step", step)
    code, out, err = run("creative", "train", "--resume", "cut")
    assert code == 0, err
    assert out == "run in cut\n"
    one, other = weights(Path("cut")), weights(trained)
    assert all((one[name] == other[name]).all() for name in other)


def test_an_interruption_while_images_are_read_can_be_gone_on_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("clickherd.creative.dataset._write_images", interrupted)
        code, _, err = run("creative", "train", "--stage", "clip", "--out", "run", *SETTINGS)
    assert code == 130
    assert "interrupted" in err
    code, _, err = run("creative", "train", "--resume", "run", "--stage", "clip")
    assert code == 0, err
    assert Path("run/clip/model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], ["no such file or folder", "nowhere"]),
        (["--preset", "cup"], ["unknown preset 'cup'", "Did you mean 'cpu'?"]),
        (["--stage", "prier"], ["unknown stage 'prier'", "Did you mean 'prior'?"]),
        (["--set", "decoder.stepz=4"], ["decoder.stepz", "Did you mean 'steps'?"]),
        (["--set", "decoder"], ["decoder", "group.name=value"]),
        (["--set", "data=products"], ["data = 'products'"]),
        (["--size", "20"], ["data.size = 20", "multiple of 8"]),
        (["--seed", "-1"], ["seed = -1"]),
        (["--device", "tpu"], ["device = 'tpu'", "cuda"]),
        (["--label", "brand"], ["no such column", "brand", "Valid names"]),
        (["--caption", "a {colr} hat"], ["colr", "Did you mean 'colour'?"]),
        (["--valid", "products"], ["valid"]),
        (["--out", "file/run"], ["cannot make the folder", "file/run"]),
    ],
)
def test_mistakes_in_training_end_with_2_name_the_thing_and_leave_nothing(
    run: Run, arguments: list[str], says: list[str]
) -> None:
    Path("file").write_text("")
    out = [] if "--out" in arguments else ["--out", "run"]
    code, _, err = run("creative", "train", *arguments, *out)
    assert code == 2, err
    assert all(word in err for word in says), err
    assert {path.name for path in Path().iterdir()} <= {"file", "cache"}


@pytest.mark.parametrize(
    "more",
    [["products"], ["--out", "x"], ["--seed", "0"], ["--set", "seed=1"], ["--clip", "c"], ["--preset", "cpu"]],
)
def test_resume_takes_nothing_else(run: Run, trained: Path, more: list[str]) -> None:
    code, _, err = run("creative", "train", "--resume", trained, *more)
    assert code == 2
    assert "--resume takes its data and settings from the run folder" in err


def test_a_finished_run_says_that_nothing_is_left(run: Run, trained: Path) -> None:
    code, _, err = run("creative", "train", "--resume", trained)
    assert code == 0
    assert f"every stage is trained already; scores and pictures: clickherd creative evaluate {trained}" in err


def test_a_run_that_is_there_is_not_trained_over(run: Run, trained: Path) -> None:
    code, _, err = run("creative", "train", "--out", trained)
    assert code == 2
    assert f"--resume {trained}" in err
    code, _, err = run("creative", "train", "--resume", "nowhere")
    assert code == 2
    assert "no run folder" in err


# ------------------------------------------------------------------------------------------------- what draws pictures


@pytest.mark.parametrize(
    ("verb", "arguments", "pictures"),
    [
        ("generate", [PROMPT, "a photo of a blue shoe", "--number", 2], 4),
        ("generate", [PROMPT, "--number", 1, "--prior", "ar"], 1),
        ("generate", [PROMPT, "--number", 1, "--prior", "none"], 1),
        ("vary", ["mug.png", "--number", 2, "--eta", 0, "--eta", 1], 4),
        ("blend", ["mug.png", "shoe.png", "--number", 3], 6),
        ("edit", ["mug.png", "--from", PROMPT, "--to", "a photo of a blue shoe", "--theta", 0.3], 1),
        ("probe", ["mug.png", "--dims", 1, "--dims", 8], 4),
        ("invert", ["mug.png"], 2),
    ],
)
@pytest.mark.usefixtures("mug", "shoe")
def test_every_verb_writes_its_pictures(
    run: Run, trained: Path, verb: str, arguments: list[object], pictures: int
) -> None:
    code, out, err = run("creative", verb, trained, *arguments, "--out", "made", "--threads", 1)
    assert code == 0, err
    assert out.splitlines()[0] == "made/sheet.png"
    names = {path.name for path in Path("made").glob("*.png")}
    assert len(names) == 1 + pictures
    with Image.open("made/01-01.png") as image:
        assert image.size == (16, 16)
    if verb == "invert":
        assert np.load("made/x_T.npy").shape == (1, 3, 16, 16)
        assert out.splitlines()[1].startswith("PSNR ")


def test_the_same_command_gives_the_same_pictures_and_settings_others(run: Run, copied: Path) -> None:
    made = []
    for folder, more in (("a", []), ("b", []), ("c", ["--seed", 1]), ("d", ["--set", "sample.decoder_steps=4"])):
        code, _, err = run("creative", "generate", copied, PROMPT, "--number", 1, "--out", folder, *more)
        assert code == 0, err
        made.append(Path(folder, "01-01.png").read_bytes())
    assert made[0] == made[1]
    assert len(set(made)) == 3
    code, out, _ = run("creative", "generate", copied, PROMPT, "--number", 1)
    assert code == 0
    assert out.startswith(str(copied / "pictures" / "generate-"))
    assert Path(out.strip()).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "RUN", " "], ["empty caption"]),
        (["generate", "RUN", "a mug " * 50], ["tokens, and this CLIP reads"]),
        (["generate", "RUN", "mug", "--prior", "difusion"], ["unknown prior", "Did you mean 'diffusion'?"]),
        (["generate", "RUN", "mug", "--set", "decoder.steps=4"], ["does not take decoder", "sample."]),
        (["generate", "RUN", "mug", "--set", "sample.step=4"], ["sample.step", "Valid names"]),
        (["generate", "RUN", "mug", "--set", "sample=4"], ["sample = 4", "sample.decoder_steps=100"]),
        (["generate", "RUN", "mug", "--set", "sample.decoder_steps=3"], ["3 sampling steps do not divide 1000"]),
        (["generate", "RUN", "mug", "--seed", "-1"], ["--seed", "greater than or equal to 0"]),
        (["generate", "RUN", "mug", "--number", "0"], ["--number"]),
        (["generate", "nowhere", "mug"], ["no run folder", "nowhere"]),
        (["generate", "clicks", "mug"], ["click model", "clicks"]),
        (["vary", "RUN", "gone.png"], ["gone.png"]),
        (["vary", "RUN", "words.png"], ["not an image", "words.png"]),
        (["vary", "RUN", "mug.png", "--eta", "2"], ["--eta", "less than or equal to 1"]),
        (["blend", "RUN", "mug.png", "words.png"], ["not an image", "words.png"]),
        (["edit", "RUN", "mug.png", "--from", "mug", "--to", "mug"], ["'mug' → 'mug'", "same embedding"]),
        (["probe", "RUN", "mug.png", "--dims", "99"], ["dims = [99]", "16 components"]),
        (["invert", "RUN", "tiny.png"], ["tiny.png"]),
        (["evaluate", "nowhere"], ["no run folder", "nowhere"]),
        (["evaluate", "RUN", "--set", "judge.steps=2"], ["does not take judge"]),
    ],
)
@pytest.mark.usefixtures("mug")
def test_mistakes_of_other_verbs_end_with_2_and_name_the_thing(
    run: Run, trained: Path, arguments: list[str], says: list[str]
) -> None:
    Path("words.png").write_text("no picture")
    Image.new("RGB", (6, 6)).save("tiny.png")
    Path("clicks").mkdir()
    Path("clicks/config.yaml").write_text("model: {name: deepfm}\n")
    before = sorted(Path().rglob("*"))
    code, out, err = run("creative", *(trained if word == "RUN" else word for word in arguments))
    assert (code, out) == (2, "")
    assert all(word in err for word in says), err
    assert sorted(Path().rglob("*")) == before
    assert not (trained / "pictures").exists()


def test_evaluate_prints_json_or_a_table_and_writes_the_page(
    run: Run, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDITED", "PROMPTS", "SAMPLES"):
        monkeypatch.setattr(f"clickherd.creative.evaluation.{name}", 2)
    monkeypatch.setattr(page, "sheets", lambda *_: [])
    code, out, err = run("creative", "evaluate", copied, "--number", 4, "--json", "--threads", 1)
    assert code == 0, err
    assert json.loads(out) == json.loads((copied / "evaluation.json").read_text())
    assert json.loads(out)["pictures"] == 4
    assert "training a judge on" in err
    assert (copied / "report.html").exists()
    assert (copied / "judge" / "model.safetensors").exists()
    code, out, err = run("creative", "evaluate", copied, "--number", 4, "--threads", 1)
    assert code == 0, err
    assert "training a judge" not in err
    for words in ("all labels right", "prior: diffusion", "inversion, dB", "real images"):
        assert words in out
    assert f"pictures and scores in {copied / 'report.html'}" in out


@pytest.mark.parametrize("verb", [["train"], ["generate", "run", "mug"], ["evaluate", "run"]])
@pytest.mark.parametrize("name", ["diffusers", "transformers", "PIL"])
def test_without_the_extra_the_line_that_installs_it_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: list[str], name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == name else find(n, *a))
    code, _, err = run("creative", *verb)
    assert code == 2
    assert f"creatives need {name}" in err
    assert "pip install 'clickherd[creative]'" in err


def test_every_verb_has_help(run: Run) -> None:
    verbs = ("train", "generate", "vary", "blend", "edit", "probe", "invert", "evaluate")
    code, out, _ = run("creative", "--help")
    assert code == 0
    assert all(verb in out for verb in verbs)
    for verb in verbs:
        assert run("creative", verb, "--help")[0] == 0
