"""The studio: the same call gives the same pictures, what changes a picture begins with it, and faults are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clickherd.creative import latent, sampler
from clickherd.creative.captions import encode_texts
from clickherd.creative.dataset import ImageSet
from clickherd.creative.images import save_png
from clickherd.creative.studio import Studio, load
from clickherd.errors import ConfigError, DataError, RunError
from clickherd.runtime import threads_kept

PROMPT, OTHER = "a photo of a red mug on the left, white background", "a photo of a blue shoe in the centre"
FINE = {"invert_steps": 10}  # lead an untrained decoder back to a picture, over 40 dB


@pytest.fixture(scope="module")
def picture(trained: Path) -> np.ndarray:
    return np.array(ImageSet.load(trained / "data").images[3])


@pytest.fixture(scope="module")
def second(trained: Path) -> np.ndarray:
    return np.array(ImageSet.load(trained / "data").images[11])


def decibels(a: np.ndarray, b: np.ndarray) -> float:
    error = np.square(a.astype(float) - b.astype(float)).mean()
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for the last place: products of another number of rows are rounded in another way."""
    return int(np.abs(a.astype(int) - b).max()) <= 1


# ------------------------------------------------------------------------------------------------- from words


def test_a_prompt_and_a_seed_give_the_same_pictures_whatever_is_beside_them(studio: Studio, trained: Path) -> None:
    alone = studio.generate(PROMPT, 3)
    assert alone.images.shape == (1, 3, 3, 16, 16)
    assert alone.images.dtype == np.uint8
    assert (alone.rows, alone.columns) == ([PROMPT], ["1", "2", "3"])
    assert (load(trained).generate(PROMPT, 3).images == alone.images).all()
    beside = studio.generate(["mug", PROMPT, "mug, " + OTHER], 3)
    assert near(beside.images[1], alone.images[0])
    assert near(studio.generate(PROMPT, 1).images[0, 0], alone.images[0, 0])
    assert near(studio.generate([PROMPT, PROMPT], 2).images[1], alone.images[0, :2])


def test_seeds_numbers_prompts_and_settings_make_other_pictures(studio: Studio) -> None:
    first = studio.generate(PROMPT, 2)
    assert not near(first.images[0, 0], first.images[0, 1])
    assert not near(studio.generate(PROMPT, 2, seed=1).images, first.images)
    assert not near(studio.generate(OTHER, 2).images, first.images)
    assert not near(studio.generate(PROMPT, 2, decoder_steps=2).images, first.images)
    assert not near(studio.generate(PROMPT, 2, decoder_guidance=3.0).images, first.images)


def test_what_is_made_beside_a_picture_does_not_change_how_it_is_enlarged(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(studio, "enlarged", lambda images, keys, _: (asked.append(list(keys)), images)[1])
    studio.generate(PROMPT, 2)
    studio.generate([OTHER, PROMPT], 2)
    assert asked[1][2:] == asked[0]
    assert len(set(asked[1])) == 4


def test_the_decoder_sees_the_words_only_if_it_is_to(studio: Studio) -> None:
    texts = encode_texts(studio.clip, [PROMPT])
    z, x_T = texts.embedding, studio.noise([1])
    blind = studio.decoded(z, x_T, studio.sampling({}))
    seeing = studio.decoded(z, x_T, studio.sampling({}), texts=texts)
    assert not torch.allclose(blind, seeing, atol=1e-3)
    studio.__dict__["noise"] = lambda keys: x_T.expand(len(keys), -1, -1, -1)
    try:
        for caption, expected in ((False, blind), (True, seeing)):
            drawn = studio.draw([PROMPT], [0], studio.sampling({"caption": caption}), seed=0, prior="none")
            torch.testing.assert_close(drawn, expected)
    finally:
        del studio.__dict__["noise"]


def test_each_prior_leads_to_embeddings_of_its_own(studio: Studio) -> None:
    made = {prior: studio.generate(PROMPT, 1, prior=prior).images for prior in ("diffusion", "ar", "none")}
    assert len({images.tobytes() for images in made.values()}) == 3
    texts = encode_texts(studio.clip, [PROMPT])
    sampling = studio.sampling({})
    assert torch.equal(studio.embed(texts, [1], "none", sampling), texts.embedding)
    for prior in ("diffusion", "ar"):
        z = studio.embed(texts, [1], prior, sampling)
        assert float(z.norm()) == pytest.approx(1, abs=1e-5)
        more = studio.embed(texts, [1], prior, studio.sampling({"candidates": 6}))
        assert float((more * texts.embedding).sum()) >= float((z * texts.embedding).sum()) - 1e-6  # the best of more
        assert not torch.equal(studio.embed(texts, [2], prior, sampling), z)


def test_of_the_candidates_the_one_nearest_the_text_is_taken(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = encode_texts(studio.clip, [PROMPT, OTHER])
    drawn: list[torch.Tensor] = []

    def sample(_: Any, noise: torch.Tensor, **__: Any) -> torch.Tensor:
        drawn.append(torch.nn.functional.normalize(noise, dim=-1))
        return drawn[-1]

    monkeypatch.setattr(studio.prior, "sample", sample)
    z = studio.embed(texts, [1, 2], "diffusion", studio.sampling({"candidates": 5}))
    assert len(drawn) == 5
    cosines = torch.stack([(c * texts.embedding).sum(1) for c in drawn])
    torch.testing.assert_close((z * texts.embedding).sum(1), cosines.max(0).values)


@torch.no_grad()
def test_pictures_do_not_depend_on_how_many_are_made_at_once(
    studio: Studio, picture: np.ndarray, second: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = torch.from_numpy(np.stack([picture, second, picture])).float() / 127.5 - 1
    z, sampling = studio.clip.encode_image(several), studio.sampling({"invert_steps": 5, "decoder_steps": 2})

    def made() -> list[np.ndarray]:
        return [
            studio.generate([PROMPT, OTHER], 2).images,
            studio.generate([PROMPT, OTHER], 2, prior="ar").images,
            sampler.to_uint8(studio.inverted(several, z, sampling)),
            sampler.to_uint8(studio.decoded(z, studio.noise([1, 2, 3]), sampling)),
            studio.vary(picture, 3, etas=(0.5,), invert_steps=5).images,
            studio.edit(picture, PROMPT, OTHER, thetas=(0.2, 0.4), invert_steps=5).images,
        ]

    whole = made()
    monkeypatch.setattr(sampler, "AT_ONCE", {"cpu": 2})
    with threads_kept():
        torch.set_num_threads(1)
        in_parts = made()
    assert all(near(a, b) for a, b in zip(in_parts, whole, strict=True))
    with threads_kept():
        torch.set_num_threads(2)  # one of the parts each
        assert all((a == b).all() for a, b in zip(made(), in_parts, strict=True))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prior": "difusion"}, r"unknown prior 'difusion'.*Did you mean 'diffusion'\?.*ar.*none"),
        ({"decoder_step": 5}, r"unknown setting 'sample\.decoder_step'.*Did you mean 'decoder_steps'\?"),
        ({"decoder_steps": 0}, r"sample\.decoder_steps = 0"),
        ({"decoder_steps": 7}, r"7 sampling steps do not divide 1000.*Take 8"),
        ({"prior_guidance": -1}, r"sample\.prior_guidance = -1"),
    ],
)
def test_faults_in_what_is_asked_are_told(studio: Studio, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        studio.generate(PROMPT, 1, **arguments)


def test_faults_in_prompts_are_told(studio: Studio) -> None:
    for prompts in ("  ", [PROMPT, ""]):
        with pytest.raises(DataError, match="empty caption"):
            studio.generate(prompts)
    with pytest.raises(DataError, match=r"caption 'a mug a mug .* tokens, and this CLIP reads"):
        studio.generate([PROMPT, "a mug " * 60])


def test_a_studio_takes_settings_devices_and_threads(trained: Path, studio: Studio) -> None:
    coarse = load(trained, sample={"decoder_steps": 2}, threads=1)
    assert coarse.config.sample.decoder_steps == 2
    assert coarse.config.sample.prior_steps == 5  # the run's
    assert near(coarse.generate(PROMPT, 1).images, studio.generate(PROMPT, 1, decoder_steps=2).images)
    with pytest.raises(ConfigError, match=r"sample\.steps.*Valid names"):
        load(trained, sample={"steps": 2})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            load(trained, device="cuda")
    with pytest.raises(ConfigError, match=r"device = 'tpu'.*cpu"):
        load(trained, device="tpu")
    with pytest.raises(RunError, match="no run folder"):
        load(trained / "nowhere")


def test_a_stage_that_is_not_trained_is_told_when_it_is_needed(copied: Path) -> None:
    (copied / "ar_prior" / "model.safetensors").unlink()
    assert load(copied).generate(PROMPT, 1).images.any()
    with pytest.raises(RunError, match=r"stage ar_prior is not trained.*--stage ar_prior"):
        load(copied).generate(PROMPT, 1, prior="ar")


# ------------------------------------------------------------------------------------------------- from pictures


def test_variations_are_alike_without_noise_and_differ_with_it(studio: Studio, picture: np.ndarray) -> None:
    made = studio.vary(picture, 3, etas=(0.0, 1.0), **FINE)
    assert made.images.shape == (2, 3, 3, 16, 16)
    assert made.rows == ["η = 0", "η = 1"]
    assert near(made.images[0, 1], made.images[0, 0])
    assert near(made.images[0, 2], made.images[0, 0])
    assert decibels(made.images[0, 0], picture) > 30
    distances = [decibels(made.images[1, k], made.images[1, (k + 1) % 3]) for k in range(3)]
    assert max(distances) < 30
    assert not near(studio.vary(picture, 3, etas=(1.0,), seed=1, **FINE).images, made.images[1:])
    assert near(studio.vary(picture, 2, etas=(1.0,), **FINE).images[0], made.images[1, :2])


def test_a_blend_goes_from_one_picture_to_the_other(studio: Studio, picture: np.ndarray, second: np.ndarray) -> None:
    made = studio.blend(picture, second, 3, **FINE)
    assert made.images.shape == (2, 3, 3, 16, 16)
    assert (made.rows, made.columns) == (["x_T slerped", "x_T fixed"], ["0.00", "0.50", "1.00"])
    assert decibels(made.images[0, 0], picture) > 30
    assert decibels(made.images[0, 2], second) > 30
    assert decibels(made.images[0, 1], picture) < 30
    assert decibels(made.images[0, 1], second) < 30
    reverse = studio.blend(second, picture, 3, **FINE)
    assert near(reverse.images[:, ::-1], made.images)


def test_an_edit_begins_with_the_picture_and_leaves_it(studio: Studio, picture: np.ndarray) -> None:
    made = studio.edit(picture, PROMPT, OTHER, thetas=(0.0, 0.5, 1.0), **FINE)
    assert (made.rows, made.columns) == ([f"{PROMPT} → {OTHER}"], ["θ = 0", "θ = 0.5", "θ = 1"])
    assert decibels(made.images[0, 0], picture) > 30
    assert not near(made.images[0, 1], made.images[0, 0])
    assert not near(made.images[0, 2], made.images[0, 1])


def test_guidance_of_the_settings_leaves_inverted_pictures_alone(trained: Path, picture: np.ndarray) -> None:
    """The noise was found without guidance: with it, it would not lead back."""
    guided = load(trained, sample={"decoder_guidance": 3.0})
    plain = load(trained)
    assert not near(guided.generate(PROMPT, 1).images, plain.generate(PROMPT, 1).images)
    for made in (
        lambda studio: studio.vary(picture, 1, etas=[0.0]),
        lambda studio: studio.edit(picture, PROMPT, OTHER, thetas=[0.0]),
        lambda studio: studio.blend(picture, picture[:, ::-1].copy(), 2),
        lambda studio: studio.invert(picture)[0],
    ):
        assert near(made(guided).images, made(plain).images)


def test_descriptions_without_a_direction_between_them_are_told(
    studio: Studio, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"'a mug' → 'a mug': .*same embedding.*more differently"):
        studio.edit(picture, "a mug", "a mug")
    with pytest.raises(DataError, match="empty caption"):
        studio.edit(picture, "", "a mug")
    true = latent.text_diff
    monkeypatch.setattr(latent, "text_diff", lambda z, a, b, theta: true(z, a, a - z, theta))
    with pytest.raises(ConfigError, match="opposite"):
        studio.edit(picture, PROMPT, OTHER, thetas=(0.5,))


def test_a_probe_keeps_the_first_components(studio: Studio, picture: np.ndarray) -> None:
    made = studio.probe(picture, [1, 4, 16])
    assert made.images.shape == (2, 3, 3, 16, 16)
    assert made.columns == ["1 components", "4 components", "16 components"]
    assert not near(made.images[0], made.images[1])  # of another noise
    with torch.no_grad():
        z = studio.clip.encode_image(torch.from_numpy(picture)[None])
    assert float((studio.first_components(z, 16) - z).abs().max()) < 1e-3  # all of them
    distances = [float((studio.first_components(z, k) - z).norm()) for k in (1, 4, 16)]
    assert distances == sorted(distances, reverse=True)
    dims = studio.probe_dims()
    assert dims[:3] == [1, 2, 4]
    assert dims == sorted(set(dims))
    assert dims[-1] <= 16
    assert studio.probe(picture).columns == [f"{k} components" for k in dims]
    for wrong in ([0, 2], [-1], [4, 17]):
        with pytest.raises(ConfigError, match=r"dims = .*from 1 to the 16 components of this run"):
            studio.probe(picture, wrong)


def test_the_noise_of_an_inversion_leads_back_to_the_picture(studio: Studio, picture: np.ndarray) -> None:
    made, x_T, found = studio.invert(picture, **FINE)
    assert x_T.shape == (1, 3, 16, 16)
    assert (made.images[0, 0] == picture).all()
    assert found > 30
    assert decibels(made.images[0, 1], picture) > 30  # of bytes, which round
    assert made.columns == ["picture", f"{found:.1f} dB"]
    with torch.no_grad():
        z = studio.clip.encode_image(torch.from_numpy(picture)[None])
    again = sampler.to_uint8(studio.decoded_back(z, x_T, studio.sampling(FINE)))
    assert near(again[0], made.images[0, 1])
    assert decibels(sampler.to_uint8(studio.decoded(z, studio.noise([5]), studio.sampling(FINE)))[0], picture) < 20


def test_a_file_a_path_and_an_array_are_the_same_picture(studio: Studio, picture: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "mug.png"
    save_png(picture, file)
    made = [studio.vary(given, 1, etas=(1.0,)).images for given in (str(file), file, picture)]
    assert (made[0] == made[1]).all()
    assert (made[0] == made[2]).all()
    large = tmp_path / "large.png"
    save_png(picture.repeat(4, 1).repeat(4, 2), large)
    assert decibels(studio.invert(large)[0].images[0, 0], picture) > 30


def test_pictures_that_cannot_be_used_are_told_by_name(studio: Studio, tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "words.png").write_text("no picture")
    Image.new("RGB", (7, 40)).save(tmp_path / "strip.png")
    cases = {"words.png": "not an image", "strip.png": "7", "gone.png": "no such file"}
    for name, says in cases.items():
        with pytest.raises(DataError, match=rf"(?i){says}.*{name}"):
            studio.vary(tmp_path / name)
        with pytest.raises(DataError, match=name):
            studio.blend(picture, str(tmp_path / name))
    for odd in (picture.transpose(1, 2, 0), picture.astype(np.float32)):
        with pytest.raises(DataError, match=r"uint8 of shape \(3, S, S\)"):
            studio.invert(odd)


# ------------------------------------------------------------------------------------------------- what is made


def test_pictures_are_saved_one_by_one_and_on_a_sheet(studio: Studio, tmp_path: Path) -> None:
    made = studio.generate([PROMPT, OTHER], 3)
    files = made.save(tmp_path / "new" / "folder")
    names = ["sheet.png", *(f"{i:02}-{k:02}.png" for i in (1, 2) for k in (1, 2, 3))]
    assert [file.name for file in files] == names
    assert sorted(names) == sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    for file, pixels in zip(files[1:], made.images.reshape(-1, 3, 16, 16), strict=True):
        with Image.open(file) as image:
            assert image.format == "PNG"
            assert (np.asarray(image).transpose(2, 0, 1) == pixels).all()
    with Image.open(files[0]) as sheet:
        assert sheet.width > 3 * 16 * 4
        assert sheet.height > 2 * 16 * 4
