"""CLIP: the loss by hand, a tokenizer that writes anything, embeddings that transformers gives too, a strict loader."""

from __future__ import annotations

import json
import math
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoImageProcessor, CLIPModel

from clickherd.creative import clip as clip_module
from clickherd.creative.captions import CaptionTable, encode_texts
from clickherd.creative.clip import BEGIN, END, PAD, Clip, contrastive, learn_tokenizer, load_clip, new_clip
from clickherd.creative.config import ClipConfig, TowerConfig
from clickherd.errors import DataError, RunError

CAPTIONS = ["a red circle", "a blue square", "a green triangle on white paper"]
TOWER = TowerConfig(width=16, layers=2, heads=2)
CONFIG = ClipConfig(embedding_dim=8, image=TOWER, text=TOWER, vocabulary_size=300)


def a_clip(config: ClipConfig = CONFIG, size: int = 16) -> Clip:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = new_clip(config, size, CAPTIONS).eval().requires_grad_(False)
        for weight in clip.model.parameters():  # away from where a bias is zero and a norm is one
            weight.add_(0.1 * torch.randn_like(weight))
    return clip


@pytest.fixture(scope="module")
def clip() -> Clip:
    return a_clip()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture
def folder(clip: Clip, tmp_path: Path) -> Path:
    clip.save(tmp_path / "clip")
    return tmp_path / "clip"


def test_the_loss_of_three_images_and_two_captions_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.5], [-1.0, 1.0], [1.0, 3.0]])  # images 0 and 2 have caption 0

    def log_sum(*values: float) -> float:
        return math.log(sum(math.exp(value) for value in values))

    to_text = ((log_sum(2, 0.5) - 2) + (log_sum(-1, 1) - 1) + (log_sum(1, 3) - 1)) / 3
    first, second = log_sum(2, -1, 1), log_sum(0.5, 1, 3)
    to_image = (((first - 2) + (first - 1)) / 2 + (second - 1)) / 2
    assert float(contrastive(logits, torch.tensor([0, 1, 0]))) == pytest.approx((to_text + to_image) / 2)


def test_where_all_captions_differ_the_loss_is_the_ordinary_one() -> None:
    logits, own = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    want = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(contrastive(logits, own), want)
    order = torch.tensor([3, 0, 5, 1, 2, 4])  # the captions in any other order
    torch.testing.assert_close(contrastive(logits[:, order], order.argsort()), want)


def test_images_with_one_caption_are_no_negatives_of_each_other() -> None:
    caption = torch.tensor([0, 0, 0, 1])
    perfect = torch.where(torch.nn.functional.one_hot(caption) == 1, 50.0, -50.0).requires_grad_()
    loss = contrastive(perfect, caption)
    # image to text is certain, though three images share a caption; a caption spreads over its three images
    assert loss.item() == pytest.approx(math.log(3) / 2 / 2)
    (slope,) = torch.autograd.grad(loss, perfect)
    assert float(slope.abs().max()) < 1e-7  # there is nothing better
    start = torch.zeros(4, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(contrastive(start, caption), start)
    assert bool((slope[caption == 0, 0] < 0).all())  # each of its images is drawn nearer


def test_every_caption_counts_alike_however_many_images_it_has() -> None:
    logits = torch.tensor([[0.0, 0.0]] * 9 + [[0.0, 5.0]])
    caption = torch.tensor([0] * 9 + [1])
    log_sum = math.log(9 + math.exp(5))
    to_text = (9 * math.log(2) + math.log(1 + math.exp(-5))) / 10
    want = (to_text + (math.log(10) + log_sum - 5) / 2) / 2
    assert float(contrastive(logits, caption)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("log_scale", "scale"), [(0.0, 1.0), (math.log(20), 20.0), (math.log(100) + 3, 100.0)])
def test_the_loss_scales_the_similarities_by_at_most_a_hundred(images: Tensor, log_scale: float, scale: float) -> None:
    clip = a_clip()
    clip.model.logit_scale.fill_(log_scale)
    captions = [CAPTIONS[1], CAPTIONS[0], CAPTIONS[1]]
    logits = scale * clip.encode_image(images) @ clip.encode_text([CAPTIONS[1], CAPTIONS[0]]).embedding.T
    torch.testing.assert_close(clip.loss(images, captions), contrastive(logits, torch.tensor([0, 1, 0])))


def test_pixels_by_hand(clip: Clip) -> None:
    shades = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 3, 16, 16)
    assert clip.pixels(shades)[:, 0, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])
    torch.testing.assert_close(clip.pixels(shades.float() / 127.5 - 1), clip.pixels(shades))
    other = Clip(clip.model, clip.tokenizer, mean=(0.5, 0.2, 0), std=(0.25, 0.2, 2))
    assert other.pixels(shades)[2, :, 5, 5].tolist() == pytest.approx([2, 4, 0.5])
    large = torch.cat([shades.repeat_interleave(2, 2).repeat_interleave(2, 3)])
    assert clip.pixels(large).shape == (3, 3, 16, 16)
    torch.testing.assert_close(clip.pixels(large), clip.pixels(shades))


def written(clip: Clip, text: str) -> str:
    ids, _ = clip.tokenize([text])
    return str(clip.tokenizer.decode(ids[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    "text", ["a red circle", "quux 12,345", "zürich 🦊 漢字", "naïve — “ok”", "tab\tand\nline", "x" * 20]
)
def test_any_text_is_written_in_tokens_and_read_back(text: str) -> None:
    clip = a_clip(ClipConfig(**{**CONFIG.model_dump(), "context_length": 64}))
    ids, mask = clip.tokenize([text])
    assert clip.tokenizer.convert_ids_to_tokens([int(ids[0, 0]), int(ids[0, -1])]) == [BEGIN, END]
    assert mask.all()
    assert written(clip, text) == text


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_read_back_is_written_alike(text: str) -> None:
    tokenizer = learn_tokenizer(CAPTIONS, 300)
    ids = tokenizer(text, split_special_tokens=True)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True)
    assert tokenizer(back, split_special_tokens=True)["input_ids"] == ids
    folded = unicodedata.normalize("NFC", text)
    if folded.isascii():
        assert back.strip() == folded.lower().strip()


@pytest.mark.parametrize("special", [BEGIN, END, PAD])
def test_a_special_token_that_is_written_out_is_only_text(special: str) -> None:
    clip = a_clip(ClipConfig(**{**CONFIG.model_dump(), "context_length": 64}))
    ids, _ = clip.tokenize([f"a red {special} circle"])
    marks = clip.tokenizer.convert_tokens_to_ids([BEGIN, END, PAD])
    assert [int((ids == mark).sum()) for mark in marks] == [1, 1, 0]
    assert written(clip, f"a {special}") == f"a {special}"


def test_capitals_and_spaces_around_do_not_matter(clip: Clip) -> None:
    assert clip.tokenize(["  A Red CIRCLE "])[0].tolist() == clip.tokenize(["a red circle"])[0].tolist()
    assert clip.tokenize(["e\u0301"])[0].tolist() == clip.tokenize(["é"])[0].tolist()


def test_tokens_by_hand(clip: Clip) -> None:
    ids, mask = clip.tokenize(["a red circle", "a green triangle on white paper"])
    tokens = [clip.tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
    assert tokens[0] == [BEGIN, "Ġa", "Ġred", "Ġcircle", END, *[PAD] * 4]
    assert (tokens[1][0], tokens[1][-1]) == (BEGIN, END)
    assert mask.tolist() == [[1] * 5 + [0] * 4, [1] * 9]
    assert clip.tokenizer.convert_tokens_to_ids(END) != 2  # by which transformers would look for the end elsewhere


@pytest.mark.parametrize("captions", [[""], ["a red circle", " \n"]])
def test_an_empty_caption_is_refused(clip: Clip, captions: list[str]) -> None:
    with pytest.raises(DataError, match="an empty caption"):
        clip.tokenize(captions)


def test_the_beginning_of_a_caption_too_long_is_quoted_and_both_lengths_are_told(clip: Clip) -> None:
    limit = clip.context_length
    fits, long = "a " * (limit - 2), "a " * (limit + 5) + "square"
    assert clip.encode_text([fits]).tokens.shape == (1, limit, 16)
    told = rf"'{long[:60]}…' has {limit + 6} tokens, and this CLIP reads {limit - 2} at most.*clip.context_length"
    with pytest.raises(DataError, match=told):
        clip.encode_text(["a red circle", fits, long, fits + "a"])


def test_the_context_is_the_longest_caption_and_a_quarter() -> None:
    long = ["a " * 38, "a"]  # 40 tokens with both ends
    assert new_clip(CONFIG, 16, long).context_length == 50
    assert new_clip(CONFIG, 16, CAPTIONS).context_length == clip_module.SHORTEST
    assert a_clip(ClipConfig(**{**CONFIG.model_dump(), "context_length": 11})).context_length == 11


def test_an_embedding_does_not_depend_on_the_captions_beside(clip: Clip) -> None:
    alone, beside = clip.encode_text(CAPTIONS[:1]), clip.encode_text(CAPTIONS)
    assert alone.tokens.shape[1] < beside.tokens.shape[1]
    torch.testing.assert_close(alone.embedding[0], beside.embedding[0])
    torch.testing.assert_close(alone.tokens[0], beside.tokens[0, : alone.tokens.shape[1]])
    assert beside.mask.sum(1).tolist() == [5, 5, 9]
    assert len(beside[torch.tensor([2, 0])]) == 2
    torch.testing.assert_close(beside[torch.tensor([2, 0])].embedding, beside.embedding[[2, 0]])


def test_the_states_of_a_beginning_do_not_know_how_the_text_goes_on(clip: Clip) -> None:
    short, long = clip.encode_text(["a red circle"]), clip.encode_text(["a red circle on white paper"])
    other = clip.encode_text(["a blue circle on white paper"])
    torch.testing.assert_close(short.tokens[0, :4], long.tokens[0, :4])
    torch.testing.assert_close(short.tokens[0, :2], other.tokens[0, :2])
    assert not torch.allclose(long.tokens[0, 3:], other.tokens[0, 3:], atol=1e-2)
    assert not torch.allclose(short.embedding, long.embedding, atol=1e-2)


def test_a_text_is_embedded_by_the_state_at_its_end(clip: Clip) -> None:
    texts = clip.encode_text(CAPTIONS)
    at_end = texts.tokens[torch.arange(3), texts.mask.sum(1) - 1]
    torch.testing.assert_close(texts.embedding, normalize(clip.model.text_projection(at_end), dim=1))


def test_embeddings_have_unit_length(clip: Clip, images: Tensor) -> None:
    for embedding in (clip.encode_text(CAPTIONS).embedding, clip.encode_image(images)):
        assert embedding.shape == (3, 8)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
        assert not torch.allclose(embedding[0], embedding[1], atol=1e-3)


def test_the_table_of_captions_encodes_each_once(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = [CAPTIONS[2], CAPTIONS[0], CAPTIONS[2], CAPTIONS[1]]
    rows = torch.tensor([3, 0, 0, 1]).numpy()
    want = encode_texts(clip, [captions[row] for row in rows])
    table = CaptionTable(clip, captions)
    assert sorted(table.captions) == sorted(CAPTIONS)
    monkeypatch.setattr("clickherd.creative.captions.KEPT_BYTES", 0)
    monkeypatch.setattr("clickherd.creative.captions.AT_ONCE", 2)
    anew, parts = CaptionTable(clip, captions).texts(rows), encode_texts(clip, captions)
    for got in (table.texts(rows), anew, parts[torch.from_numpy(rows)]):
        torch.testing.assert_close(got.embedding, want.embedding)
        assert got.mask.tolist() == want.mask.tolist()
        torch.testing.assert_close(got.tokens[got.mask], want.tokens[want.mask])


def test_a_saved_clip_says_the_same(clip: Clip, images: Tensor, folder: Path) -> None:
    other = Clip(clip.model, clip.tokenizer, mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7))
    other.save(folder)
    loaded = load_clip(folder).eval()
    odd = [*CAPTIONS, "Zürich 🦊", f"a {END}"]
    assert loaded.tokenize(odd)[0].tolist() == clip.tokenize(odd)[0].tolist()
    torch.testing.assert_close(loaded.encode_text(odd).embedding, other.encode_text(odd).embedding)
    torch.testing.assert_close(loaded.encode_image(images), other.encode_image(images))
    facts = ("size", "context_length", "embedding_dim", "text_width")
    assert [getattr(loaded, fact) for fact in facts] == [16, clip.context_length, 8, 16]


def test_transformers_reads_the_folder_and_agrees(clip: Clip, images: Tensor, folder: Path) -> None:
    with clip_module.quiet():
        model = CLIPModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, clip.pixels(images), atol=1e-5, rtol=1e-5)
    ids, mask = clip.tokenize(CAPTIONS)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=pixels).pooler_output
        text = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        both = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    torch.testing.assert_close(normalize(image, dim=1), clip.encode_image(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normalize(text, dim=1), clip.encode_text(CAPTIONS).embedding, atol=1e-5, rtol=1e-5)
    scale = float(clip.model.logit_scale.exp())
    logits = scale * clip.encode_image(images) @ clip.encode_text(CAPTIONS).embedding.T
    torch.testing.assert_close(both.logits_per_image, logits, atol=1e-4, rtol=1e-4)


FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_lacks_a_file_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"no {name} in the folder of the CLIP.*{folder}"):
        load_clip(folder)


def test_no_folder_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"no such folder.*{tmp_path / 'none'}"):
        load_clip(tmp_path / "none")


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def cut(name: str) -> Callable[[Path], None]:
    def halve(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return halve


def forget_the_mean(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("{}")


DAMAGE = {
    "width": change_config,
    "weight": lose_a_weight,
    "tokenizer": lose_the_tokenizer,
    "mean": forget_the_mean,
    **{f"half of {name}": cut(name) for name in FILES},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_told(folder: Path, damage: str) -> None:
    DAMAGE[damage](folder)
    with pytest.raises(RunError, match=str(folder)) as told:
        load_clip(folder)
    if damage == "weight":
        assert "visual_projection.weight" in str(told.value)
    shutil.rmtree(folder)
