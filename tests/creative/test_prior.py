"""The diffusion prior: what it sees and does not see, its loss, guidance, and samples, with networks known by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clickherd.creative import diffusion
from clickherd.creative.clip import Texts
from clickherd.creative.config import PriorConfig
from clickherd.creative.prior import DiffusionPrior, guided

D, W, CONTEXT = 8, 6, 7


def texts(rows: int, length: int = 5, seed: int = 0) -> Texts:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=rng)
    mask[0] = True
    embedding = normalize(torch.randn(rows, D, generator=rng), dim=1)
    return Texts(embedding, torch.randn(rows, length, W, generator=rng), mask)


def a_prior(**settings: object) -> DiffusionPrior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PriorConfig(**{"width": 16, "layers": 2, "heads": 2, **settings})
        prior = DiffusionPrior(config, D, W, CONTEXT).eval().requires_grad_(False)
        for weight in prior.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return prior


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return a_prior()


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHOWN, HIDDEN = torch.tensor([False, False]), torch.tensor([True, True])
T = torch.tensor([10, 700])


class Recorder(nn.Module):
    """Stands for the transformer, and keeps what it was given."""

    def forward(self, *given: Tensor) -> SimpleNamespace:
        self.given = given
        return SimpleNamespace(predicted_image_embedding=given[0] * 3)


def test_what_the_transformer_is_given() -> None:
    prior, said, noised = a_prior(), texts(2), randn(2, D)
    prior.transformer = Recorder()
    hidden = torch.tensor([False, True])
    assert torch.equal(prior(noised, T, said, hidden), 3 * noised)
    z, t, embedding, tokens, mask = prior.transformer.given
    assert torch.equal(z, noised)
    assert torch.equal(t, T)
    torch.testing.assert_close(embedding[0], said.embedding[0] * 8**0.5)  # entries of about 1
    torch.testing.assert_close(embedding[1], prior.no_text)
    assert tokens.shape == (2, CONTEXT, D)
    torch.testing.assert_close(tokens[:, :5], prior.tokens(said.tokens))
    assert mask.tolist() == [[True] * 5 + [False] * 2, [False] * 7]


def test_the_text_the_time_and_the_noise_all_count(prior: DiffusionPrior) -> None:
    said, noised = texts(2), randn(2, D)
    base = prior(noised, T, said, SHOWN)
    assert base.shape == (2, D)
    other = texts(2, seed=9)
    for changed in (
        prior(noised, T, Texts(other.embedding, said.tokens, said.mask), SHOWN),
        prior(noised, T, Texts(said.embedding, other.tokens, said.mask), SHOWN),
        prior(noised, T + 50, said, SHOWN),
        prior(noised + 0.5, T, said, SHOWN),
        prior(noised, T, said, HIDDEN),
    ):
        assert bool(((changed - base).abs().amax(1) > 1e-3).all())


def test_padding_does_not_count(prior: DiffusionPrior) -> None:
    said, noised = texts(2), randn(2, D)
    base = prior(noised, T, said, SHOWN)
    filled = torch.where(said.mask[..., None], said.tokens, 99.0)
    torch.testing.assert_close(prior(noised, T, Texts(said.embedding, filled, said.mask), SHOWN), base)
    longer = Texts(
        said.embedding,
        torch.cat([said.tokens, torch.full((2, 2, W), 7.0)], 1),
        torch.cat([said.mask, torch.zeros(2, 2, dtype=torch.bool)], 1),
    )
    torch.testing.assert_close(prior(noised, T, longer, SHOWN), base)


def test_a_hidden_text_is_not_seen(prior: DiffusionPrior) -> None:
    noised, one, two = randn(2, D), texts(2), texts(2, length=3, seed=5)
    torch.testing.assert_close(prior(noised, T, one, HIDDEN), prior(noised, T, two, HIDDEN))
    half = torch.tensor([True, False])
    torch.testing.assert_close(prior(noised, T, one, half)[0], prior(noised, T, one, HIDDEN)[0])
    torch.testing.assert_close(prior(noised, T, one, half)[1], prior(noised, T, one, SHOWN)[1])


def test_attention_is_causal() -> None:
    prior, said = a_prior(), texts(1)
    states: list[Tensor] = []
    prior.transformer.transformer_blocks[-1].register_forward_hook(lambda *args: states.append(args[-1]))

    def seen(noised: Tensor, t: int) -> Tensor:
        prior(noised, torch.tensor([t]), said, SHOWN[:1])
        return states[-1][0]  # (tokens, z_t, timestep, noised z_i, query)

    base = seen(randn(1, D), 10)
    assert base.shape == (CONTEXT + 4, 16)
    noised, later = seen(randn(1, D, seed=3), 10), seen(randn(1, D), 900)
    prior.transformer.prd_embedding.add_(1)
    query = seen(randn(1, D), 10)
    for other, place in ((later, CONTEXT + 1), (noised, CONTEXT + 2), (query, CONTEXT + 3)):
        torch.testing.assert_close(other[:place], base[:place])
        assert not torch.allclose(other[place:], base[place:], atol=1e-3)


def test_standardise() -> None:
    prior = a_prior()
    points = torch.cat([torch.tensor([[1.0], [3.0], [5.0]]).expand(3, D - 1), torch.full((3, 1), 2.0)], 1)
    prior.standardise(points)
    assert prior.mean.tolist() == [3] * (D - 1) + [2]
    assert prior.std.tolist() == pytest.approx([2] * (D - 1) + [1e-6])
    assert {"mean", "std"} <= set(prior.state_dict())


def levels(t_B: Tensor) -> tuple[Tensor, Tensor]:
    bar = diffusion.schedule("sample").alphas_cumprod[t_B][:, None]
    return bar.sqrt(), (1 - bar).sqrt()


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, rows = a_prior(drop_text=0.3), 4000
    said, image = texts(rows), normalize(randn(rows, D, seed=1), dim=1)
    prior.standardise(image * 0.7 + 0.1)
    asked: list[tuple[Tensor, ...]] = []

    def forward(x_t: Tensor, t_B: Tensor, given: Texts, hidden_B: Tensor) -> Tensor:
        assert given is said
        asked.append((x_t, t_B, hidden_B))
        return x_t * 0.5

    monkeypatch.setattr(prior, "forward", forward)
    loss = prior.loss(image, said, torch.Generator().manual_seed(3))
    x_0 = (image - prior.mean) / prior.std
    x_t, t_B, hidden_B = asked[0]
    assert float(loss) == pytest.approx(float((x_t * 0.5 - x_0).square().mean()))
    share, rest = levels(t_B)
    noise = ((x_t - share * x_0) / rest)[t_B > 100]
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float((noise * x_0[t_B > 100]).mean()) == pytest.approx(0, abs=0.03)
    assert (int(t_B.min()), int(t_B.max())) == (0, 999)
    assert float(t_B.float().mean()) == pytest.approx(499.5, abs=15)
    assert float(hidden_B.float().mean()) == pytest.approx(0.3, abs=0.03)
    again = prior.loss(image, said, torch.Generator().manual_seed(3))
    assert torch.equal(loss, again)
    assert not torch.equal(loss, prior.loss(image, said, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    ("guidance", "want", "asked"), [(1, 5.0, ["seen"]), (0, 2.0, ["hidden"]), (2.5, 9.5, ["hidden", "seen"])]
)
def test_guidance_by_hand(guidance: float, want: float, asked: list[str]) -> None:
    calls = []

    def predict(hidden: Tensor) -> Tensor:
        calls.append("hidden" if bool(hidden.all()) else "seen")
        assert bool(hidden.all()) or not bool(hidden.any())
        return torch.where(hidden, 2.0, 5.0)

    assert guided(predict, SHOWN, guidance).tolist() == [want, want]  # 2 + g (5 − 2)
    assert sorted(calls) == asked


@pytest.mark.parametrize("guidance", [0, 1, 2.5])
def test_samples_have_unit_length_and_come_from_the_noise_alone(prior: DiffusionPrior, guidance: float) -> None:
    said, noise = texts(2), randn(2, D, seed=7)
    z = prior.sample(said, noise, steps=5, guidance=guidance)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))
    assert torch.equal(prior.sample(said, noise, steps=5, guidance=guidance), z)
    assert not torch.allclose(prior.sample(said, -noise, steps=5, guidance=guidance), z, atol=1e-3)
    other = prior.sample(texts(2, seed=4), noise, steps=5, guidance=guidance)
    assert torch.allclose(other, z, atol=1e-5) == (guidance == 0)


def test_a_sample_is_taken_back_from_standardised_space(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = a_prior()
    prior.mean.copy_(torch.arange(8.0))
    prior.std.copy_(torch.arange(8.0) / 2 + 1)
    seen, hidden = torch.linspace(-1, 1, D), torch.linspace(2, -1, D)
    monkeypatch.setattr(prior, "forward", lambda x_t, t, given, hide: torch.where(hide[:, None], hidden, seen))
    for guidance in (0, 1, 2.5):
        x_0 = hidden + guidance * (seen - hidden)
        z = prior.sample(texts(2), randn(2, D), steps=4, guidance=guidance)
        want = normalize(x_0 * (torch.arange(8.0) / 2 + 1) + torch.arange(8.0), dim=0)
        torch.testing.assert_close(z, want.expand(2, D))


def test_the_loss_reaches_every_weight_but_those_of_diffusers_own_scaling() -> None:
    prior = a_prior(layers=1).requires_grad_()
    for name in ("clip_mean", "clip_std"):
        assert not getattr(DiffusionPrior(PriorConfig(), D, W, CONTEXT).transformer, name).requires_grad
    loss = prior.loss(normalize(randn(20, D), dim=1), texts(20), torch.Generator().manual_seed(0))
    loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, weight in prior.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == ["transformer.clip_mean", "transformer.clip_std"]
