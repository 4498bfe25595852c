"""The fused chain of linear layers and ReLUs against the single layers."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clickherd.config import resolve
from clickherd.errors import ConfigError
from clickherd.layers.mlp import MLP, MLPConfig
from clickherd.layers.relu_mlp import applies_to
from clickherd.runtime import check_device, precision_on


def one_by_one(mlp: MLP, x_BN: Tensor) -> Tensor:
    out: Tensor = mlp.layers(x_BN)
    return out


def gradients(mlp: MLP, x_BN: Tensor, *, fused: bool, needs_input: bool = True) -> list[Tensor]:
    mlp, x_BN = copy.deepcopy(mlp), x_BN.clone().requires_grad_(needs_input)
    out_BM = mlp(x_BN) if fused else one_by_one(mlp, x_BN)
    (out_BM.sin().sum()).backward()
    assert all(p.grad is not None for p in mlp.parameters())
    return [out_BM.detach(), *([x_BN.grad] if x_BN.grad is not None else []), *(p.grad for p in mlp.parameters())]  # type: ignore[misc]  # asserted


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(0, 40),
    widths=st.lists(st.integers(1, 33), min_size=1, max_size=4),
    has_output=st.booleans(),
    needs_input=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_the_single_layers(
    num_rows: int, widths: list[int], has_output: bool, needs_input: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    mlp = MLP(7, MLPConfig(hidden_units=tuple(widths)), num_outputs=1 if has_output else None)
    for layer in mlp.layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias)
    x_BN = torch.randn(num_rows, 7)
    assert applies_to(x_BN) == (num_rows > 0)
    expected = gradients(mlp, x_BN, fused=False, needs_input=needs_input)
    got = gradients(mlp, x_BN, fused=True, needs_input=needs_input)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_products_are_rounded_and_weights_are_not() -> None:
    torch.manual_seed(0)
    mlp, x_BN = MLP(50, MLPConfig(hidden_units=(64, 64)), num_outputs=1), torch.randn(200, 50)
    exact = gradients(mlp, x_BN, fused=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(mlp, x_BN, fused=True)
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).norm() < 0.05 * a.norm()  # factors of 8 bits, three layers deep


def test_bfloat16_is_refused_where_it_would_be_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    check_device("cpu", "bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    check_device("cpu", "fp32")
    with pytest.raises(ConfigError, match=r"precision=fp32"):
        check_device("cpu", "bf16")
    with pytest.raises(ConfigError, match="precision"):
        resolve({"train": {"precision": "fp16"}})


def test_auto_takes_bfloat16_where_there_are_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert precision_on("cpu", "auto") == "bf16"
    assert precision_on("cpu", "fp32") == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert precision_on("cpu", "auto") == "fp32"
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, able=able: able)
        assert precision_on("cuda", "auto") == ("bf16" if able else "fp32")


@pytest.mark.parametrize("config", [{"activation": "tanh"}, {"batch_norm": True}, {"dropout": 0.5}])
def test_other_layers_go_one_by_one(config: dict[str, object]) -> None:
    torch.manual_seed(0)
    mlp = MLP(5, MLPConfig.model_validate({"hidden_units": (8,), **config}), num_outputs=1).eval()
    x_BN = torch.randn(9, 5)
    assert torch.equal(mlp(x_BN), one_by_one(mlp, x_BN))
