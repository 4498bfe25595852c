"""What a model that takes sequences value by value promises, and DIN against its equations written again in NumPy."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from clickherd.layers.sequences import SequenceRows, expand, softmax_values, sum_values
from clickherd.models import MODELS, CTRModel
from clickherd.models.base import SequenceModelConfig

Array = npt.NDArray[np.float64]
NAMES = sorted(name for name, config in MODELS.items() if config.sequences)
OPTIONS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES] + [("din", {"softmax": True})]
every_model = pytest.mark.parametrize(("name", "options"), OPTIONS)
F, D, K, TARGETS = 4, 3, 2, (1, 3)
LENGTHS = ([3, 0, 1, 5, 2, 0, 7], [1, 2, 0, 0, 4, 1, 1])  # of the two sequences in seven rows


def small(name: str, options: dict[str, Any]) -> SequenceModelConfig:
    config = MODELS[name].model_validate({"embedding_dim": D, "mlp": {"hidden_units": (6, 5)}} | options)
    assert isinstance(config, SequenceModelConfig)
    return config


def build(config: SequenceModelConfig) -> CTRModel:
    """The network with every weight at random, those too that start at zero."""
    torch.manual_seed(0)
    model = config.build(F, K, num_sequences=len(TARGETS)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def sequences_of(lengths: tuple[list[int], ...]) -> tuple[SequenceRows, ...]:
    torch.manual_seed(2)
    return tuple(
        SequenceRows(torch.randn(sum(sizes), D).double(), torch.tensor([0, *np.cumsum(sizes)]).long(), target)
        for sizes, target in zip(lengths, TARGETS, strict=True)
    )


def inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(batch, F, D).double(), torch.randn(batch).double(), torch.randn(batch, K).double()


def slice_of(sequences: tuple[SequenceRows, ...], start: int, stop: int) -> tuple[SequenceRows, ...]:
    return tuple(
        SequenceRows(
            s.rows[s.offsets[start] : s.offsets[stop]], s.offsets[start : stop + 1] - s.offsets[start], s.target
        )
        for s in sequences
    )


@every_model
@pytest.mark.parametrize(
    "lengths", [LENGTHS, ([2], [0]), ([], []), ([0] * 7, [0] * 7), ([1] * 7, [0] * 7)], ids=lambda v: str(v[0])
)
def test_one_logit_a_row_however_long_the_histories(
    name: str, options: dict[str, Any], lengths: tuple[list[int], ...]
) -> None:
    for activation in ("relu", "dice"):
        mlp, attention = {"hidden_units": (6, 5), "activation": activation}, {"activation": activation}
        model = build(small(name, options | {"mlp": mlp, "attention": attention}))
        sequences = sequences_of(lengths)
        rows, wide, numeric = inputs(len(lengths[0]))
        leaves = [rows.requires_grad_(), *(s.rows.requires_grad_() for s in sequences)]
        for train in (True, False):
            model.train(train)
            logits = model(rows, wide, numeric, sequences)
            assert logits.shape == (len(rows),)
            assert torch.isfinite(logits).all()
            gradients = torch.autograd.grad(logits.square().sum(), leaves, allow_unused=True, materialize_grads=True)
            assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_model
def test_every_value_and_every_weight_gets_a_gradient(name: str, options: dict[str, Any]) -> None:
    model, sequences = build(small(name, options)), sequences_of(LENGTHS)
    for sequence in sequences:
        sequence.rows.requires_grad_()
    model(*inputs(7), sequences).square().sum().backward()
    for sequence in sequences:
        assert sequence.rows.grad is not None
        assert sequence.rows.grad.abs().amax(dim=1).min() > 0, "a value is left out"
    for weight_name, weight in model.named_parameters():
        last_bias = options.get("softmax") and weight_name.startswith("attention") and weight_name.endswith("4.bias")
        assert weight.grad is not None, weight_name
        assert last_bias or weight.grad.abs().max() > 0, weight_name  # a softmax takes no notice of what all share


@every_model
def test_a_row_s_logit_does_not_depend_on_its_neighbours(name: str, options: dict[str, Any]) -> None:
    model, sequences, (rows, wide, numeric) = build(small(name, options)), sequences_of(LENGTHS), inputs(7)
    logits = model(rows, wide, numeric, sequences)
    for b in range(7):
        alone = model(rows[b : b + 1], wide[b : b + 1], numeric[b : b + 1], slice_of(sequences, b, b + 1))
        torch.testing.assert_close(alone, logits[b : b + 1])


@every_model
def test_gradients_of_slices_add_up_to_the_batch_s(name: str, options: dict[str, Any]) -> None:
    model, sequences, (rows, wide, numeric) = build(small(name, options)), sequences_of(LENGTHS), inputs(7)
    leaves = [rows.requires_grad_(), *(s.rows.requires_grad_() for s in sequences), *model.parameters()]

    def gradients(bounds: list[tuple[int, int]]) -> list[Tensor]:
        logits = [
            model(rows[start:stop], wide[start:stop], numeric[start:stop], slice_of(sequences, start, stop))
            for start, stop in bounds
        ]
        return list(torch.autograd.grad(torch.nn.functional.softplus(torch.cat(logits)).sum(), leaves))

    torch.testing.assert_close(gradients([(0, 3), (3, 4), (4, 7)]), gradients([(0, 7)]))


def test_sums_over_values_and_their_gradients() -> None:
    offsets = torch.tensor([0, 2, 2, 5])
    owners = SequenceRows(torch.zeros(5, 1), offsets, 0).owners()
    assert owners.tolist() == [0, 0, 2, 2, 2]
    x = torch.arange(10.0, dtype=torch.float64).reshape(5, 2).requires_grad_()
    assert sum_values(x, owners, offsets).tolist() == [[2, 4], [0, 0], [18, 21]]
    torch.testing.assert_close(softmax_values(x[:, 0], owners, offsets)[2:], torch.softmax(x[2:, 0], 0))
    assert softmax_values(1000 * x[:, 0], owners, offsets).sum() == 2, "large numbers do not overflow"
    y = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sum_values(x, owners, offsets), x)
    assert torch.autograd.gradcheck(lambda y: expand(y, owners, offsets), y)
    assert torch.autograd.gradcheck(lambda x: softmax_values(x[:, 0], owners, offsets), x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def numpy_mlp(w: dict[str, Array], x: Array, activation: str) -> Array:
    """Two hidden layers and an output; Dice with the statistics of its inputs, as in training."""
    for layer in (0, 2):
        x = x @ w[f"layers.{layer}.weight"].T + w[f"layers.{layer}.bias"]
        if activation == "dice":
            p = sigmoid((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-8))
            x = p * x + w[f"layers.{layer + 1}.alpha"] * (1 - p) * x
        else:
            x = np.maximum(x, 0) if activation == "relu" else sigmoid(x)
    return (x @ w["layers.4.weight"].T + w["layers.4.bias"])[:, 0]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("dice", [False, True])
def test_din_computes_its_equations(softmax: bool, dice: bool) -> None:
    activation = {"activation": "dice"} if dice else {}
    config = small(
        "din",
        {
            "softmax": softmax,
            "mlp": {"hidden_units": (6, 5)} | activation,
            "attention": {"hidden_units": (4, 3)} | activation,
        },
    )
    model, sequences, (rows, wide, numeric) = build(config), sequences_of(LENGTHS), inputs(7)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}

    def part(prefix: str) -> dict[str, Array]:
        return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}

    parts = [rows.flatten(1).numpy()]
    for q, (sequence, lengths) in enumerate(zip(sequences, LENGTHS, strict=True)):
        queries = np.repeat(rows[:, sequence.target].numpy(), lengths, axis=0)
        keys = sequence.rows.numpy()
        pairs = np.hstack([queries, keys, queries - keys, queries * keys])
        a = numpy_mlp(part(f"attention.{q}.mlp."), pairs, "dice" if dice else "sigmoid")
        interest = np.zeros((7, D))
        for b, history in enumerate(np.split(np.arange(len(keys)), np.cumsum(lengths)[:-1])):
            scores = a[history]
            if softmax and len(history):
                scores = np.exp(scores / np.sqrt(D))
                scores /= scores.sum()
            for j, score in zip(history, scores, strict=True):
                interest[b] += score * keys[j]
        parts.append(interest)
    expected = numpy_mlp(part("mlp."), np.hstack([*parts, numeric.numpy()]), "dice" if dice else "relu")
    found = model(rows, wide, numeric, sequences).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_dice_predicts_with_running_averages() -> None:
    config = small("din", {"mlp": {"hidden_units": (6,), "activation": "dice"}, "attention": {"activation": "dice"}})
    model, sequences, batch = build(config), sequences_of(LENGTHS), inputs(7)
    model(*batch, sequences)  # moves the averages
    model.eval()
    logits = model(*batch, sequences)
    alone = model(*(t[3:4] for t in batch), slice_of(sequences, 3, 4))
    torch.testing.assert_close(alone, logits[3:4])


def test_attention_keeps_its_size_when_another_setting_changes() -> None:
    config = MODELS["din"].model_validate({"attention": {"activation": "dice"}})
    assert config.attention.hidden_units == (80, 40)
    assert config.mlp.hidden_units == (400, 400, 400)
