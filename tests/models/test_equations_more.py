"""AutoInt, xDeepFM, IPNN, FGCNN and EDCN against their equations, written again in NumPy, and by hand."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clickherd.config import resolve
from clickherd.errors import ConfigError
from clickherd.models import MODELS, autoint, xdeepfm

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
B, F, D, K = 6, 5, 4, 2
HEADS, WIDTH = 2, 6


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def softmax(x: Array) -> Array:
    scores = np.exp(x)
    return scores / scores.sum(axis=-1, keepdims=True)


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1))


def mlp(w: Weights, x: Array) -> Array:
    """Two hidden layers and the output."""
    hidden = relu(linear(w, "mlp.layers.2", relu(linear(w, "mlp.layers.0", x))))
    return linear(w, "mlp.layers.4", hidden)[:, 0]


def attention(w: Weights, layer: int, e: Array, form: str, scale: bool, layer_norm: bool) -> Array:
    """One row's fields, (F, N) in and (F, WIDTH) out."""
    place = f"attention.{layer}.projection.layers.0" if form == "authors" else f"attention.{layer}.projection"
    parts = np.split(w[f"{place}.weight"], len(w[f"{place}.weight"]) // WIDTH)
    products = [e @ part.T for part in parts]
    if form == "authors":
        biases = np.split(w[f"{place}.bias"], len(parts))
        products = [relu(product + bias) for product, bias in zip(products, biases, strict=True)]
    query, key, value, *residual = products
    mixed = np.empty((len(e), WIDTH))
    for head in range(HEADS):
        own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        for m in range(len(e)):
            scores = np.array([query[m, own] @ key[k, own] for k in range(len(e))])
            alpha = softmax(scores / np.sqrt(WIDTH // HEADS) if scale else scores)
            mixed[m, own] = sum(alpha[k] * value[k, own] for k in range(len(e)))
    out = mixed + (residual[0] if residual else e)

    def norm(x: Array) -> Array:
        if not layer_norm:
            return x
        centred = x - x.mean(axis=1, keepdims=True)
        normal = centred / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return normal * w[f"attention.{layer}.norm.weight"] + w[f"attention.{layer}.norm.bias"]

    return norm(relu(out)) if form == "authors" else relu(norm(out))


def logits_autoint(w: Weights, v: Array, wide: Array, x: Array, **options: Any) -> Array:
    form, scale, layer_norm = (
        options.get("form", "authors"),
        options.get("scale", True),
        options.get("layer_norm", True),
    )
    attended = []
    for row in v:
        e = row
        for layer in range(3):
            e = attention(w, layer, e, form, scale, layer_norm)
        attended.append(e.reshape(-1))
    logits = linear(w, "head", np.hstack([np.array(attended), x]))[:, 0]
    if "mlp.layers.0.weight" in w:
        logits = logits + mlp(w, np.hstack([v.reshape(B, -1), x]))
    return logits + wide + x @ w["linear.weight"] if options.get("linear") else logits


def logits_xdeepfm(w: Weights, v: Array, wide: Array, x: Array, cin_connection: str = "direct") -> Array:
    pooled = []
    for row in v:
        maps, sums = row, []
        for layer in range(3):
            weight = w[f"cin.weights.{layer}"]
            new = np.zeros((len(weight), D))
            for h in range(len(weight)):
                for i in range(len(maps)):
                    for j in range(F):
                        new[h] += weight[h, i, j] * maps[i] * row[j]
            half = len(new) // 2 if cin_connection == "half" and layer < 2 else 0
            maps = new[:half] if half else new
            sums.append(new[half:].sum(axis=1))
        pooled.append(np.concatenate(sums))
    return (
        wide
        + x @ w["linear.weight"]
        + np.array(pooled) @ w["cin_head.weight"][0]
        + mlp(w, np.hstack([v.reshape(B, -1), x]))
    )


def with_products(v: Array) -> Array:
    pairs = [(v[:, f] * v[:, g]).sum(axis=1) for f in range(v.shape[1]) for g in range(f + 1, v.shape[1])]
    return np.hstack([v.reshape(len(v), -1), np.array(pairs).T])


def logits_ipnn(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    return mlp(w, np.hstack([with_products(v), x]))


def logits_fgcnn(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    """Channels 3 and 2, a kernel of 3 fields; of 5 fields pooling leaves 3 (1, 2–3, 4–5) and then 2 (1, 2–3)."""
    features = [v[..., :D]]
    maps = v[:, None, :, D:]
    for layer, windows in enumerate([[(0, 1), (1, 3), (3, 5)], [(0, 1), (1, 3)]]):
        kernel, bias = w[f"generator.{layer}.conv.weight"], w[f"generator.{layer}.conv.bias"]
        height = maps.shape[2]
        convolved = np.zeros((B, len(kernel), height, D))
        for out in range(len(kernel)):
            for f in range(height):
                for j in range(3):
                    if 0 <= f + j - 1 < height:
                        convolved[:, out, f] += np.einsum("c,bcd->bd", kernel[out, :, j, 0], maps[:, :, f + j - 1])
        activated = np.tanh(convolved + bias[:, None, None])
        maps = np.stack([activated[:, :, a:b].max(axis=2) for a, b in windows], axis=2)
        features.append(np.tanh(linear(w, f"generator.{layer}.recombine", maps.reshape(B, -1))).reshape(B, -1, D))
    return mlp(w, np.hstack([with_products(np.concatenate(features, axis=1)), x]))


def logits_edcn(
    w: Weights,
    v: Array,
    wide: Array,
    x: Array,
    bridge: str = "hadamard",
    cross_residual: bool = True,
    temperature: float = 1.0,
) -> Array:
    a = np.hstack([v.reshape(B, -1), x])
    first = a
    field_of = [f for f in range(F) for _ in range(D)] + [F + k for k in range(K)]
    for layer in range(3):
        gates = softmax(w[f"regulations.{layer}.gates"] / temperature)[:, field_of]
        c, d = a * gates[0], a * gates[1]
        first = first if layer else c
        crossed = first * (c @ w[f"layers.{layer}.cross.weight"][0])[:, None] + w[f"layers.{layer}.bias"]
        c = crossed + c if cross_residual else crossed
        d = relu(linear(w, f"layers.{layer}.deep.layers.0", d))
        if bridge == "concatenation":
            a = relu(linear(w, f"layers.{layer}.join.layers.0", np.hstack([c, d])))
        else:
            a = c * d if bridge == "hadamard" else c + d
    return linear(w, "head", np.hstack([c, d, a]))[:, 0]


EQUATIONS = {
    "autoint": logits_autoint,
    "xdeepfm": logits_xdeepfm,
    "ipnn": logits_ipnn,
    "fgcnn": logits_fgcnn,
    "edcn": logits_edcn,
}
SMALL: dict[str, dict[str, Any]] = {
    "autoint": {"attention_dim": WIDTH, "num_heads": HEADS},
    "xdeepfm": {"cin_maps": (4, 6, 3)},
    "fgcnn": {"channels": (3, 2), "kernel_height": 3},
    "edcn": {"batch_norm": False},
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(name, {}) for name in EQUATIONS],
        ("autoint", {"linear": True, "scale": False}),
        ("autoint", {"form": "fuxictr", "layer_norm": False}),
        ("autoint", {"form": "fuxictr", "scale": False}),
        ("xdeepfm", {"cin_connection": "half"}),
        ("edcn", {"bridge": "addition", "cross_residual": False}),
        ("edcn", {"bridge": "concatenation", "temperature": 2.0}),
    ],
)
def test_the_network_computes_its_equations(name: str, options: dict[str, Any]) -> None:
    with_mlp = "mlp" in MODELS[name].model_fields and options.get("form") != "fuxictr"
    mlp_settings = {"mlp": {"hidden_units": (7, 5)}} if with_mlp else {}
    config = MODELS[name].model_validate({"embedding_dim": D} | mlp_settings | SMALL.get(name, {}) | options)
    torch.manual_seed(2)
    model = config.build(F, K).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    rows = torch.randn(B, F, config.row_width, dtype=torch.float64)
    wide, numeric = torch.randn(B, dtype=torch.float64), torch.randn(B, K, dtype=torch.float64)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    expected = EQUATIONS[name](weights, rows.numpy(), wide.numpy(), numeric.numpy(), **options)
    np.testing.assert_allclose(model(rows, wide, numeric).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_compressed_interactions_by_hand() -> None:
    cin = xdeepfm.CIN(num_fields=2, maps=(2, 1), half=True)
    cin.load_state_dict(
        {
            "weights.0": torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]]),  # v1⊙v1; 2·v1⊙v2
            "weights.1": torch.tensor([[[0.0, 1.0]]]),  # the first map again with v2
        }
    )
    # v1 = (1, 2), v2 = (3, −1): the first map (1, 4) goes on, the second 2·(3, −2) is summed: 2; (1, 4)⊙(3, −1): −1
    torch.testing.assert_close(cin(torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])), torch.tensor([[2.0, -1.0]]))


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"num_attention_layers": 6, "form": "fuxictr", "scale": False, "layer_norm": False}, 306_051),
        ({"num_attention_layers": 5, "form": "fuxictr", "mlp": {"batch_norm": True}}, 622_180 - 1),
    ],
)
def test_parameters_count_as_in_the_bars_logs_of_frappe(options: dict[str, Any], published: int) -> None:
    """AutoInt and AutoInt+ on 5,389 ids of 10 fields; AutoInt+ there has two biases behind one sum, here one."""
    config = autoint.Config.model_validate({"attention_dim": 128, "num_heads": 4} | options)
    dense = sum(weight.numel() for weight in config.build(10, 0).parameters())
    assert 5_389 * config.row_width + dense == published


def test_attention_dropout_acts_in_training_only() -> None:
    model = autoint.Config(embedding_dim=4, attention_dropout=0.5).build(5, 0)
    batch = torch.randn(8, 5, 4), torch.zeros(8), torch.empty(8, 0)
    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


@pytest.mark.parametrize("name", ["fgcnn", "edcn"])
def test_batch_norm_inside_the_model_predicts_row_by_row(name: str) -> None:
    option = "conv_batch_norm" if name == "fgcnn" else "batch_norm"
    config = MODELS[name].model_validate({"embedding_dim": 4, option: True})
    model = config.build(5, 0)
    batch = torch.randn(16, 5, config.row_width), torch.zeros(16), torch.empty(16, 0)
    model(*batch)  # moves the running averages
    model.eval()
    torch.testing.assert_close(model(*(t[:1] for t in batch)), model(*batch)[:1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"name": "autoint", "attention_dim": 10, "num_heads": 4},
            r"attention_dim 10 is not a multiple of num_heads 4",
        ),
        ({"name": "xdeepfm", "cin_connection": "half", "cin_maps": [5, 4]}, r"even numbers of maps.*\[5, 4\]"),
    ],
)
def test_sizes_that_do_not_fit_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve({"model": settings})
