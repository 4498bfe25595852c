"""What every model shares: the base of its Config, and the call that the training loop makes.

Shapes: B rows of the (micro-)batch, F embedded fields, D embedding width, K real-valued numeric columns, Q sequences.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class ModelConfig(BaseModel, ABC):
    """Base of every model's Config.

    `wide` says whether ids also carry a one-dimensional linear weight, `sequences` whether the network takes sequences
    value by value (see `SequenceModelConfig`); to others a sequence is a multi-valued field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    wide: ClassVar[bool]
    sequences: ClassVar[bool] = False
    name: str
    embedding_dim: int = Field(10, ge=1, description="width D of an embedding row")

    @abstractmethod
    def build(self, num_fields: int, num_numeric: int) -> CTRModel:
        """The network for `num_fields` embedded fields (F) and `num_numeric` real-valued columns (K)."""

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

    def l2_terms(self) -> Iterable[tuple[Tensor, float]]:
        """Dense weights with an L2 penalty λΣw² of their own, as (weight, λ)."""
        return ()
