"""The decoder: what its U-Net is given, what is hidden from it, its loss and its guidance."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from clickherd.creative import diffusion
from clickherd.creative.clip import Texts
from clickherd.creative.config import DecoderConfig
from clickherd.creative.decoder import Decoder
from creative_texts import drawn_texts, randn

D, W, SIZE = 8, 6, 16


def texts(rows: int, length: int = 5, seed: int = 0) -> Texts:
    return drawn_texts(rows, D, W, length, seed)


def a_decoder(**settings: object) -> Decoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = {"channels": (8, 16), "head_dim": 8, "context_dim": 8, "embedding_tokens": 3}
        decoder = Decoder(DecoderConfig(**{**tiny, **settings}), SIZE, D, W).eval().requires_grad_(False)
        for weight in decoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    decoder.standardise(randn(30, D, seed=4) * 0.5 + 0.2, PIXELS)
    return decoder


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return a_decoder()


PIXELS = torch.tensor([0.0, 0.5, -0.5]).reshape(1, 3, 1, 1) + torch.tensor([0.25, -0.25]).reshape(2, 1, 1, 1)
SHOWN, HIDDEN = torch.tensor([False, False]), torch.tensor([True, True])
T = torch.tensor([10, 700])
X, Z = randn(2, 3, SIZE, SIZE, seed=1), randn(2, D, seed=2)


def differ(a: Tensor, b: Tensor) -> list[bool]:
    """For each row whether it is another."""
    return ((a - b).abs().flatten(1).amax(1) > 1e-4).tolist()


class Recorder(nn.Module):
    """Stands for the U-Net, and keeps what it was given."""

    def forward(self, x: Tensor, t_B: Tensor, context: Tensor, **more: Tensor) -> SimpleNamespace:
        self.given = {"x": x, "t": t_B, "context": context, **more}
        return SimpleNamespace(sample=x * 3)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_an_image_goes_in_and_one_of_its_size_comes_out(patch: int) -> None:
    decoder = a_decoder(patch=patch)
    out = decoder(X, T, Z, texts(2), SHOWN, SHOWN)
    assert out.shape == (2, 3, SIZE, SIZE)
    assert decoder.unet.config.in_channels == 3 * patch**2
    decoder.unet = Recorder()
    torch.testing.assert_close(decoder(X, T, Z, texts(2), SHOWN, SHOWN), 3 * X)  # each pixel comes back to its place
    assert decoder.unet.given["x"].shape == (2, 3 * patch**2, SIZE // patch, SIZE // patch)


def test_what_the_unet_is_given() -> None:
    decoder, said = a_decoder(), texts(2)
    decoder.unet = Recorder()
    decoder(X, T, Z, said, torch.tensor([False, True]), torch.tensor([True, False]))
    given = decoder.unet.given
    z = torch.stack([(Z[0] - decoder.mean) / decoder.std, decoder.no_embedding])
    torch.testing.assert_close(given["class_labels"], z)  # projected and added to the timestep's embedding
    assert torch.equal(given["t"], T)
    assert given["context"].shape == (2, 3 + 5, 8)
    torch.testing.assert_close(given["context"][:, :3].flatten(1), decoder.embedding_tokens(z))
    torch.testing.assert_close(given["context"][:, 3:], decoder.text_tokens(said.tokens))
    assert given["encoder_attention_mask"].tolist() == [[True] * 3 + [False] * 5, [True] * 3 + said.mask[1].tolist()]


def test_everything_counts(decoder: Decoder) -> None:
    said, other = texts(2), texts(2, seed=9)
    base = decoder(X, T, Z, said, SHOWN, SHOWN)
    for changed in (
        decoder(X, T, Z, Texts(said.embedding, other.tokens, said.mask), SHOWN, SHOWN),
        decoder(X, T + 100, Z, said, SHOWN, SHOWN),
        decoder(X + 0.5, T, Z, said, SHOWN, SHOWN),
        decoder(X, T, Z + 0.5, said, SHOWN, SHOWN),
        decoder(X, T, Z, said, HIDDEN, SHOWN),
        decoder(X, T, Z, said, SHOWN, HIDDEN),
    ):
        assert differ(changed, base) == [True, True]


@pytest.mark.parametrize("way", ["class_labels", "context"])
def test_the_embedding_comes_in_two_ways(way: str) -> None:
    decoder = a_decoder()
    if way == "context":
        decoder.unet.class_embedding.linear_2.weight.zero_()
    else:
        decoder.embedding_tokens.weight.zero_()
    base = decoder(X, T, Z, texts(2), SHOWN, SHOWN)
    assert differ(decoder(X, T, Z + 1, texts(2), SHOWN, SHOWN), base) == [True, True]


def test_padding_does_not_count(decoder: Decoder) -> None:
    said = texts(2)
    base = decoder(X, T, Z, said, SHOWN, SHOWN)
    filled = Texts(said.embedding, torch.where(said.mask[..., None], said.tokens, 99.0), said.mask)
    torch.testing.assert_close(decoder(X, T, Z, filled, SHOWN, SHOWN), base)
    alone = Texts(said.embedding[:1], said.tokens[:1, :3], said.mask[:1, :3])
    got = decoder(X[:1], T[:1], Z[:1], alone, SHOWN[:1], SHOWN[:1])
    torch.testing.assert_close(got, base[:1], atol=1e-5, rtol=1e-4)


def test_a_hidden_text_is_not_seen(decoder: Decoder) -> None:
    half = torch.tensor([True, False])
    one, two = (decoder(X, T, Z, texts(2, seed=seed), SHOWN, half) for seed in (0, 9))
    assert differ(one, two) == [False, True]
    without = decoder(X, T, Z, None, SHOWN, SHOWN)
    assert differ(one, without) == [False, True]


def test_a_hidden_embedding_is_not_seen(decoder: Decoder) -> None:
    half = torch.tensor([False, True])
    one, two = (decoder(X, T, z, texts(2), half, SHOWN) for z in (Z, Z + 1))
    assert differ(one, two) == [True, False]


def test_a_decoder_without_text_never_sees_it() -> None:
    decoder = a_decoder(text=False)
    assert decoder.text_tokens is None
    base = decoder(X, T, Z, None, SHOWN, SHOWN)
    assert torch.equal(decoder(X, T, Z, texts(2), SHOWN, SHOWN), base)
    decoder.unet = Recorder()
    decoder(X, T, Z, texts(2), SHOWN, SHOWN)
    assert decoder.unet.given["context"].shape == (2, 3, 8)


def test_standardise() -> None:
    decoder = a_decoder()
    points = torch.cat([torch.tensor([[1.0], [3.0], [5.0]]).expand(3, D - 1), torch.full((3, 1), 2.0)], 1)
    decoder.standardise(points, PIXELS)
    assert decoder.mean.tolist() == [3] * (D - 1) + [2]
    assert decoder.std.tolist() == pytest.approx([2] * (D - 1) + [1e-6])
    assert {"mean", "std"} <= set(decoder.state_dict())


def test_pixels_have_mean_0_and_variance_1_for_diffusion_and_come_back(decoder: Decoder) -> None:
    inside = PIXELS.expand(2, 3, 4, 4)
    standardised = decoder.standardised(inside)
    assert standardised[:, :, 0, 0].tolist() == [[1, 1, 1], [-1, -1, -1]]
    torch.testing.assert_close(decoder.restored(standardised), inside)
    assert float(decoder.restored(torch.full((1, 3, 4, 4), 99.0)).max()) == 1  # a picture's range


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, rows = a_decoder(drop_embedding=0.2, drop_text=0.6), 2000
    images, z, said = randn(rows, 3, 2, 2, seed=5) * 0.5, randn(rows, D), texts(rows)
    x_0 = (images - torch.tensor([0.0, 0.5, -0.5]).reshape(3, 1, 1)) / 0.25  # by the mean and spread of PIXELS
    asked: list[tuple[Tensor, ...]] = []

    def forward(x_t: Tensor, t_B: Tensor, given_z: Tensor, given: Texts, no_z: Tensor, no_text: Tensor) -> Tensor:
        assert given_z is z
        assert given is said
        asked.append((x_t, t_B, no_z, no_text))
        return 0.25 * x_t

    monkeypatch.setattr(decoder, "forward", forward)
    loss = decoder.loss(images, z, said, torch.Generator().manual_seed(0))
    x_t, t_B, no_z, no_text = asked[0]
    bar = diffusion.schedule("sample").alphas_cumprod.double()[t_B].reshape(-1, 1, 1, 1)
    noise = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()
    v = bar.sqrt() * noise - (1 - bar).sqrt() * x_0
    assert float(loss) == pytest.approx(float((0.25 * x_t - v).square().mean()), rel=1e-3)
    clear = noise[t_B > 100]  # of earlier steps little is noise
    assert float(clear.mean()) == pytest.approx(0, abs=0.03)
    assert float(clear.std()) == pytest.approx(1, abs=0.02)
    assert float(t_B.float().mean()) == pytest.approx(599.5, abs=20)  # of a density ∝ √t
    assert float((t_B < 100).float().mean()) == pytest.approx(0.1**1.5, abs=0.015)
    assert int(t_B.max()) > 995
    assert float(no_z.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert float(no_text.float().mean()) == pytest.approx(0.6, abs=0.03)
    assert float((no_z & no_text).float().mean()) == pytest.approx(0.12, abs=0.03)  # each for itself
    assert torch.equal(loss, decoder.loss(images, z, said, torch.Generator().manual_seed(0)))


def test_how_much_high_noise_is_learned_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, asked = a_decoder(high_noise=0.0), []
    monkeypatch.setattr(decoder, "forward", lambda x_t, t_B, *_: asked.append(t_B) or x_t)
    decoder.loss(randn(2000, 3, 2, 2), randn(2000, D), texts(2000), torch.Generator().manual_seed(0))
    assert float(asked[0].float().mean()) == pytest.approx(499.5, abs=20)


@pytest.mark.parametrize(("guidance", "want"), [(1, 5.0), (0, 2.0), (2.5, 9.5)])
@pytest.mark.parametrize("said", [None, texts(2)])
def test_guidance_is_away_from_neither_embedding_nor_text(
    monkeypatch: pytest.MonkeyPatch, guidance: float, want: float, said: Texts | None
) -> None:
    decoder, asked = a_decoder(), []

    def forward(x_t: Tensor, t_B: Tensor, z: Tensor, given: Texts | None, no_z: Tensor, no_text: Tensor) -> Tensor:
        assert given is said
        assert z is Z
        assert torch.equal(no_z, no_text)
        asked.append(no_z.tolist())
        return torch.where(no_z[:, None, None, None], 2.0, 5.0).expand_as(x_t)

    monkeypatch.setattr(decoder, "forward", forward)
    v = decoder.network(Z, said, guidance)(X, T)
    torch.testing.assert_close(v, torch.full_like(X, want))  # 2 + g (5 − 2)
    assert sorted(asked) == {1: [[False] * 2], 0: [[True] * 2], 2.5: [[False] * 2, [True] * 2]}[guidance]


def test_the_network_is_the_decoder_with_guidance(decoder: Decoder) -> None:
    said = texts(2)
    seen, unseen = decoder(X, T, Z, said, SHOWN, SHOWN), decoder(X, T, Z, said, HIDDEN, HIDDEN)
    torch.testing.assert_close(decoder.network(Z, said)(X, T), seen)
    torch.testing.assert_close(decoder.network(Z, said, 1.5)(X, T), 1.5 * seen - 0.5 * unseen, atol=1e-5, rtol=1e-4)
    drawn = diffusion.sample(decoder.network(Z, said), X, target="v_prediction", steps=2)
    assert drawn.shape == X.shape
    # it can be inverted: the two meet where a step is small
    quiet = a_decoder()
    quiet.unet.conv_out.weight.mul_(0.02)
    quiet.unet.conv_out.bias.zero_()
    x_T = diffusion.invert(quiet.network(Z, None), X, steps=5, refine=3)
    back = diffusion.sample(quiet.network(Z, None), x_T, target="v_prediction", steps=5)
    torch.testing.assert_close(back, X, atol=1e-3, rtol=0)


def test_the_loss_reaches_every_weight() -> None:
    decoder = a_decoder(drop_embedding=0.3).requires_grad_()
    loss = decoder.loss(X.repeat(4, 1, 1, 1), Z.repeat(4, 1), texts(8), torch.Generator().manual_seed(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert [name for name, weight in decoder.named_parameters() if weight.grad is None or not weight.grad.any()] == []
