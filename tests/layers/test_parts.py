import math

import pytest
import torch
from torch.nn import functional

from clickherd.layers import interaction
from clickherd.layers.interaction import InnerProducts, bilinear, pairwise_products
from clickherd.layers.linear import NumericLinear
from clickherd.layers.mlp import MLP, BatchNorm, MLPConfig, glorot_linear, glorot_stack


def test_pairwise_products_have_the_gradient_of_their_formula() -> None:
    rows = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pairwise_products, rows)


def test_pairwise_products_by_hand() -> None:
    rows = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.0, 2.0]]])
    torch.testing.assert_close(pairwise_products(rows), torch.tensor([[1 * 3.0, -2 + 4 - 2.0]]))


@pytest.mark.parametrize("num_fields", [0, 1])
def test_fewer_than_two_fields_have_no_pairs(num_fields: int) -> None:
    torch.testing.assert_close(pairwise_products(torch.randn(4, num_fields, 3)), torch.zeros(4, 3))


def test_inner_products_are_those_of_all_pairs_in_order() -> None:
    rows = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [0.0, 2.0]]])
    torch.testing.assert_close(InnerProducts(3)(rows), torch.tensor([[3.0 - 2.0, 4.0, -2.0]]))
    assert InnerProducts(1)(rows[:, :1]).shape == (1, 0)


def test_bilinear_has_the_values_and_the_gradient_of_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(interaction.SLICE, "cpu", 25)  # of 12 products a row and column: two rows at a time
    x, y, weight = (torch.randn(*shape, dtype=torch.float64) for shape in [(3, 5, 4), (3, 5, 3), (2, 4, 3)])
    torch.testing.assert_close(bilinear(x, y, weight), torch.einsum("bdh,bdf,mhf->bdm", x, y, weight))
    assert torch.autograd.gradcheck(bilinear, [t.requires_grad_() for t in (x, y, weight)])
    same = y.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: bilinear(t, t, torch.ones(2, 3, 3, dtype=torch.float64)), same)


def test_numeric_linear_starts_at_zero_and_adds_up() -> None:
    layer = NumericLinear(2)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert not layer(x).any()
    layer.load_state_dict({"weight": torch.tensor([10.0, 1.0]), "bias": torch.tensor(0.5)})
    torch.testing.assert_close(layer(x), torch.tensor([12.5, 34.5]))


@pytest.mark.parametrize("bias", [True, False])
def test_numeric_linear_without_columns(bias: bool) -> None:
    assert NumericLinear(0, bias=bias)(torch.empty(3, 0)).shape == (3,)


def test_mlp_has_the_layers_of_its_config_in_order() -> None:
    config = MLPConfig(hidden_units=(8, 4), activation="tanh", dropout=0.1, batch_norm=True)
    layers = [type(layer).__name__ for layer in MLP(5, config, num_outputs=1).layers]
    assert layers == ["Linear", "BatchNorm", "Tanh", "Dropout"] * 2 + ["Linear"]
    assert MLP(5, config).num_outputs == 4
    assert MLP(5, MLPConfig(hidden_units=())).num_outputs == 5


def test_mlp_starts_glorot_normal_with_zero_biases() -> None:
    torch.manual_seed(0)
    first = MLP(300, MLPConfig()).layers[0]
    assert isinstance(first, torch.nn.Linear)
    assert not first.bias.any()
    assert float(first.weight.detach().std()) == pytest.approx(math.sqrt(2 / 700), rel=0.02)
    assert float(glorot_stack(50, 30, 20).detach().std()) == pytest.approx(math.sqrt(2 / 50), rel=0.03)
    assert glorot_linear(3, 2, bias=False).bias is None


def test_batch_norm_normalises_over_the_rows() -> None:
    norm = BatchNorm(4)
    out = norm(torch.randn(200, 4) * 5 + 3)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=0, correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_batch_norm_takes_a_row_that_comes_alone() -> None:
    norm = BatchNorm(4)
    norm(torch.randn(200, 4) * 5 + 3)
    row = torch.randn(1, 4)
    expected = functional.batch_norm(row, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(norm(row), expected)
    norm.eval()
    torch.testing.assert_close(norm(row), expected)
