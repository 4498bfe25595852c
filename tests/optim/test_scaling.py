"""The rules against the table of CowClip's section 4, and our own."""

from __future__ import annotations

import math

import pytest

from clickherd.optim.config import OptimConfig, Rule
from clickherd.optim.scaling import EXPONENTS, scaled, warmed_up

S = 64
TABLE: dict[Rule, tuple[float, float, float, bool]] = {  # embedding rate, dense rate, λ, clip
    "none": (1, 1, 1, False),
    "sqrt": (8, 8, 8, False),
    "linear": (64, 64, 1, False),
    "n2-lambda": (1, 8, 4096, False),
    "cowclip": (1, 8, 64, True),
    "root": (8, 8, 1, False),
}


def test_every_rule_is_in_the_table() -> None:
    assert set(TABLE) == set(EXPONENTS)


@pytest.mark.parametrize("rule", TABLE)
def test_a_rule_scales_by_its_row_of_the_table(rule: Rule) -> None:
    base = OptimConfig(
        rule=rule, base_batch_size=100, learning_rate=1e-3, embedding_learning_rate=2e-3, l2=1e-5, clip=0.5
    )
    embedding, dense, l2, clips = TABLE[rule]
    hyper = scaled(base, 100 * S)
    assert hyper.embedding_learning_rate == pytest.approx(2e-3 * embedding)
    assert hyper.learning_rate == pytest.approx(1e-3 * dense)
    assert hyper.l2 == pytest.approx(1e-5 * l2)
    assert hyper.clip == (0.5 if clips else math.inf)
    assert hyper.common == pytest.approx(1 / S if rule == "root" else 1)
    assert hyper.beta1 == pytest.approx(1 - 0.1 * 8**0.5 if rule == "root" else 0.9)  # 64^¼


@pytest.mark.parametrize("rule", TABLE)
def test_at_the_base_all_rules_leave_the_settings_as_they_are(rule: Rule) -> None:
    base = OptimConfig(rule=rule)
    hyper = scaled(base, base.base_batch_size)
    assert hyper.learning_rate == base.learning_rate
    assert hyper.embedding_learning_rate == base.embedding_learning_rate
    assert hyper.l2 == base.l2
    assert hyper.beta1 == pytest.approx(base.betas[0])


@pytest.mark.parametrize(
    ("batch_size", "beta1", "expected"), [(64, 0.9, 0.9), (10**9, 0.9, 0.5), (10**9, 0.2, 0.2), (16_384, 0.8, 0.6)]
)
def test_momentum_forgets_at_most_half_a_batch_and_never_less_than_at_the_base(
    batch_size: int, beta1: float, expected: float
) -> None:
    hyper = scaled(OptimConfig(betas=(beta1, 0.999), base_batch_size=1024), batch_size)
    assert hyper.beta1 == pytest.approx(expected)


def test_the_warm_up_is_of_the_dense_rate_alone() -> None:
    hyper = scaled(OptimConfig(), 65_536)
    half = warmed_up(hyper, step=5, warmup_steps=10)
    assert half.learning_rate == pytest.approx(hyper.learning_rate / 2, rel=1e-4)
    assert half.embedding_learning_rate == hyper.embedding_learning_rate
    assert warmed_up(hyper, step=10, warmup_steps=10) == hyper
