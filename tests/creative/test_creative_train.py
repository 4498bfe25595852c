"""A creative run from images to a run folder: what lies in it, what goes on from where, and what is told."""

from __future__ import annotations

import importlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from clickherd import creative
from clickherd.checkpoint import load as load_tensors
from clickherd.checkpoint import save as save_tensors
from clickherd.creative import loop
from clickherd.creative.clip import learn_tokenizer, quiet
from clickherd.creative.config import PRESETS, CreativeConfig, creative_config, dump
from clickherd.creative.dataset import ImageSet
from clickherd.creative.loop import PARTS
from clickherd.creative.stages import STAGES, Workshop, load_clip_of
from clickherd.creative.studio import load
from clickherd.creative.train import load_config, load_metrics, resume_creative, train_creative
from clickherd.errors import ConfigError, DataError, Interrupted, RunError
from clickherd.runtime import seeded, threads_kept

Tiny = Callable[..., CreativeConfig]
TRAINED = ("clip", "prior", "ar_prior", "decoder")


@pytest.fixture
def train(tmp_path: Path, observer: Any) -> Callable[..., dict[str, Any]]:
    """`train(config, stages, folder=…)`; what was announced is in `train.told`."""

    def call(config: CreativeConfig, stages: Any = (), folder: str = "run", **more: Any) -> dict[str, Any]:
        call.told = []
        return train_creative(config, tmp_path / folder, stages, announce=call.told.append, observer=observer, **more)

    return call


@pytest.fixture
def resume(observer: Any) -> Callable[..., dict[str, Any]]:
    def call(folder: Path, stages: Any = (), **more: Any) -> dict[str, Any]:
        call.told = []
        return resume_creative(folder, stages, announce=call.told.append, observer=observer, **more)

    return call


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": tensor
        for name in STAGES
        if (folder / name / "model.safetensors").exists()
        for key, tensor in load_tensors(folder / name / "model.safetensors")[0].items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def started(observer: Any) -> list[str]:
    return [told[0] for told in observer.told if len(told) == 3]


def write_images(folder: Path, number: int, size: int = 16) -> None:
    """Two classes, red and blue, with some noise."""
    rng = np.random.default_rng(0)
    for i in range(number):
        pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
        pixels[..., 2 * (i % 2)] += 180
        path = folder / ("red_hat", "blue-shoe")[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def write_clip(folder: Path, captions: list[str], *, dim: int = 24, context: int = 32, size: int = 16) -> Path:
    """A CLIP as transformers writes it, untrained."""
    tokenizer = learn_tokenizer(captions, 400)
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": context}
    text |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(3)
        vision = {**tower, "image_size": size, "patch_size": 8}
        model = CLIPModel(CLIPConfig(projection_dim=dim, text_config={**tower, **text}, vision_config=vision))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    seen = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(seen))
    return folder


CAPTIONS = ["a photo of a red mug on the left, white background", "a photo of a blue shoe in the centre"]


def test_the_run_folder_holds_what_the_design_says(trained: Path, tiny: Tiny) -> None:
    assert {path.name for path in trained.iterdir()} == {"config.yaml", "metrics.json", "data", *TRAINED}
    assert load_config(trained) == tiny()
    assert len(ImageSet.load(trained / "data")) == 200 + 20 + 96
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics == load_metrics(trained)
    assert set(metrics) == {"stages", "machine", "run"}
    assert metrics["run"] == str(trained)
    assert list(metrics["stages"]) == list(TRAINED)
    for name, record in metrics["stages"].items():
        assert set(record) == {"steps", "seconds", "train_loss", "valid_loss", "history"}
        assert record["steps"] == getattr(tiny(), name).steps == record["history"][-1]["step"]
        assert 0 < record["seconds"] < 60
        assert np.isfinite([record["train_loss"], record["valid_loss"]]).all()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    trained: Path, tmp_path: Path, tiny: Tiny, train: Any
) -> None:
    train(tiny(), folder="again")
    assert same(weights(tmp_path / "again"), weights(trained))
    train(tiny({"seed": 1}), ["clip"], folder="other")
    assert not same(weights(tmp_path / "other"), {k: v for k, v in weights(trained).items() if k.startswith("clip")})


def test_a_second_run_in_the_same_folder_is_an_error_that_names_resume(
    trained: Path, tiny: Tiny, observer: Any
) -> None:
    before = sorted(trained.rglob("*"))
    with pytest.raises(RunError, match=f"already exists.*--resume {trained}"):
        train_creative(tiny(), trained, announce=lambda _: None, observer=observer)
    assert sorted(trained.rglob("*")) == before


def test_an_interrupted_run_goes_on_with_the_command_it_tells(
    trained: Path, tmp_path: Path, tiny: Tiny, train: Any, resume: Any, observer: Any
) -> None:
    """Cut off in the prior and again in the decoder, it ends with the weights of the run that was not."""
    with pytest.raises(Interrupted) as cut:
        train(tiny(), should_stop=lambda: observer.told[-1][0] == 2 and len(started(observer)) == 2)
    assert cut.value.command == f"clickherd creative train --resume {tmp_path / 'run'}"
    assert [path.name for path in (tmp_path / "run" / "checkpoint").iterdir()] == ["prior.safetensors"]
    assert not (tmp_path / "run" / "prior").exists()
    with pytest.raises(Interrupted):
        resume(tmp_path / "run", should_stop=lambda: started(observer)[-1] == "decoder" and observer.told[-1][0] == 3)
    observer.told.clear()
    metrics = resume(tmp_path / "run")
    assert [told for told in observer.told if len(told) == 3] == [("decoder", 4, 3)]
    assert same(weights(tmp_path / "run"), weights(trained))
    assert not (tmp_path / "run" / "checkpoint").exists()
    first = load_metrics(trained)["stages"]
    for name, record in metrics["stages"].items():
        assert {k: v for k, v in record.items() if k != "seconds"} == {
            k: v for k, v in first[name].items() if k != "seconds"
        }


def test_a_finished_run_has_nothing_to_go_on_with(copied: Path, resume: Any, observer: Any) -> None:
    before = weights(copied)
    assert resume(copied) == load_metrics(copied)
    assert not observer.told
    assert same(weights(copied), before)


def test_single_stages_are_trained_when_they_are_named(
    tmp_path: Path, tiny: Tiny, train: Any, resume: Any, trained: Path, observer: Any
) -> None:
    with pytest.raises(ConfigError, match=r"stage prior of a new run needs a CLIP.*--stage clip.*--clip"):
        train(tiny(), ["prior"])
    assert not (tmp_path / "run").exists()
    train(tiny(), ["clip"])
    shutil.rmtree(tmp_path / "run" / "clip")
    with pytest.raises(RunError, match=r"stage clip is not trained.*--resume .*run --stage clip"):
        resume(tmp_path / "run", ["prior"])
    observer.told.clear()
    resume(tmp_path / "run", ["clip"])  # as it says
    resume(tmp_path / "run", ["decoder"])
    assert started(observer) == ["clip", "decoder"]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"clip", "decoder"}
    assert not (tmp_path / "run" / "prior").exists()
    expected = {k: v for k, v in weights(trained).items() if not k.startswith(("prior", "ar_prior"))}
    assert same(weights(tmp_path / "run"), expected)  # whatever else is trained
    with pytest.raises(Interrupted) as cut:
        resume(tmp_path / "run", ["prior", "ar_prior"], should_stop=lambda: True)
    assert cut.value.command.endswith("run --stage=prior --stage=ar_prior")


def test_one_stage_leaves_anothers_checkpoint_alone(copied: Path, trained: Path, resume: Any, observer: Any) -> None:
    shutil.rmtree(copied / "prior")
    shutil.rmtree(copied / "ar_prior")
    with pytest.raises(Interrupted):
        resume(copied, should_stop=lambda: observer.told[-1][0] == 2)
    resume(copied, ["ar_prior"])
    observer.told.clear()
    resume(copied)
    assert observer.told[0] == ("prior", 3, 2)
    assert same(weights(copied), weights(trained))


def test_an_unknown_stage_is_told_before_anything_is_made(
    tmp_path: Path, tiny: Tiny, train: Any, resume: Any, trained: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'arprior'.*Did you mean 'ar_prior'\?.*clip, decoder, prior, upsampler"):
        train(tiny(), ["arprior"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="unknown stage 'clop'"):
        resume(trained, ["clop"])


def test_a_run_goes_on_with_the_images_that_it_began_with(
    tmp_path: Path, tiny: Tiny, train: Any, resume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if they have changed, or are gone, or were named from another folder."""
    write_images(tmp_path / "shop", 24)
    monkeypatch.chdir(tmp_path)
    train(tiny({"data": {"source": "shop"}}), ["clip"])
    before = np.array(ImageSet.load(tmp_path / "run" / "data").images)
    shutil.rmtree(tmp_path / "shop")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    resume(tmp_path / "run", ["decoder"])
    assert (ImageSet.load(tmp_path / "run" / "data").images == before).all()
    write_images(tmp_path / "below" / "shop", 30)
    resume(tmp_path / "run", ["prior"])
    assert len(ImageSet.load(tmp_path / "run" / "data")) == 24


def test_data_at_fault_leave_no_folder_behind(tmp_path: Path, tiny: Tiny, train: Any) -> None:
    with pytest.raises(DataError, match=r"no such file or folder.*nowhere"):
        train(tiny({"data": {"source": str(tmp_path / "nowhere")}}))
    assert not (tmp_path / "run").exists()
    train(tiny(), ["clip"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot make the folder.*file/run"):
        train(tiny(), folder="file/run")


def test_bad_images_are_skipped_counted_and_listed(tmp_path: Path, tiny: Tiny, train: Any) -> None:
    write_images(tmp_path / "shop", 30)
    (tmp_path / "shop" / "red_hat" / "torn.png").write_bytes(b"\x89PNG torn")
    (tmp_path / "shop" / "red_hat" / "empty.jpg").write_bytes(b"")
    small = io.BytesIO()
    Image.new("RGB", (5, 5)).save(small, "PNG")
    (tmp_path / "shop" / "blue-shoe" / "dot.png").write_bytes(small.getvalue())
    train(tiny({"data": {"source": str(tmp_path / "shop")}}), ["clip"])
    (told,) = [line for line in train.told if line.startswith("skipped")]
    assert "skipped 3 of 33 rows" in told
    assert all(name in told for name in ("torn.png", "empty.jpg", "dot.png"))
    images = ImageSet.load(tmp_path / "run" / "data")
    assert len(images) == 30
    assert set(images.captions) == {"red hat", "blue shoe"}
    assert {Path(name).name for name, _ in images.skipped} == {"torn.png", "empty.jpg", "dot.png"}


# ------------------------------------------------------------------------------------------------- a CLIP of one's own


def test_a_clip_of_ones_own_is_taken_as_it_is(
    tmp_path: Path, tiny: Tiny, train: Any, resume: Any, observer: Any
) -> None:
    """Saved by transformers, of another width and for larger images than the run's."""
    own = write_clip(tmp_path / "own", CAPTIONS * 20, dim=24, size=24)
    result = train(tiny({"clip": {"path": str(own)}}))
    assert started(observer) == ["prior", "ar_prior", "decoder"]
    assert set(result["stages"]) == {"prior", "ar_prior", "decoder"}
    given, kept = (load_tensors(f / "model.safetensors")[0] for f in (own, tmp_path / "run" / "clip"))
    assert same(given, kept)
    shutil.rmtree(own)  # the run holds it
    studio = load(tmp_path / "run")
    assert (studio.clip.embedding_dim, studio.clip.size) == (24, 24)
    assert studio.clip.mean.flatten().tolist() == pytest.approx([0.48, 0.46, 0.41])
    for prior in ("diffusion", "ar", "none"):
        assert studio.generate("a red mug", 1, prior=prior).images.shape == (1, 1, 3, 16, 16)
    assert not resume(tmp_path / "run").keys() - {"stages", "machine", "run"}
    assert started(observer) == ["prior", "ar_prior", "decoder"]


def test_transformers_reads_the_clip_of_a_run(trained: Path, studio: Any) -> None:
    with quiet():
        model = CLIPModel.from_pretrained(trained / "clip")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        seen = model.vision_model(pixel_values=studio.clip.pixels(images)).pooler_output
        expected = torch.nn.functional.normalize(model.visual_projection(seen), dim=-1)
    torch.testing.assert_close(studio.clip.encode_image(images), expected)


def test_captions_too_long_for_a_taken_clip_are_told_before_any_training(
    tmp_path: Path, tiny: Tiny, train: Any, observer: Any
) -> None:
    own = write_clip(tmp_path / "own", CAPTIONS * 20, context=6)
    with pytest.raises(DataError, match=r"caption '.*' has \d+ tokens, and CLIP reads 4 at most"):
        train(tiny({"clip": {"path": str(own)}}))
    assert not observer.told


def test_captions_too_long_for_the_context_are_told_before_any_training(tiny: Tiny, train: Any, observer: Any) -> None:
    with pytest.raises(DataError, match=r"CLIP reads 3 at most.*clip\.context_length"):
        train(tiny({"clip": {"context_length": 5}}))
    assert not observer.told


def test_a_long_caption_among_the_validation_images_is_told_before_any_training(
    tmp_path: Path, tiny: Tiny, train: Any, observer: Any
) -> None:
    write_images(tmp_path / "shop", 12)
    write_images(tmp_path / "valid", 4)
    (tmp_path / "valid" / "red_hat").rename(tmp_path / "valid" / ("z_x_q_j_" * 20))
    with pytest.raises(DataError, match=r"z x q j.* tokens, and CLIP reads \d+ at most"):
        train(tiny({"data": {"source": str(tmp_path / "shop"), "valid": str(tmp_path / "valid")}}))
    assert not observer.told


@pytest.mark.parametrize(
    ("missing", "says"),
    [("", "no such folder"), ("config.json", "no config.json"), ("preprocessor_config.json", "preprocessor_config")],
)
def test_a_folder_that_holds_no_clip_is_told(
    tmp_path: Path, tiny: Tiny, train: Any, missing: str, says: str, trained: Path
) -> None:
    own = tmp_path / "own"
    if missing:
        shutil.copytree(trained / "clip", own)
        (own / missing).unlink()
    with pytest.raises(RunError, match=f"{says}.*own"):
        train(tiny({"clip": {"path": str(own)}}))


def test_an_upsampler_needs_no_clip(tmp_path: Path, tiny: Tiny, train: Any) -> None:
    sizes = {"data": {"size": 32, "number": 40}, "decoder": {"size": 16}, "upsampler": {"on": True}}
    train(tiny(sizes), ["upsampler"])
    assert {name.split(".")[0] for name in weights(tmp_path / "run")} == {"upsampler"}


def test_a_run_folder_is_not_taken_for_its_clip(tmp_path: Path, tiny: Tiny, train: Any, trained: Path) -> None:
    with pytest.raises(RunError, match=rf"no config\.json.*Did you mean {trained / 'clip'}\?"):
        train(tiny({"clip": {"path": str(trained)}}))
    file = trained / "config.yaml"
    with pytest.raises(RunError, match="a file, not the folder of a CLIP"):
        train(tiny({"clip": {"path": str(file)}}))
    assert not list(tmp_path.iterdir())


def test_a_single_stage_of_a_new_run_can_have_a_given_clip_that_sees_another_size(
    tmp_path: Path, tiny: Tiny, train: Any, trained: Path
) -> None:
    train(tiny({"data": {"size": 32}, "clip": {"path": str(trained / "clip")}}), ["decoder"])
    assert "this CLIP sees 16 px: images of 32 px are resized for it" in train.told
    expected = {k: v for k, v in weights(trained).items() if k.startswith("clip")}
    made = weights(tmp_path / "run")
    assert same({k: v for k, v in made.items() if k.startswith("clip")}, expected)
    assert {name.split(".")[0] for name in made} == {"clip", "decoder"}


def test_a_clip_of_another_width_in_a_trained_run_is_an_error_that_names_both_sizes(copied: Path) -> None:
    shutil.rmtree(copied / "clip")
    write_clip(copied / "clip", CAPTIONS, dim=24)
    with pytest.raises(RunError, match=r"\b16\b.*\b24\b"):
        load(copied).generate("a red mug")


# ------------------------------------------------------------------------------------------------- what is spoilt


@pytest.mark.parametrize("name", ["clip", "prior", "decoder"])
def test_damaged_weights_are_told(copied: Path, name: str) -> None:
    file = copied / name / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(RunError, match=rf"(damaged|no CLIP).*{name}"):
        load(copied).generate("a red mug", 1)


def test_weights_of_another_size_or_with_some_missing_are_told(copied: Path, tiny: Tiny) -> None:
    config = tiny({"decoder": {"channels": [8, 24]}})
    (copied / "config.yaml").write_text(dump(config))
    with pytest.raises(RunError, match=r"is \(\d+.*in the file and \(\d+.*by the settings"):
        load(copied).generate("a red mug", 1)
    (copied / "config.yaml").write_text(dump(tiny()))
    file = copied / "prior" / "model.safetensors"
    tensors, facts = load_tensors(file)
    save_tensors(file, {name: tensor for name, tensor in tensors.items() if name != "no_text"}, facts)
    with pytest.raises(RunError, match=r"no_text is missing in the file and \(16,\)"):
        load(copied).generate("a red mug", 1)


def test_a_folder_of_another_kind_is_told(tmp_path: Path, resume: Any) -> None:
    with pytest.raises(RunError, match=r"no run folder.*clickherd creative train"):
        resume(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {name: deepfm}\ntrain: {epochs: 2}\n")
    with pytest.raises(RunError, match="click model"):
        load(tmp_path)


def test_a_spoilt_config_is_told(copied: Path) -> None:
    file = copied / "config.yaml"
    file.write_text(file.read_text().replace("channels", "chanels"))
    with pytest.raises(ConfigError, match=r"unknown setting 'decoder\.chanels'.*config\.yaml.*mean 'channels'"):
        load_config(copied)


def test_a_learning_rate_far_too_high_ends_with_the_mend(tmp_path: Path, tiny: Tiny, train: Any, observer: Any) -> None:
    with pytest.raises(RunError, match=r"loss of stage clip is no number.*lower clip\.learning_rate"):
        train(tiny({"clip": {"learning_rate": 1e30, "steps": 6}}))
    assert not (tmp_path / "run" / "clip").exists()
    assert observer.told[-1] == (None,)  # so that the bar is taken away


# ------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decoder": {"chanels": [8]}}, r"decoder\.chanels.*Did you mean 'channels'\?.*batch_size.*warmup"),
        ({"decodr": {}}, r"unknown setting 'decodr'.*Did you mean 'decoder'\?.*ar_prior, clip"),
        ({"clip": {"image": {"width": 30}}}, r"clip\.image.*width 30 is not divisible by heads 4"),
        ({"prior": {"width": 30}}, r"prior.*width 30 is not divisible by heads 4"),
        ({"decoder": {"channels": [16, 40]}}, r"channels 40: must be divisible by 8 and by head_dim 32"),
        ({"decoder": {"channels": [12]}}, r"channels 12: must be divisible by 8"),
        ({"decoder": {"channels": []}}, r"decoder\.channels"),
        ({"data": {"size": 24}, "decoder": {"channels": [32] * 4}}, r"24 px cannot be halved 3 times.*multiple of 16"),
        ({"clip": {"patch_size": 5}}, r"clip\.patch_size = 5 does not divide images of 32 px"),
        ({"decoder": {"size": 16}}, r"decoder\.size = 16 is not data\.size = 32, and upsampler\.on is false"),
        ({"decoder": {"size": -16}}, r"decoder\.size = -16: input should be greater"),
        ({"upsampler": {"on": True}}, r"from decoder\.size = 32 to data\.size = 32.*multiple"),
        ({"upsampler": {"on": True}, "data": {"size": 48}, "decoder": {"size": 32}}, "multiple of it"),
        ({"upsampler": {"channels": [20]}}, "channels 20: must be divisible by 8"),
        (
            {"upsampler": {"on": True, "channels": [8] * 5}, "data": {"size": 48}, "decoder": {"size": 24}},
            "48 px cannot be halved 4 times.*as the upsampler does.*multiple of 32",
        ),
        ({"clip": {"steps": 0}}, r"clip\.steps = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"device": "gpu"}, "device = 'gpu'.*cpu.*cuda"),
        ({"data": 5}, "data = 5"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_words(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        creative_config(settings)


def test_presets_are_valid_and_come_back_from_their_yaml(tmp_path: Path) -> None:
    for name in PRESETS:
        config = creative_config({}, name)
        (tmp_path / "config.yaml").write_text(dump(config))
        assert load_config(tmp_path) == config
    assert creative_config({"clip": {"steps": 7}}, "gpu").clip.batch_size == PRESETS["gpu"]["clip"]["batch_size"]
    with pytest.raises(ConfigError, match=r"unknown preset 'papr'.*Did you mean 'paper'\?"):
        creative_config({}, "papr")


# ------------------------------------------------------------------------------------------------- an upsampler


def test_a_run_with_an_upsampler_works_from_end_to_end(tmp_path: Path, tiny: Tiny, train: Any, observer: Any) -> None:
    config = tiny({"data": {"size": 32, "number": 40}, "decoder": {"size": 16}, "upsampler": {"on": True}})
    train(config)
    assert started(observer) == list(STAGES)
    studio = load(tmp_path / "run")
    pictures = studio.generate("a red mug", 2)
    assert pictures.images.shape == (1, 2, 3, 32, 32)
    assert (studio.generate("a red mug", 2).images == pictures.images).all()
    picture = np.array(ImageSet.load(tmp_path / "run" / "data").images[0])
    assert picture.shape == (3, 32, 32)
    assert studio.edit(picture, "a red mug", "a blue shoe", thetas=(0, 0.5)).images.shape == (1, 2, 3, 32, 32)
    inverted, x_T, _ = studio.invert(picture)
    assert x_T.shape == (1, 3, 16, 16)
    assert inverted.images.shape == (1, 2, 3, 16, 16)


def test_a_checkpoint_is_not_taken_by_a_run_of_other_sizes(
    tmp_path: Path, tiny: Tiny, train: Any, resume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    with pytest.raises(Interrupted):
        train(tiny(), ["clip"], should_stop=lambda: True)
    (tmp_path / "run" / "config.yaml").write_text(dump(tiny({"clip": {"embedding_dim": 32}})))
    with pytest.raises(RunError, match=r"another size.*checkpoint/clip\.safetensors"):
        resume(tmp_path / "run")


def test_public_names_are_what_they_say_whatever_else_is_imported() -> None:
    """A module of a public name's own name would take its place once it is imported."""
    for file in Path(creative.__file__).parent.glob("*.py"):
        importlib.import_module(f"clickherd.creative.{file.stem}")
    assert all(callable(getattr(creative, name)) for name in creative.__all__)


def test_clip_sees_a_batch_at_once_and_the_other_stages_may_see_it_in_parts(trained: Path) -> None:
    workshop = Workshop(load_config(trained), ImageSet.load(trained / "data"), torch.device("cpu"))
    clip = load_clip_of(trained)
    parts = {name: workshop.stage(name, lambda: clip).parts for name in TRAINED}
    assert parts == {"clip": 1, "prior": PARTS, "ar_prior": PARTS, "decoder": PARTS}


@pytest.mark.parametrize("different", [2, 16])
def test_a_set_that_no_judge_can_learn_is_told_before_training(
    tmp_path: Path, tiny: Tiny, train: Any, different: int
) -> None:
    write_images(tmp_path / "shop", 16)
    files = sorted((tmp_path / "shop").rglob("*.png"))
    lines = [f"{file.relative_to(tmp_path / 'shop')},thing {i % different}" for i, file in enumerate(files)]
    (tmp_path / "shop" / "captions.csv").write_text("\n".join(["file_name,caption", *lines]))
    train(tiny({"data": {"source": str(tmp_path / "shop")}}), ["clip"])
    assert any("--label names columns" in text for text in train.told) == (different == 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["prior", "ar_prior", "decoder"])
def test_two_threads_find_the_gradients_that_one_finds(trained: Path, tiny: Tiny, name: str, precision: str) -> None:
    workshop = Workshop(tiny(), ImageSet.load(trained / "data"), torch.device("cpu"))
    clip = load_clip_of(trained)
    with seeded(0):
        stage = workshop.stage(name, lambda: clip)
    weights = [p for p in stage.module.parameters() if p.requires_grad]
    rows, found = np.array_split(stage.train_rows[:64], 4), []
    with threads_kept():
        for count in (1, 2):
            torch.set_num_threads(count)
            with loop.Workers(count) as workers:
                loss = loop.backward(stage, rows, [1, 2, 3, 4], precision, workers)
            found.append([loss, *(p.grad if p.grad is not None else torch.zeros_like(p) for p in weights)])
    assert sum(float(gradient.abs().max()) > 0 for gradient in found[0]) > 10
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)
