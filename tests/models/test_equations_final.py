"""MaskNet, FinalMLP, FinalNet, FCN and RankMixer against their equations, written again in NumPy and by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clickherd.models import MODELS, fcn, finalmlp, finalnet, masknet, rankmixer

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
B, F, D, K = 5, 4, 6, 3
N = F * D + K


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def linear(w: Weights, name: str, x: Array) -> Array:
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", np.zeros(1))


def mlp(w: Weights, name: str, x: Array, *, relu_last: bool) -> Array:
    """Linear layers at the even positions, with a ReLU between them."""
    layers = sorted(int(key.split(".")[-2]) for key in w if key.startswith(f"{name}.layers.") and "weight" in key)
    for layer in layers:
        x = linear(w, f"{name}.layers.{layer}", x)
        if relu_last or layer != layers[-1]:
            x = np.maximum(x, 0)
    return x


def normed(x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def norm(w: Weights, name: str, x: Array) -> Array:
    return normed(x) * w[f"{name}.weight"] + w[f"{name}.bias"]


def masknet_logit(w: Weights, v: Array, x: Array, structure: str = "serial") -> float:
    x0 = np.concatenate([v.ravel(), x])
    fields = [normed(v[f]) * w["gain_FD"][f] + w["bias_FD"][f] for f in range(F)]
    hidden, blocks = np.concatenate([*fields, x]), []
    for number in range(2):
        name = f"blocks.{number}"
        mask = mlp(w, f"{name}.mask", x0, relu_last=False)
        out = np.maximum(norm(w, f"{name}.norm", linear(w, f"{name}.linear", mask * hidden)), 0)
        blocks.append(out)
        hidden = out if structure == "serial" else hidden
    above = blocks[-1] if structure == "serial" else np.concatenate(blocks)
    return float(mlp(w, "mlp", above, relu_last=False)[0])


def finalmlp_logit(
    w: Weights, v: Array, x: Array, contexts: tuple[tuple[int, ...], ...] = ((), ()), feature_selection: bool = True
) -> float:
    x0 = np.concatenate([v[:, :D].ravel(), x])
    outs = []
    for stream, fields in enumerate(contexts):
        gate = np.ones(N)
        if feature_selection:
            learned = np.concatenate([v[f, D:] for f in fields]) if fields else w[f"gates.{stream}.bias_1D"][0]
            gate = 2 * sigmoid(mlp(w, f"gates.{stream}.mlp", learned, relu_last=False))
        outs.append(mlp(w, f"streams.{stream}", gate * x0, relu_last=True))
    logit = linear(w, "head", outs[0])[0] + linear(w, "head2", outs[1])[0]
    heads, i, j = w["fusion_HIJ"].shape
    for h in range(heads):
        logit += outs[0][h * i : (h + 1) * i] @ w["fusion_HIJ"][h] @ outs[1][h * j : (h + 1) * j]
    return float(logit)


def finalnet_branches(
    w: Weights, v: Array, x: Array, num_blocks: int = 2, residual: str = "concat", field_gate: bool = True
) -> list[float]:
    gated = (
        [sum(w["gate_GF"][f, g] * v[g] for g in range(F)) + w["gate_bias_G1"][f] for f in range(F)]
        if field_gate
        else []
    )
    crossed = [gate * row for gate, row in zip(gated, v, strict=False)]
    logits = []
    for name, inputs in (("block", [*v, *crossed, x]), ("block2", [*v, x]))[:num_blocks]:
        hidden = np.concatenate(inputs)
        layers = sorted(
            int(key.split(".")[1]) for key in w if key.startswith(f"{name}.") and key.endswith("linear.weight")
        )
        for layer in layers:
            a, b = np.split(linear(w, f"{name}.{layer}.linear", hidden), 2)
            hidden = np.concatenate([a, a * b]) if residual == "concat" else a + a * b
        logits.append(float(linear(w, f"{name}.{layers[-1] + 1}", hidden)[0]))
    return [sum(logits) / num_blocks, *(logits if num_blocks == 2 else [])]


def fcn_branches(w: Weights, v: Array, x: Array, num_heads: int = 1) -> list[float]:
    logits = []
    for name, depth in (("exponential", 2), ("linear", 3)):
        total = 0.0
        for rows in np.split(v, num_heads, axis=1):
            half = (rows.shape[1] + 1) // 2
            x0 = np.concatenate([*rows[:, :half], *rows[:, half:], x])
            xl = x0
            for layer in range(depth):
                h = w[f"{name}.cross.{layer}.weight"] @ xl
                masked = h * np.maximum(norm(w, f"{name}.norm.{layer}", h), 0)
                c = np.concatenate([h, masked])[: len(x0)] + w[f"{name}.bias.{layer}"]
                xl = (xl if name == "exponential" else x0) * c + xl
            total += linear(w, f"{name}.head", xl)[0] / num_heads
        logits.append(total)
    return [sum(logits) / 2, *logits]


def rankmixer_logit(w: Weights, v: Array, x: Array, tokens: int = 3) -> float:
    gelu = np.vectorize(lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2)
    x0 = np.concatenate([v.ravel(), x])
    piece = -(-len(x0) // tokens)
    x0 = np.pad(x0, (0, piece * tokens - len(x0)))
    xs = [x0[t * piece : (t + 1) * piece] @ w["tokens.weight"][t] + w["tokens.bias"][t, 0] for t in range(tokens)]
    for layer in range(2):
        name = f"blocks.{layer}"
        part = len(xs[0]) // tokens
        mixed = [np.concatenate([token[h * part : (h + 1) * part] for token in xs]) for h in range(tokens)]
        ss = [norm(w, f"{name}.norm", a + b) for a, b in zip(mixed, xs, strict=True)]
        xs = []
        for t, s in enumerate(ss):
            hidden = gelu(s @ w[f"{name}.mlp.0.weight"][t] + w[f"{name}.mlp.0.bias"][t, 0])
            out = hidden @ w[f"{name}.mlp.2.weight"][t] + w[f"{name}.mlp.2.bias"][t, 0]
            xs.append(norm(w, f"{name}.norm2", out + s))
    return float(linear(w, "head", np.mean(xs, axis=0))[0])


EQUATIONS: dict[str, Callable[..., Any]] = {
    "masknet": masknet_logit,
    "finalmlp": finalmlp_logit,
    "finalnet": finalnet_branches,
    "fcn": fcn_branches,
    "rankmixer": rankmixer_logit,
}
SMALL: dict[str, dict[str, Any]] = {
    "masknet": {"block_units": (7, 5), "reduction_ratio": 0.5, "mlp": {"hidden_units": (4,)}},
    "finalmlp": {"mlp": {"hidden_units": (7, 6)}, "mlp2": {"hidden_units": (4,)}, "gate_units": (5,)},
    "finalnet": {"block": {"hidden_units": (8, 6)}, "block2": {"hidden_units": (4,)}},
    "fcn": {"num_exponential_layers": 2, "num_linear_layers": 3},
    "rankmixer": {"token_dim": 6, "num_tokens": 3, "expansion": 2},
}
CONTEXTS = {"context": ("0", "3"), "context2": ("2",)}


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [(name, {}, {}) for name in EQUATIONS]
    + [
        ("masknet", {"structure": "parallel"}, {"structure": "parallel"}),
        ("finalmlp", {"feature_selection": False}, {"feature_selection": False}),
        ("finalmlp", CONTEXTS, {"contexts": ((0, 3), (2,))}),
        ("finalnet", {"num_blocks": 1, "residual": "sum"}, {"num_blocks": 1, "residual": "sum"}),
        ("finalnet", {"field_gate": False}, {"field_gate": False}),
        ("fcn", {"num_heads": 2}, {"num_heads": 2}),
    ],
)
def test_the_network_computes_its_equations(name: str, options: dict[str, Any], known: dict[str, Any]) -> None:
    config = MODELS[name].model_validate({"embedding_dim": D} | SMALL[name] | options)
    torch.manual_seed(2)
    model = config.build(F, K).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    rows, wide = torch.randn(B, F, config.row_width, dtype=torch.float64), torch.randn(B, dtype=torch.float64)
    numeric = torch.randn(B, K, dtype=torch.float64)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    expected = [EQUATIONS[name](weights, v, x, **known) for v, x in zip(rows.numpy(), numeric.numpy(), strict=True)]
    branches = torch.stack(model.branches(rows, wide, numeric), dim=1)
    np.testing.assert_allclose(branches.detach().numpy(), np.reshape(expected, (B, -1)), rtol=1e-10, atol=1e-10)
    assert torch.equal(model(rows, wide, numeric), branches[:, 0])


def test_a_mask_block_by_hand() -> None:
    config = masknet.Config(block_units=(2,), reduction_ratio=0.5)
    block = masknet.MaskBlock(config, num_inputs=2, num_hidden=2, num_units=2)
    block.load_state_dict(
        {
            "mask.layers.0.weight": torch.tensor([[1.0, 1.0]]),  # half of two units
            "mask.layers.0.bias": torch.tensor([-1.0]),
            "mask.layers.2.weight": torch.tensor([[1.0], [-2.0]]),
            "mask.layers.2.bias": torch.tensor([0.0, 1.0]),
            "linear.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
            "norm.weight": torch.tensor([3.0, 1.0]),
            "norm.bias": torch.tensor([0.0, 4.0]),
        }
    )
    # mask = (1, −2)·ReLU(1 + 2 − 1) + (0, 1) = (2, −3); times (10, 10): (20, −30), normed (1, −1): ReLU(3, 4 − 1)
    out = block(torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 10.0]]))
    torch.testing.assert_close(out, torch.tensor([[3.0, 3.0]]))


def test_a_bilinear_fusion_by_hand() -> None:
    config = finalmlp.Config.model_validate(
        {
            "embedding_dim": 2,
            "mlp": {"hidden_units": [2]},
            "mlp2": {"hidden_units": [2]},
            "num_heads": 2,
            "feature_selection": False,
        }
    )
    model = config.build(1, 0)
    unit = torch.eye(2)
    state = {
        f"streams.{s}.layers.0.{part}": value
        for s in (0, 1)
        for part, value in (("weight", unit), ("bias", torch.zeros(2)))
    }
    state |= {"head.weight": torch.tensor([[1.0, 0.0]]), "head.bias": torch.tensor([0.5])}
    state |= {"head2.weight": torch.tensor([[0.0, 10.0]]), "fusion_HIJ": torch.tensor([[[100.0]], [[1000.0]]])}
    model.load_state_dict(state)
    # both streams give (2, 3): 2 + 10·3 + 0.5 + 2·100·2 + 3·1000·3
    out = model(torch.tensor([[[2.0, 3.0]]]), torch.zeros(1), torch.zeros(1, 0))
    assert float(out.detach()) == 2 + 30 + 0.5 + 400 + 9000


def test_an_interaction_layer_by_hand() -> None:
    for residual, expected in (("concat", [3.0, 3.0 * 5.0]), ("sum", [3.0 + 3.0 * 5.0])):
        layer = finalnet.Interaction(1, len(expected), residual)
        layer.load_state_dict({"linear.weight": torch.tensor([[2.0], [4.0]]), "linear.bias": torch.tensor([1.0, 1.0])})
        torch.testing.assert_close(layer(torch.tensor([[1.0]])), torch.tensor([expected]))


def test_a_field_gate_starts_as_a_second_copy() -> None:
    """So does the authors': W_g = 0 and b_g = 1."""
    model = finalnet.Config(num_blocks=1).build(3, 0)
    assert model.gate_GF is not None
    assert model.gate_bias_G1 is not None
    assert not model.gate_GF.any()
    assert (model.gate_bias_G1 == 1).all()


@pytest.mark.parametrize(("exponential", "expected"), [(True, [6 * 7 + 6.0, 14 * 35 + 14.0]), (False, [13.0, 84.0])])
def test_self_masked_cross_layers_by_hand(exponential: bool, expected: list[float]) -> None:
    network = fcn.CrossNetwork(2, 2, 0.0, exponential=exponential)
    state = {"head.bias": torch.zeros(1)}
    for layer, (weight, bias) in enumerate((([[1.0, 2.0]], [0.0, 1.0]), ([[0.0, 0.5]], [0.0, 0.0]))):
        state |= {f"cross.{layer}.weight": torch.tensor(weight), f"bias.{layer}": torch.tensor(bias)}
        # the norm of a single number is nothing, so the mask is the bias: 1 and 5
        state |= {f"norm.{layer}.weight": torch.ones(1), f"norm.{layer}.bias": torch.tensor([1.0 + 4 * layer])}
    # x0 = (1, 2): h = 5, m = 5·1, x1 = (1·5, 2·(5 + 1)) + (1, 2) = (6, 14); then h = 7, m = 7·5
    for place in (0, 1):
        network.load_state_dict(state | {"head.weight": torch.eye(2)[place : place + 1]})
        # linear: (1·7, 2·35) + (6, 14)
        assert float(network(torch.tensor([[[1.0, 2.0]]])).detach()) == expected[place]


def test_token_mixing_by_hand() -> None:
    config = rankmixer.Config(token_dim=4, num_tokens=2)
    block = rankmixer.Block(config)
    seen: list[torch.Tensor] = []
    block.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    first, second = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    block(torch.stack([first, second]).unsqueeze(1))
    mixed = torch.tensor([[1.0, 2.0, 10.0, 20.0], [3.0, 4.0, 30.0, 40.0]])
    torch.testing.assert_close(seen[0][:, 0], mixed + torch.stack([first, second]))


def test_finalnet_has_as_many_parameters_as_in_the_bars_log_of_frappe() -> None:
    """5,389 ids as for the other models, and a padding row for each of 10 fields, which that version added."""
    config = finalnet.Config.model_validate(
        {
            "block": {"hidden_units": [400, 400], "batch_norm": True},
            "block2": {"hidden_units": [400], "batch_norm": True},
        }
    )
    dense = sum(weight.numel() for weight in config.build(10, 0).parameters())
    assert (5_389 + 10) * 10 + dense == 338_502
