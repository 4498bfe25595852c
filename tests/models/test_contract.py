"""What every model promises, run over every model."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from clickherd.config import resolve
from clickherd.data.store import MISSING, Batch, FieldLayout, Layout
from clickherd.errors import ConfigError
from clickherd.learner import kept_per_row
from clickherd.models import MODELS, CTRModel, ModelConfig
from clickherd.network import ClickModel

NAMES = sorted(MODELS)
WIDE = {"lr", "fm", "wide_deep", "deepfm", "xdeepfm"}  # as in the papers
STRUCTURES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + [
    ("dcnv2", {"structure": "stacked"}),
    ("dcnv2_mix", {"structure": "stacked"}),
    ("autoint", {"mlp": None}),
    ("autoint", {"form": "fuxictr", "linear": True}),
    ("autoint", {"form": "fuxictr", "attention_dim": 4, "scale": False, "layer_norm": False}),
    ("xdeepfm", {"cin_connection": "half"}),
    ("edcn", {"bridge": "addition", "cross_residual": False}),
    ("edcn", {"bridge": "concatenation", "temperature": 2.0}),
    ("masknet", {"structure": "parallel"}),
    ("finalnet", {"num_blocks": 1, "residual": "sum"}),
    ("fcn", {"num_heads": 2}),
]
SMALL: dict[str, dict[str, Any]] = {
    "edcn": {"batch_norm": False},  # its rows depend on each other in training; see the test of batch norm below
    "masknet": {"block_units": (16, 12), "reduction_ratio": 0.5},  # norms of fewer units magnify bfloat16's rounding
    "finalmlp": {"mlp2": {"hidden_units": (4, 5)}, "num_heads": 1, "gate_units": (16,)},
    "finalnet": {"block": {"hidden_units": (6, 4)}, "block2": {"hidden_units": (4,)}},
    "fcn": {"num_exponential_layers": 2, "num_linear_layers": 3},
    "rankmixer": {"token_dim": 6, "num_tokens": 3, "expansion": 2},
}
every_model = pytest.mark.parametrize(("name", "options"), STRUCTURES, ids=lambda v: v if isinstance(v, str) else "")


def small(name: str, **options: Any) -> ModelConfig:
    """The model's Config, small enough for a test."""
    fields = MODELS[name].model_fields
    settings: dict[str, Any] = {} if name == "lr" else {"embedding_dim": 4}
    if "mlp" in fields:
        mlp = options.pop("mlp", {})
        settings["mlp"] = mlp if mlp is None else {"hidden_units": (6, 5)} | mlp
    settings |= SMALL.get(name, {})
    if "rank" in fields:
        settings |= {"rank": 3, "num_experts": 2}
    small_sizes = {"attention_dim": 6, "cin_maps": (4, 6, 3), "channels": (3, 2), "kernel_height": 3}
    settings |= {option: size for option, size in small_sizes.items() if option in fields}
    return MODELS[name].model_validate(settings | options)


def build(config: ModelConfig, num_fields: int, num_numeric: int, seed: int = 0) -> CTRModel:
    """The network with every weight at random, those too that start at zero."""
    torch.manual_seed(seed)
    model = config.build(num_fields, num_numeric)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def inputs(config: ModelConfig, batch: int, num_fields: int, num_numeric: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(batch, num_fields, config.row_width, requires_grad=True),
        torch.randn(batch, requires_grad=True),
        torch.randn(batch, num_numeric),
    )


@every_model
@pytest.mark.parametrize(("num_fields", "num_numeric"), [(5, 3), (5, 0), (1, 0), (1, 2), (0, 3)])
@pytest.mark.parametrize("batch", [7, 1, 0])
def test_one_logit_a_row(name: str, options: dict[str, Any], num_fields: int, num_numeric: int, batch: int) -> None:
    config = small(name, **options)
    logits = build(config, num_fields, num_numeric)(*inputs(config, batch, num_fields, num_numeric))
    assert logits.shape == (batch,)
    assert torch.isfinite(logits).all()


@every_model
def test_the_table_s_rows_are_what_the_network_reads(name: str, options: dict[str, Any]) -> None:
    config = small(name, **options)
    fields, bags = (FieldLayout("a", 0, 5), FieldLayout("b", 5, 7)), ()
    if config.sequences:  # such a model is not built without one
        fields += (FieldLayout("history", 5, 7, multi=True, target="b", max_length=3),)
        bags = ((np.array([7, 8, 5 + MISSING, 11], dtype=np.int32), np.array([0, 2, 3, 4])),)
    model = ClickModel(config, Layout(fields, ("x",)))
    ids, numeric = np.array([[0, 5], [4, 11], [2, 6]], dtype=np.int32), np.ones((3, 1), dtype=np.float32)
    clicks = model.predict(Batch(ids, bags, numeric, np.empty(0, np.float32), np.empty(0, np.uint64)))
    assert clicks.shape == (3,)
    assert ((clicks > 0) & (clicks < 1)).all()


def test_what_a_row_keeps_is_counted_without_the_weights() -> None:
    layout = Layout((FieldLayout("a", 0, 5), FieldLayout("b", 5, 7)), ("x",))
    # an MLP keeps its 9 inputs and the 6 + 5 outputs of its ReLUs; the linear term keeps the numeric column
    assert kept_per_row(ClickModel(small("wide_deep"), layout)) == 9 + 6 + 5 + 1
    assert kept_per_row(ClickModel(small("autoint"), layout)) > 2 * 3 * 24  # two fields' products in three layers


@every_model
def test_every_input_and_every_weight_gets_a_gradient(name: str, options: dict[str, Any]) -> None:
    config = small(name, **options)
    model = build(config, 5, 3)
    rows, wide, numeric = inputs(config, 64, 5, 3)
    numeric.requires_grad_()
    model(rows, wide, numeric).square().sum().backward()
    assert config.wide == (name in WIDE or options.get("linear", False))
    if config.wide:
        assert wide.grad is not None
        assert wide.grad.abs().min() > 0
    else:
        assert wide.grad is None, "a model without a wide part ignores wide_B"
    if config.embedding_dim:
        assert rows.grad is not None
        assert rows.grad.abs().amax(dim=(0, 2)).min() > 0, "a field is left out"
    assert numeric.grad is not None
    assert numeric.grad.abs().amax(dim=0).min() > 0, "a numeric column is left out"
    for weight_name, weight in model.named_parameters():
        assert weight.grad is not None, weight_name
        assert weight.grad.abs().max() > 0, weight_name


@every_model
def test_a_row_s_logit_does_not_depend_on_its_neighbours(name: str, options: dict[str, Any]) -> None:
    config = small(name, **options)
    model = build(config, 5, 3)
    rows, wide, numeric = inputs(config, 9, 5, 3)
    order = torch.randperm(9)
    logits = model(rows, wide, numeric)
    torch.testing.assert_close(model(rows[order], wide[order], numeric[order]), logits[order])
    torch.testing.assert_close(model(rows[4:5], wide[4:5], numeric[4:5]), logits[4:5])


@every_model
def test_gradients_of_slices_add_up_to_the_batch_s(name: str, options: dict[str, Any]) -> None:
    config = small(name, **options)
    model = build(config, 5, 3).double()
    rows, wide, numeric = (t.detach().double() for t in inputs(config, 11, 5, 3))

    def gradients(bounds: list[tuple[int, int]]) -> list[Tensor]:
        leaf = rows.clone().requires_grad_()
        model.zero_grad()
        for start, stop in bounds:
            logits = model(leaf[start:stop], wide[start:stop], numeric[start:stop])
            (torch.nn.functional.softplus(logits).sum() / len(rows)).backward()
        dense = [w.grad for w in model.parameters() if w.grad is not None]
        return [*dense, *([leaf.grad] if leaf.grad is not None else [])]

    torch.testing.assert_close(gradients([(0, 4), (4, 5), (5, 11)]), gradients([(0, 11)]))


@every_model
def test_bfloat16_products_change_logits_and_gradients_by_their_rounding_only(
    name: str, options: dict[str, Any]
) -> None:
    config = small(name, **options)
    model = build(config, 5, 3)
    batch = inputs(config, 64, 5, 3)

    def logits_and_gradients(bfloat16: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            logits = model(*batch).float()
        leaves = [batch[0], *model.parameters()] if config.embedding_dim else list(model.parameters())
        gradients = torch.autograd.grad(logits.square().mean(), leaves)
        return logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    for rounded, exact in zip(logits_and_gradients(True), logits_and_gradients(False), strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() < 0.15 * exact.norm()  # .067 was measured, where a ReLU turns


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_a_graph_for_any_number_of_rows(name: str) -> None:
    config = small(name)
    model = build(config, 5, 3).eval()
    rows = torch.export.Dim("rows")
    graph = torch.export.export(
        model, tuple(t.detach() for t in inputs(config, 7, 5, 3)), dynamic_shapes=({0: rows},) * 3
    )
    batch = tuple(t.detach() for t in inputs(config, 11, 5, 3))
    torch.testing.assert_close(graph.module()(*batch), model(*batch).detach(), atol=1e-5, rtol=1e-5)


@every_model
def test_only_weights_are_penalised_and_each_once(name: str, options: dict[str, Any]) -> None:
    config = small(name, **options)
    model = config.build(5, 3)
    terms = list(model.l2_terms())
    owned = {id(weight): weight_name for weight_name, weight in model.named_parameters()}
    penalised = [owned[id(weight)] for weight, _ in terms]
    assert len(set(penalised)) == len(penalised)
    assert not any("bias" in weight_name for weight_name in penalised)
    assert {l2 for _, l2 in terms} == ({1e-5} if name in {"dcn", "dcnv2", "dcnv2_mix"} else set())


@every_model
def test_the_output_s_bias_moves_every_logit_by_as_much(name: str, options: dict[str, Any]) -> None:
    net = build(small(name, **options), 3, 2).eval()
    batch = inputs(small(name, **options), 7, 3, 2)
    before = [logits_B.detach().clone() for logits_B in net.branches(*batch)]
    with torch.no_grad():
        for bias in net.output_biases():
            bias.add_(1.5)
    for old_B, new_B in zip(before, net.branches(*batch), strict=True):
        torch.testing.assert_close(new_B, old_B + 1.5)


@pytest.mark.parametrize("name", [name for name in NAMES if "mlp" in MODELS[name].model_fields])
def test_dropout_acts_in_training_only(name: str) -> None:
    config = small(name, mlp={"dropout": 0.5, "hidden_units": (40,)})
    model = build(config, 5, 3)
    batch = inputs(config, 16, 5, 3)
    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


@pytest.mark.parametrize("name", [name for name in NAMES if "mlp" in MODELS[name].model_fields])
def test_batch_norm_predicts_row_by_row(name: str) -> None:
    config = small(name, mlp={"batch_norm": True})
    model = build(config, 5, 3)
    batch = inputs(config, 32, 5, 3)
    model(*batch)  # moves the running averages
    model.eval()
    torch.testing.assert_close(model(*(t[:1] for t in batch)), model(*batch)[:1])


@every_model
def test_the_seed_decides_the_start(name: str, options: dict[str, Any]) -> None:
    config = small(name, **options)
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(config.build(5, 3).state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    random = any(weight.numel() and weight.any() for weight in states[0].values())
    assert random == any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", NAMES)
def test_settings_choose_the_model_by_name(name: str) -> None:
    config = resolve({"model": {"name": name}}).model
    assert type(config) is MODELS[name]
    assert config.name == name
    assert 20 < len(config.summary()) < 100


def test_an_unknown_model_lists_the_names() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'widedeep'.*Did you mean 'wide_deep'\?") as caught:
        resolve({"model": {"name": "widedeep"}})
    assert all(name in str(caught.value) for name in NAMES)


def test_a_setting_named_like_a_model_is_still_named_in_the_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'optim\.lr'.*learning_rate"):
        resolve({"optim": {"lr": 1e-3}})
    with pytest.raises(ConfigError, match=r"unknown setting 'model\.cross'.*cross_l2"):
        resolve({"model": {"name": "dcn", "cross": 3}})


def test_embeddings_are_the_model_s_choice_to_need() -> None:
    assert MODELS["lr"]().embedding_dim == 0
    with pytest.raises(ValidationError):
        MODELS["lr"].model_validate({"embedding_dim": 4})
    for name in set(NAMES) - {"lr"}:
        with pytest.raises(ValidationError):
            MODELS[name].model_validate({"embedding_dim": 0})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lr" and not MODELS[name].sequences])
def test_a_model_with_its_defaults_can_begin_to_learn(name: str) -> None:
    """Rows as small as they are at the start have gradients that are no rounding errors: EDCN's once had."""
    config = MODELS[name]()
    torch.manual_seed(0)
    model = config.build(8, 0).train()
    rows = (0.01 * torch.randn(64, 8, config.row_width)).requires_grad_()
    labels = (torch.rand(64) < 0.3).float()
    loss = binary_cross_entropy_with_logits(model(rows, torch.zeros(64), torch.zeros(64, 0)), labels, reduction="sum")
    (grad,) = torch.autograd.grad(loss, rows)
    assert grad.abs().mean() > 1e-5
