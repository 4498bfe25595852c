"""The autoregressive prior: codes, causality, and sampling with a cache against a plain loop without one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clickherd.creative.ar_prior import DOT_BUCKETS, ARPrior
from clickherd.creative.clip import Texts
from clickherd.creative.config import ARPriorConfig
from clickherd.creative.latent import PCA
from creative_texts import drawn_texts, randn

D, W, CONTEXT, K, BUCKETS = 8, 6, 7, 5, 6


def texts(rows: int, length: int = 5, seed: int = 0) -> Texts:
    return drawn_texts(rows, D, W, length, seed)


def embeddings(rows: int = 640, seed: int = 2) -> Tensor:
    return normalize(randn(rows, D, seed=seed) * torch.linspace(2, 0.3, D) + 0.3, dim=1)


def a_prior(components: int = K, **settings: object) -> ARPrior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ARPriorConfig(**{"width": 16, "layers": 2, "heads": 2, "buckets": BUCKETS, **settings})
        prior = ARPrior(config, components, D, W, CONTEXT).eval().requires_grad_(False)
        for weight in prior.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
        prior.head.weight.mul_(0.3)  # several codes are likely, so that what is drawn differs
        prior.head.bias.mul_(0.3)
    prior.standardise(embeddings(), texts(640, seed=8).embedding)
    return prior


@pytest.fixture(scope="module")
def prior() -> ARPrior:
    return a_prior()


SHOWN, HIDDEN = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
DOT = torch.tensor([3, 40, 63])
CODES = torch.randint(BUCKETS, (3, K), generator=torch.Generator().manual_seed(1))


def test_what_is_taken_from_the_training_set(prior: ARPrior) -> None:
    image, said = embeddings(), texts(640, seed=8).embedding
    found = PCA.fit(image)
    assert prior.num_components == K
    torch.testing.assert_close(prior.pca.mean, found.mean)
    torch.testing.assert_close(prior.pca.components, found.components[:K])
    torch.testing.assert_close(prior.pca.variance, found.variance[:K])
    along = (image - found.mean) @ found.components[:K].T
    torch.testing.assert_close(prior.buckets.low, along.min(0).values)
    torch.testing.assert_close(prior.buckets.high, along.max(0).values)
    edges = prior.get_buffer("dot_edges")
    places = torch.bucketize((image * said).sum(1), edges)
    assert torch.bincount(places, minlength=DOT_BUCKETS).tolist() == [10] * DOT_BUCKETS  # a 64th of the images each
    assert {"mean", "components", "variance", "low", "high", "dot_edges"} <= set(prior.state_dict())


def test_codes_by_hand() -> None:
    prior = a_prior(components=2, buckets=4)
    for name, values in (
        ("mean", torch.full((D,), 0.5)),
        ("components", torch.eye(D)[:2]),
        ("low", torch.tensor([-1.0, 0.0])),
        ("high", torch.tensor([1.0, 4.0])),
    ):
        prior.get_buffer(name).copy_(values)
    image = torch.full((2, D), 0.9)
    image[:, :2] = torch.tensor([[0.6, 0.6], [1.4, 3.6]])  # .1 and .1, .9 and 3.1 from the mean
    assert prior.quantise(image).tolist() == [[2, 0], [3, 3]]
    middle = torch.full((2, D), 0.5)
    middle[:, :2] += torch.tensor([[0.25, 0.5], [0.75, 3.5]])
    torch.testing.assert_close(prior.restore(prior.quantise(image)), normalize(middle, dim=1))


def test_codes_hold_an_embedding_to_half_a_bucket() -> None:
    prior, image = a_prior(components=D, buckets=32), embeddings()
    codes = prior.quantise(image)
    assert codes.shape == (640, D)
    with torch.autocast("cpu", torch.bfloat16):  # in which a stage may be trained
        assert torch.equal(prior.quantise(image), codes)
    half = (prior.buckets.high - prior.buckets.low) / 32 / 2
    along = prior.pca.project(prior.pca.restore(prior.buckets.middles(codes)), D)
    assert bool(((along - prior.pca.project(image, D)).abs() <= half + 1e-5).all())
    restored = prior.restore(codes)
    torch.testing.assert_close(restored.norm(dim=1), torch.ones(640))
    assert float((restored - image).norm(dim=1).max()) <= 2 * float(half.norm())


def test_the_prefix_is_text_then_embedding_then_dot_product(prior: ARPrior) -> None:
    said = texts(3)
    vectors, mask = prior.prefix(said, DOT, torch.tensor([False, False, True]))
    assert vectors.shape == (3, CONTEXT + 2, 16)
    torch.testing.assert_close(vectors[:, :5], prior.tokens(said.tokens))
    torch.testing.assert_close(vectors[:2, -2], prior.text(said.embedding[:2] * D**0.5))  # as long as a token
    torch.testing.assert_close(vectors[2, -2], prior.no_text)
    torch.testing.assert_close(vectors[:, -1], prior.dot.weight[DOT])
    assert mask[:2].tolist() == [[*row, False, False, True, True] for row in said.mask[:2].tolist()]
    assert mask[2].tolist() == [False] * CONTEXT + [True] * 2


@pytest.mark.parametrize("k", range(K))
def test_a_code_is_predicted_from_those_before_it_alone(prior: ARPrior, k: int) -> None:
    base = prior(texts(3), DOT, CODES, SHOWN)
    assert base.shape == (3, K, BUCKETS)
    later = CODES.clone()
    later[:, k:] = (later[:, k:] + 1) % BUCKETS
    got = prior(texts(3), DOT, later, SHOWN)
    torch.testing.assert_close(got[:, : k + 1], base[:, : k + 1])
    changed = (got[:, k + 1 :] - base[:, k + 1 :]).abs().amax(2)
    assert bool((changed > 1e-3).all())


def test_text_embedding_and_dot_product_all_count(prior: ARPrior) -> None:
    said, other = texts(3), texts(3, seed=5)
    base = prior(said, DOT, CODES, SHOWN)
    for changed in (
        prior(Texts(other.embedding, said.tokens, said.mask), DOT, CODES, SHOWN),
        prior(Texts(said.embedding, other.tokens, said.mask), DOT, CODES, SHOWN),
        prior(said, (DOT + 1) % DOT_BUCKETS, CODES, SHOWN),
        prior(said, DOT, CODES, HIDDEN),
    ):
        assert bool(((changed - base).abs().amax(2) > 1e-4).all())


def test_padding_does_not_count(prior: ARPrior) -> None:
    said = texts(3)
    base = prior(said, DOT, CODES, SHOWN)
    filled = Texts(said.embedding, torch.where(said.mask[..., None], said.tokens, 99.0), said.mask)
    torch.testing.assert_close(prior(filled, DOT, CODES, SHOWN), base)
    # beside a longer caption, or alone: the first is 3 tokens long
    alone = Texts(said.embedding[:1], said.tokens[:1, :3], said.mask[:1, :3])
    torch.testing.assert_close(prior(alone, DOT[:1], CODES[:1], SHOWN[:1]), base[:1])
    uniform = torch.rand(3, 1 + K, generator=torch.Generator().manual_seed(4))
    for guidance in (1, 1.5):
        together = prior.sample(said, uniform, guidance=guidance)
        torch.testing.assert_close(prior.sample(alone, uniform[:1], guidance=guidance), together[:1])


def test_a_hidden_text_is_not_seen(prior: ARPrior) -> None:
    one, two = prior(texts(3), DOT, CODES, HIDDEN), prior(texts(3, length=7, seed=5), DOT, CODES, HIDDEN)
    assert bool(one.isfinite().all())
    torch.testing.assert_close(one, two)
    mixed = prior(texts(3), DOT, CODES, torch.tensor([True, False, True]))
    torch.testing.assert_close(mixed[0::2], one[0::2])
    torch.testing.assert_close(mixed[1], prior(texts(3), DOT, CODES, SHOWN)[1])


def test_the_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    prior, image, said = a_prior(drop_text=0.4), embeddings(), texts(640, seed=8)
    logits = randn(640, K, BUCKETS, seed=6)
    asked: list[tuple[Tensor, ...]] = []

    def forward(given: Texts, dot_B: Tensor, codes_BK: Tensor, hidden_B: Tensor) -> Tensor:
        assert given is said
        asked.append((dot_B, codes_BK, hidden_B))
        return logits

    monkeypatch.setattr(prior, "forward", forward)
    loss = prior.loss(image, said, torch.Generator().manual_seed(0))
    dot_B, codes_BK, hidden_B = asked[0]
    assert torch.equal(codes_BK, prior.quantise(image))
    dots = (image * said.embedding).sum(1)
    assert torch.equal(dot_B.argsort(stable=True), torch.tensor(sorted(range(640), key=lambda row: int(dot_B[row]))))
    assert [int(dot_B[dots.argmin()]), int(dot_B[dots.argmax()])] == [0, DOT_BUCKETS - 1]
    assert torch.equal(torch.bincount(dot_B), torch.full((DOT_BUCKETS,), 10))
    assert float(hidden_B.float().mean()) == pytest.approx(0.4, abs=0.06)
    share = logits.log_softmax(-1)
    want = -sum(float(share[row, k, codes_BK[row, k]]) for row in range(640) for k in range(K)) / (640 * K)
    assert float(loss) == pytest.approx(want, rel=1e-5)
    logits.zero_()
    assert float(prior.loss(image, said, torch.Generator())) == pytest.approx(math.log(BUCKETS))


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 32), (0.49, 47), (0.5, 48), (1 - 2**-24, 63)])
def test_the_dot_product_is_drawn_from_the_top_half(
    prior: ARPrior, monkeypatch: pytest.MonkeyPatch, uniform: float, token: int
) -> None:
    taken: list[int] = []
    plain = prior.prefix

    def prefix(given: Texts, dot_B: Tensor, hidden_B: Tensor) -> tuple[Tensor, Tensor]:
        taken.extend(dot_B.tolist())
        return plain(given, dot_B, hidden_B)

    monkeypatch.setattr(prior, "prefix", prefix)
    numbers = torch.full((3, 1 + K), 0.5)
    numbers[:, 0] = uniform
    prior.sample(texts(3), numbers, guidance=2.0)
    assert taken == [token] * 6


def plain_loop(prior: ARPrior, said: Texts, uniform: Tensor, guidance: float) -> Iterator[list[int]]:
    """The codes of each row, everything computed anew for each, one row at a time."""
    for row in range(len(said)):
        one = said[torch.tensor([row])]
        dot = torch.tensor([int(32 + math.floor(float(uniform[row, 0]) * 32))])
        codes: list[int] = []
        for k in range(K):
            so_far = torch.tensor([[*codes, 0]])
            seen = prior(one, dot, so_far, SHOWN[:1])[0, -1]
            unseen = prior(one, dot, so_far, HIDDEN[:1])[0, -1]
            shares = (unseen + guidance * (seen - unseen)).softmax(0).tolist()
            left, code = float(uniform[row, 1 + k]), 0
            while code < BUCKETS - 1 and left > shares[code]:
                left -= shares[code]
                code += 1
            codes.append(code)
        yield codes


@pytest.mark.parametrize("guidance", [0, 1, 2.5])
def test_sampling_is_the_plain_loop_without_a_cache(prior: ARPrior, guidance: float) -> None:
    rows = 24
    said = texts(rows, seed=3)
    uniform = torch.rand(rows, 1 + K, generator=torch.Generator().manual_seed(2))
    codes = torch.tensor(list(plain_loop(prior, said, uniform, guidance)))
    assert all(len(set(column)) > 2 for column in codes.T.tolist())
    got = prior.sample(said, uniform, guidance=guidance)
    torch.testing.assert_close(got, prior.restore(codes))
    torch.testing.assert_close(got.norm(dim=1), torch.ones(rows))
    assert torch.equal(prior.sample(said, uniform, guidance=guidance), got)


@pytest.mark.parametrize("guidance", [0, 1, 2.5])
def test_the_text_is_ignored_without_guidance_only(prior: ARPrior, guidance: float) -> None:
    uniform = torch.rand(12, 1 + K, generator=torch.Generator().manual_seed(2))
    one, two = (prior.sample(texts(12, seed=seed), uniform, guidance=guidance) for seed in (3, 4))
    assert torch.allclose(one, two) == (guidance == 0)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_uniform_numbers_are_codes(prior: ARPrior, uniform: float) -> None:
    z = prior.sample(texts(3), torch.full((3, 1 + K), uniform), guidance=1.0)
    code = 0 if uniform == 0 else BUCKETS - 1
    torch.testing.assert_close(z, prior.restore(torch.full((3, K), code)))


def test_codes_are_drawn_as_often_as_they_are_likely(prior: ARPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, one, first = 2000, texts(1), []
    uniform = torch.rand(rows, 1 + K, generator=torch.Generator().manual_seed(6))
    uniform[:, 0] = 0.25  # the dot product's token 40
    monkeypatch.setattr(prior, "restore", lambda codes_NK: first.extend(codes_NK[:, 0].tolist()))
    prior.sample(one[torch.zeros(rows, dtype=torch.int64)], uniform, guidance=1.0)
    likely = prior(one, torch.tensor([40]), torch.zeros(1, 1, dtype=torch.int64), SHOWN[:1])[0, 0].softmax(0)
    often = torch.bincount(torch.tensor(first), minlength=BUCKETS) / rows
    torch.testing.assert_close(often, likely, atol=0.04, rtol=0)


def test_codes_are_places_on_a_line() -> None:
    prior = a_prior(buckets=4)
    waves = prior.get_buffer("waves")
    eighth = math.pi / 8  # the middles of four buckets are at 1, 3, 5 and 7 eighths of a half turn
    assert waves[:, 0].tolist() == [1, 1, 1, 1]
    assert waves[:, 1].tolist() == pytest.approx([math.cos(eighth * k) for k in (1, 3, 5, 7)], abs=1e-6)
    assert waves[:, 3].tolist() == pytest.approx([math.cos(3 * eighth * k) for k in (1, 3, 5, 7)], abs=1e-6)
    logits = prior(texts(3), DOT, torch.zeros(3, K, dtype=torch.int64), SHOWN)
    assert logits.shape == (3, K, 4)
    many = a_prior(buckets=256)
    smooth = many(texts(3), DOT, torch.zeros(3, K, dtype=torch.int64), SHOWN)[0, 0]
    assert float(smooth.diff().abs().max()) < 0.25 * float(smooth.max() - smooth.min())  # neighbours are alike


def test_the_loss_reaches_every_weight_that_is_used() -> None:
    prior = ARPrior(ARPriorConfig(width=16, layers=1, heads=2, buckets=BUCKETS, drop_text=0.3), K, D, W, CONTEXT)
    said = texts(40)
    prior.standardise(embeddings(40), said.embedding)
    loss = prior.loss(embeddings(40), said, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(math.log(BUCKETS), abs=0.5)
    loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, weight in prior.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == ["transformer.wte.weight"]
