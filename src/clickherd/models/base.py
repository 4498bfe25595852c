"""What every model shares: the base of its Config, and the call that the training loop makes.

Shapes: B rows of the (micro-)batch, F embedded fields, D embedding width, K real-valued numeric columns, Q sequences.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from clickherd.layers.mlp import MLP


class ModelConfig(BaseModel, ABC):
    """Base of every model's Config.

    `sequences` says whether the network takes sequences value by value (see `SequenceModelConfig`); to others one is a
    multi-valued field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequences: ClassVar[bool] = False
    name: str
    embedding_dim: int = Field(10, ge=1, description="width D of an embedding row")

    @property
    @abstractmethod
    def wide(self) -> bool:
        """Whether ids also carry a one-dimensional linear weight; a class variable where no setting decides it."""

    @property
    def row_width(self) -> int:
        """Width of a row of the embedding table: D, unless a model keeps several embeddings of an id in one row."""
        return self.embedding_dim

    @abstractmethod
    def build(self, num_fields: int, num_numeric: int) -> CTRModel:
        """The network for `num_fields` embedded fields (F) and `num_numeric` real-valued columns (K)."""

    def check_fields(self, field_names: tuple[str, ...]) -> None:
        """Whether the embedded fields that settings name are there.

        Raises:
            ConfigError: one is not; the valid names are listed.
        """

    def build_for(self, field_names: tuple[str, ...], num_numeric: int) -> CTRModel:
        """The network for the embedded fields of these names. Models that name fields in their Config look them up."""
        return self.build(len(field_names), num_numeric)

    @classmethod
    def summary(cls) -> str:
        """The model in one line, for listings: the first line of its file's docstring."""
        return (sys.modules[cls.__module__].__doc__ or "").partition("\n")[0]


class SequenceModelConfig(ModelConfig):
    """Base of the Config of a model that takes sequences value by value.

    Its forward has a fourth argument, `sequences`: a tuple of Q `SequenceRows`. They are not among the F fields.
    """

    sequences: ClassVar[bool] = True

    @abstractmethod
    def build(self, num_fields: int, num_numeric: int, *, num_sequences: int = 0) -> CTRModel:
        """The network for F embedded fields, K real-valued columns and Q sequences."""


class CTRModel(nn.Module, ABC):
    """A click model. Embedding rows come in as a leaf tensor; the tables live outside the module."""

    @abstractmethod
    def forward(
        self,
        rows_BFD: Tensor,  # embedding rows, one per field (a multi-valued field: the mean of its values' rows)
        wide_B: Tensor,  # sum over fields of the ids' linear weights; zeros when Config.wide is False
        numeric_BK: Tensor,  # min-max or standardised numeric columns; K may be 0
    ) -> Tensor:  # logits (B,)
        """Logits, shape (B,)."""

    def branches(self, *inputs: Any) -> tuple[Tensor, ...]:
        """The logits that training looks at, (B,) each: the prediction's, then those that `auxiliary_loss` is about.

        `inputs` are those of `forward`.
        """
        return (self(*inputs),)

    def auxiliary_loss(self, logits: Sequence[Tensor], labels_B: Tensor) -> Tensor | None:
        """What training adds to the prediction's BCE, as a sum over rows; `logits` are the branches'. None: nothing."""
        return None

    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """What is added to the logit of every row; all of them moved by as much, the logit moves by as much."""
        head, mlp, linear = (getattr(self, name, None) for name in ("head", "mlp", "linear"))
        if isinstance(head, nn.Linear) and head.bias is not None:
            return (head.bias,)
        last = mlp.layers[-1] if isinstance(mlp, MLP) else linear
        bias = getattr(last, "bias", None)
        assert isinstance(bias, nn.Parameter), f"{type(self).__name__} must say where its output's bias is"
        return (bias,)

    def l2_terms(self) -> Iterable[tuple[Tensor, float]]:
        """Dense weights with an L2 penalty λΣw² of their own, as (weight, λ)."""
        return ()
