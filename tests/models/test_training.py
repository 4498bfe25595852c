"""What training and settings do with a model beyond its forward pass: losses of branches, contexts, dropout."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.errors import ConfigError
from clickherd.learner import Learner
from clickherd.models import MODELS, finalmlp, finalnet
from clickherd.network import ClickModel, TensorBatch

Array = npt.NDArray[np.float64]


def bce(y: Array, logit: Array) -> Array:
    p = 1 / (1 + np.exp(-logit))
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def finalnet_loss(y: Array, logits: Array) -> float:
    teacher = 1 / (1 + np.exp(-logits[0]))
    return float((bce(teacher, logits[1]) + bce(teacher, logits[2])).sum())


def fcn_loss(y: Array, logits: Array) -> float:
    whole, *branches = (bce(y, logit).mean() for logit in logits)
    return float(len(y) * sum(max(0.0, branch - whole) * branch for branch in branches))


@pytest.mark.parametrize(("name", "equation"), [("finalnet", finalnet_loss), ("fcn", fcn_loss)])
def test_auxiliary_losses_follow_their_equations(name: str, equation: Callable[[Array, Array], float]) -> None:
    model = MODELS[name]().build(2, 0)
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(50, generator=generator) < 0.3).double()
    logits = 2 * torch.randn(3, 50, generator=generator, dtype=torch.float64)
    for clever in (0, 1, 2):  # a branch that is better than the whole gets no loss of its own in FCN
        logits[clever] += 3 * (2 * labels - 1)
        found = model.auxiliary_loss(list(logits), labels)
        assert found is not None
        assert float(found) == pytest.approx(equation(labels.numpy(), logits.numpy()), rel=1e-10)


def test_a_teacher_does_not_learn_from_its_pupils() -> None:
    logits = torch.randn(3, 20, requires_grad=True)
    loss = finalnet.Config().build(2, 0).auxiliary_loss(list(logits), torch.ones(20))
    assert loss is not None
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[0].any()
    assert logits.grad[1:].all()


def test_most_models_add_nothing_to_the_loss() -> None:
    added = {name for name in MODELS if len(branches_of(name)) > 1}
    assert added == {"finalnet", "fcn"}
    assert finalnet.Config(num_blocks=1).build(2, 0).auxiliary_loss([torch.zeros(3)], torch.zeros(3)) is None


def branches_of(name: str) -> tuple[torch.Tensor, ...]:
    config = MODELS[name]()
    return config.build(2, 1).branches(torch.randn(3, 2, config.row_width), torch.zeros(3), torch.randn(3, 1))


@pytest.mark.parametrize("name", ["finalnet", "fcn"])
def test_training_follows_all_losses_and_reports_the_prediction_s(make_store: Callable[..., Store], name: str) -> None:
    store = make_store(64)
    config = resolve({"model": {"name": name}, "train": {"precision": "fp32"}})
    torch.manual_seed(0)
    model = ClickModel(config.model, store.layout, init_std=0.5)
    learner = Learner(model, config, 64)
    batch = TensorBatch.of(next(iter(store.batches(64))), model.device)
    gradients = learner.gradients(batch, 64)

    rows, wide = model.table.gather(batch.ids, batch.bags)
    logits = model.net.branches(rows, wide, batch.numeric)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], batch.labels)
    torch.testing.assert_close(gradients.loss, loss.detach())
    added = model.net.auxiliary_loss(logits, batch.labels)
    assert added is not None
    assert added > 0
    (loss + added / 64).backward()
    torch.testing.assert_close(gradients.dense, [weight.grad for weight in model.net.parameters()])


def test_a_context_that_is_no_field_is_told_with_the_fields(make_store: Callable[..., Store]) -> None:
    layout = make_store(10).layout
    with pytest.raises(ConfigError, match=r"model\.context2: no field is called 'f9'.*Valid names: f0, f1, f2\."):
        ClickModel(finalmlp.Config(context=("f0",), context2=("f9",)), layout)
    with pytest.raises(ConfigError, match=r"model\.context: no field is called 'n0'"):
        ClickModel(finalmlp.Config(context=("n0",)), layout)


def test_contexts_have_embeddings_of_their_own(make_store: Callable[..., Store]) -> None:
    """A context field's second half, and no other's, moves the logit; no other field's gets a gradient."""
    store = make_store(64)
    config = finalmlp.Config.model_validate({"embedding_dim": 3, "context": ["f1"], "context2": ["f2"]})
    torch.manual_seed(0)
    model = ClickModel(config, store.layout, init_std=0.5)
    assert model.table.weight.shape[1] == 6
    batch = TensorBatch.of(next(iter(store.batches(64))), model.device)
    rows, wide = model.table.gather(batch.ids, batch.bags)
    rows.requires_grad_()
    model.net(rows, wide, batch.numeric).sum().backward()
    assert rows.grad is not None
    moved = rows.grad.abs().amax(dim=0).unflatten(1, (2, 3)).amax(dim=2) > 0
    assert moved.tolist() == [[True, False], [True, True], [True, True]]


def test_a_gate_without_context_learns_all_its_weights() -> None:
    """Its vector starts off zero, where the ReLUs of the gate would pass nothing down."""
    torch.manual_seed(0)
    model = finalmlp.Config().build(3, 1)
    model(torch.randn(8, 3, 10), torch.zeros(8), torch.randn(8, 1)).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.gates.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masknet", {"dropout": 0.5}),
        ("masknet", {"dropout": 0.5, "structure": "parallel"}),
        ("finalmlp", {"mlp2": {"dropout": 0.5}, "num_heads": 1}),
        ("finalnet", {"block": {"dropout": 0.5}}),
        ("finalnet", {"block2": {"dropout": 0.5}}),
        ("fcn", {"exponential_dropout": 0.5}),
        ("fcn", {"linear_dropout": 0.5}),
    ],
)
def test_dropout_of_every_part_acts_in_training_only(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = MODELS[name].model_validate(options).build(4, 2)
    batch = torch.randn(16, 4, 10), torch.zeros(16), torch.randn(16, 2)
    assert not torch.equal(model(*batch), model(*batch))
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


@pytest.mark.parametrize("part", ["block", "block2"])
def test_batch_norm_of_a_block_predicts_row_by_row(part: str) -> None:
    torch.manual_seed(0)
    model = finalnet.Config.model_validate({part: {"batch_norm": True}}).build(4, 2)
    batch = torch.randn(16, 4, 10), torch.zeros(16), torch.randn(16, 2)
    trained = model(*batch).detach()  # moves the running averages
    model.eval()
    assert not torch.equal(model(*batch), trained)
    torch.testing.assert_close(model(*(t[:1] for t in batch)), model(*batch)[:1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "finalmlp", "num_heads": 3}, r"model\.num_heads = 3: must divide .* of mlp, \[400, 400, 400\]"),
        ({"name": "finalmlp", "mlp2": {"hidden_units": [5]}}, r"model\.num_heads = 2: must divide .* of mlp2, \[5\]"),
        ({"name": "finalmlp", "mlp": {"hidden_units": []}}, r"model\.num_heads = 2: must divide .* of mlp, \[\]"),
        (
            {"name": "finalnet", "block2": {"hidden_units": [4, 3]}},
            r"hidden_units of block2 must be even, not \[4, 3\]",
        ),
        ({"name": "fcn", "num_heads": 4}, r"model\.num_heads = 4: must divide embedding_dim, 10"),
        ({"name": "rankmixer", "token_dim": 20}, r"model\.num_tokens = 8: must divide token_dim, 20"),
    ],
)
def test_sizes_that_do_not_fit_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve({"model": settings})
