"""Each model against its paper's equations, written again in NumPy, and against numbers worked out by hand."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clickherd.models import MODELS, CTRModel, dcn, dcnv2, dcnv2_mix, fm

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
B, F, D, K = 6, 4, 3, 2


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1))


def mlp(w: Weights, x: Array, *, output: bool) -> Array:
    """Two hidden layers; the third linear layer is the output."""
    x = np.maximum(linear(w, "mlp.layers.0", x), 0)
    x = np.maximum(linear(w, "mlp.layers.2", x), 0)
    return linear(w, "mlp.layers.4", x)[:, 0] if output else x


def pairs(v: Array) -> Array:
    total = np.zeros(len(v))
    for f in range(v.shape[1]):
        for g in range(f + 1, v.shape[1]):
            total += (v[:, f] * v[:, g]).sum(axis=1)
    return total


def logits_lr(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    return wide + x @ w["linear.weight"] + w["linear.bias"]


def logits_fm(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    return wide + x @ w["linear.weight"] + w["linear.bias"] + pairs(v)


def logits_wide_deep(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    return wide + x @ w["linear.weight"] + mlp(w, np.hstack([v.reshape(B, -1), x]), output=True)


def logits_deepfm(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    return logits_wide_deep(w, v, wide, x) + pairs(v)


def head(w: Weights, x0: Array, crossed: Array, structure: str) -> Array:
    final = mlp(w, crossed, output=False) if structure == "stacked" else np.hstack([crossed, mlp(w, x0, output=False)])
    return linear(w, "head", final)[:, 0]


def logits_dcn(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    x0 = np.hstack([v.reshape(B, -1), x])
    crossed = []
    for row in x0:
        xl = row
        for layer in range(3):
            xl = np.outer(row, xl) @ w[f"cross.{layer}.weight"][0] + w[f"bias.{layer}"] + xl
        crossed.append(xl)
    return head(w, x0, np.array(crossed), "parallel")


def logits_dcnv2(w: Weights, v: Array, wide: Array, x: Array, structure: str = "parallel") -> Array:
    x0 = np.hstack([v.reshape(B, -1), x])
    crossed = []
    for row in x0:
        xl = row
        for layer in range(3):
            xl = row * (w[f"cross.{layer}.weight"] @ xl + w[f"cross.{layer}.bias"]) + xl
        crossed.append(xl)
    return head(w, x0, np.array(crossed), structure)


def logits_dcnv2_mix(w: Weights, v: Array, wide: Array, x: Array, structure: str = "parallel") -> Array:
    x0 = np.hstack([v.reshape(B, -1), x])
    crossed = []
    for row in x0:
        xl = row
        for layer in range(3):
            u, c, vt, b = (w[f"cross.{layer}.{part}"] for part in ("U_ENR", "C_ESR", "V_ENR", "bias_N"))
            scores = np.exp(w[f"cross.{layer}.gate.weight"] @ xl)
            gates = scores / scores.sum()
            experts = [row * (u[i] @ np.tanh(c[i] @ np.tanh(vt[i].T @ xl)) + b) for i in range(len(u))]
            xl = sum(gate * expert for gate, expert in zip(gates, experts, strict=True)) + xl
        crossed.append(xl)
    return head(w, x0, np.array(crossed), structure)


def logits_din(w: Weights, v: Array, wide: Array, x: Array) -> Array:
    """Without sequences; with them see test_sequence_models.py."""
    return mlp(w, np.hstack([v.reshape(B, -1), x]), output=True)


EQUATIONS = {
    "lr": logits_lr,
    "fm": logits_fm,
    "wide_deep": logits_wide_deep,
    "deepfm": logits_deepfm,
    "dcn": logits_dcn,
    "dcnv2": logits_dcnv2,
    "dcnv2_mix": logits_dcnv2_mix,
    "din": logits_din,
}


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in EQUATIONS] + [(name, {"structure": "stacked"}) for name in ("dcnv2", "dcnv2_mix")],
)
def test_the_network_computes_its_equations(name: str, options: dict[str, Any]) -> None:
    fields = MODELS[name].model_fields
    small: dict[str, Any] = {} if name == "lr" else {"embedding_dim": D}
    small |= {"mlp": {"hidden_units": (7, 5)}} if "mlp" in fields else {}
    small |= {"rank": 2, "num_experts": 3} if "rank" in fields else {}
    config = MODELS[name].model_validate(small | options)
    torch.manual_seed(2)
    model = config.build(F, K).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)
    rows = torch.randn(B, F, config.embedding_dim, dtype=torch.float64)
    wide, numeric = torch.randn(B, dtype=torch.float64), torch.randn(B, K, dtype=torch.float64)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    expected = EQUATIONS[name](weights, rows.numpy(), wide.numpy(), numeric.numpy(), **options)
    np.testing.assert_allclose(model(rows, wide, numeric).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def run(model: CTRModel, rows: list[list[float]], wide: float, numeric: list[float]) -> float:
    return float(model(torch.tensor([rows]), torch.tensor([wide]), torch.tensor([numeric])).detach())


def test_factorisation_machine_by_hand() -> None:
    model = fm.Config(embedding_dim=2).build(3, 1)
    model.load_state_dict({"linear.weight": torch.tensor([10.0]), "linear.bias": torch.tensor(0.25)})
    # ⟨v1, v2⟩ = 1·3 + 2·(−1) = 1, ⟨v1, v3⟩ = 1·0 + 2·2 = 4, ⟨v2, v3⟩ = 3·0 − 1·2 = −2; 10·0.5 + 0.25 + 7
    assert run(model, [[1, 2], [3, -1], [0, 2]], wide=7.0, numeric=[0.5]) == 3 + 5 + 0.25 + 7


def test_vector_cross_layer_by_hand() -> None:
    config = dcn.Config.model_validate({"embedding_dim": 2, "num_cross_layers": 2, "mlp": {"hidden_units": [1]}})
    model = config.build(1, 0)
    state = model.state_dict()
    state["cross.0.weight"], state["cross.1.weight"] = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, -1.0]])
    state["bias.0"], state["bias.1"] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    state["head.weight"], state["head.bias"] = torch.tensor([[1.0, 100.0, 0.0]]), torch.tensor([0.5])
    model.load_state_dict(state)
    # x0 = (1, 2): x0·w0 = 5, x1 = 5·(1, 2) + (1, 0) + (1, 2) = (7, 12); x1·w1 = −12, x2 = −12·(1, 2) + (0, 2) + (7, 12)
    assert run(model, [[1, 2]], wide=9.0, numeric=[]) == (-12 + 7) + 100 * (-24 + 2 + 12) + 0.5


def test_matrix_cross_layer_by_hand() -> None:
    config = dcnv2.Config.model_validate({"embedding_dim": 2, "num_cross_layers": 1, "mlp": {"hidden_units": [1]}})
    model = config.build(1, 0)
    state = model.state_dict()
    state["cross.0.weight"], state["cross.0.bias"] = torch.tensor([[1.0, -1.0], [0.0, 3.0]]), torch.tensor([4.0, 0.0])
    state["head.weight"], state["head.bias"] = torch.tensor([[1.0, 100.0, 0.0]]), torch.tensor([0.0])
    model.load_state_dict(state)
    # x0 = (1, 2): W x0 + b = (1 − 2 + 4, 6) = (3, 6); x1 = (1·3, 2·6) + (1, 2) = (4, 14)
    assert run(model, [[1, 2]], wide=0.0, numeric=[]) == 4 + 100 * 14


def test_low_rank_mixture_by_hand() -> None:
    layer = dcnv2_mix.LowRankMixture(width=2, rank=1, num_experts=2)
    half = float(np.arctanh(0.5))
    layer.load_state_dict(
        {
            "V_ENR": torch.tensor([[[half], [0.0]], [[0.0], [0.0]]]),  # expert 1: tanh(half·1) = 0.5; expert 2: 0
            "C_ESR": torch.tensor([[[2 * half]], [[1.0]]]),  # expert 1: tanh(2·half·0.5) = 0.5; expert 2: 0
            "U_ENR": torch.tensor([[[8.0], [-4.0]], [[5.0], [5.0]]]),  # U·0.5 = (4, −2); 0
            "bias_N": torch.tensor([1.0, 1.0]),
            "gate.weight": torch.tensor([[float(np.log(3)), 0.0], [0.0, 0.0]]),  # softmax(log 3, 0) = (¾, ¼)
        }
    )
    x = torch.tensor([[1.0, 2.0]])
    # x0 ⊙ (¾·(4, −2) + ¼·(0, 0) + (1, 1)) = (1·4, 2·(−½))
    torch.testing.assert_close(layer(x, x), torch.tensor([[4.0, -1.0]]))


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("wide_deep", {}, 423_280),
        ("deepfm", {}, 423_280),
        ("dcn", {}, 418_591),
        ("dcnv2", {"num_cross_layers": 4}, 458_391),
    ],
)
def test_parameters_count_as_in_the_bars_logs_of_frappe(name: str, options: dict[str, Any], published: int) -> None:
    """5,389 ids: the 5,382 of the data less 3 that the training part lacks, and one spare id for each of 10 fields."""
    num_ids, num_fields = 5_389, 10
    config = MODELS[name].model_validate({"embedding_dim": 10, "mlp": {"batch_norm": True}} | options)
    dense = sum(weight.numel() for weight in config.build(num_fields, 0).parameters())
    assert num_ids * (config.embedding_dim + config.wide) + dense == published
