"""The multi-layer perceptron that the deep models share."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from clickherd.layers import relu_mlp
from clickherd.layers.low_rank import LowRankLinear

Activation = Literal["relu", "tanh", "gelu", "silu", "sigmoid", "dice"]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}


class MLPConfig(BaseModel):
    """Width, activation and regularisation of an MLP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_units: tuple[PositiveInt, ...] = (400, 400, 400)
    activation: Activation = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)
    batch_norm: bool = Field(
        False,
        description="normalise each hidden layer with the statistics of the micro-batch, not of the whole batch "
        "(ghost batch norm, Hoffer et al. 2017); the running averages are what predictions use",
    )


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over the rows of the micro-batch; fewer than two have no spread and take the running averages."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the parent's name)
        """Normalised input, shape (B, N)."""
        if self.training and len(input) < 2:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class Dice(nn.Module):
    """y = p·x + α(1 − p)·x with p = σ((x − E[x]) / √(Var[x] + ε)): a PReLU whose bend follows the inputs.

    Zhou et al., KDD 2018, section 5.2. α is learned, one a unit, from 0 on as in the authors' code; mean and variance
    are those of the micro-batch, and running averages in predictions, as with batch norm.
    """

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.norm = BatchNorm(num_units, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(num_units))

    def forward(self, x_BN: Tensor) -> Tensor:
        """Shape (B, N), as the input."""
        p_BN = self.norm(x_BN).sigmoid()
        out_BN: Tensor = x_BN * (p_BN + self.alpha * (1 - p_BN))
        return out_BN


class MLP(nn.Module):
    """Linear → batch norm → activation → dropout, repeated; then, with `num_outputs`, a plain linear layer.

    Weights are Glorot-normal and biases zero (CowClip's initialisation).
    """

    def __init__(self, num_inputs: int, config: MLPConfig, *, num_outputs: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_inputs
        for units in config.hidden_units:
            layers.append(glorot_linear(width, units))
            if config.batch_norm:
                layers.append(BatchNorm(units))
            layers.append(Dice(units) if config.activation == "dice" else ACTIVATIONS[config.activation]())
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
            width = units
        if num_outputs is not None:
            layers.append(glorot_linear(width, num_outputs))
            width = num_outputs
        self.layers = nn.Sequential(*layers)
        self.num_outputs = width
        self._plain = config.activation == "relu" and not config.batch_norm and not config.dropout and len(layers) > 0

    def forward(self, x_BN: Tensor) -> Tensor:
        """Shape (B, N) in, (B, num_outputs) out."""
        if self._plain and relu_mlp.applies_to(x_BN):
            return relu_mlp.relu_mlp(x_BN, *self._chain())
        out: Tensor = self.layers(x_BN)
        return out

    def _chain(self) -> tuple[list[nn.Linear], list[bool]]:
        """The linear layers, those inside a product of two too, and which of them have a ReLU behind them."""
        linears: list[nn.Linear] = []
        relus: list[bool] = []
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                relus[-1] = True
                continue
            both = [layer.reduce, layer.expand] if isinstance(layer, LowRankLinear) else [layer]
            linears += [one for one in both if isinstance(one, nn.Linear)]
            relus += [False] * len(both)
        return linears, relus


def glorot_linear(num_inputs: int, num_outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer with Glorot-normal weights and zero bias."""
    linear = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.xavier_normal_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def glorot_stack(count: int, num_inputs: int, num_outputs: int) -> nn.Parameter:
    """Glorot-normal matrices in one parameter, shape (count, num_inputs, num_outputs)."""
    std = (2 / (num_inputs + num_outputs)) ** 0.5
    return nn.Parameter(torch.randn(count, num_inputs, num_outputs) * std)
