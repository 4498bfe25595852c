"""DIN: an MLP over fields and over what of a user's history bears on the item at hand.

Zhou et al., KDD 2018, https://arxiv.org/abs/1706.06978.

    v_U(A) = f(v_A, e_1, …, e_H) = Σ_j a(e_j, v_A)·e_j                               (eq. 3)
    a(e, v) = MLP([v, e, v − e, v ⊙ e])                          the local activation unit, one for each sequence
    ŷ = σ(MLP([v_1, …, v_F, v_U(A), x]))

e_j are the rows of the sequence's values, v_A that of its target (the item at hand). As in the paper the weights a are
not normalised: their sum is the strength of the interest, and a user without a history has none, v_U = 0. The authors'
code divides them by √D and takes their softmax over the history: `softmax`. That the difference and the product of the
pair go in is the authors' code's, too; the paper has an "out product" there.

Dice (section 5.2) is an activation of both MLPs: `model.mlp.activation=dice`, `model.attention.activation=dice`.

Mini-batch aware regularisation (section 5.1) decays the rows alone that a batch touches, the rarer the more: λ/n_j with
n_j occurrences in the log. `optim.regularize=batch` decays the same rows, all with the same λ; by default all rows
decay at every step.

Shapes: B rows, F fields, D embedding width, K real-valued columns, N values of a sequence in all rows together.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from clickherd.layers.mlp import MLP, Activation, MLPConfig
from clickherd.layers.sequences import SequenceRows, expand, rounded_up, softmax_values, sum_values
from clickherd.models.base import CTRModel, SequenceModelConfig


class AttentionConfig(MLPConfig):
    """The MLP of the local activation unit; sizes and activation are those of the authors' code."""

    hidden_units: tuple[PositiveInt, ...] = (80, 40)
    activation: Activation = "sigmoid"


class Config(SequenceModelConfig):
    """Settings of DIN."""

    wide: ClassVar[bool] = False
    name: Literal["din"] = "din"
    mlp: MLPConfig = MLPConfig()
    attention: AttentionConfig = AttentionConfig()
    softmax: bool = Field(False, description="weights of a history sum to 1, as in the authors' code")

    def build(self, num_fields: int, num_numeric: int, *, num_sequences: int = 0) -> DIN:
        """The network."""
        return DIN(self, num_fields, num_numeric, num_sequences)


class ActivationUnit(nn.Module):
    """What of each row's sequence bears on its target, shape (B, D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.mlp = MLP(4 * config.embedding_dim, config.attention, num_outputs=1)
        self.keeps_statistics = any(True for _ in self.mlp.buffers())  # of the values, and of no others
        self.softmax, self.scale = config.softmax, config.embedding_dim**-0.5

    def forward(self, sequence: SequenceRows, target_BD: Tensor) -> Tensor:
        """Eq. 3."""
        keys_ND, offsets, owners_N = sequence.rows, sequence.offsets, sequence.owners()
        hidden_NU = self._first_layer(keys_ND, target_BD, owners_N, offsets)
        weights_N1: Tensor = self.mlp.layers[1:](hidden_NU)[: len(keys_ND)].to(keys_ND.dtype)
        if self.softmax:
            weights_N1 = softmax_values(self.scale * weights_N1.squeeze(1), owners_N, offsets).unsqueeze(1)
        return sum_values(weights_N1 * keys_ND, owners_N, offsets)

    def _first_layer(self, keys_ND: Tensor, target_BD: Tensor, owners_N: Tensor, offsets: Tensor) -> Tensor:
        """W·[v, e, v − e, v ⊙ e] + b as (W_v + W_−)·v + b, once a row, and [W_e − W_−, W_⊙]·[e, v ⊙ e]."""
        first = self.mlp.layers[0]
        assert isinstance(first, nn.Linear)
        of_query, of_key, of_difference, of_product = first.weight.chunk(4, dim=1)
        query_BU = nn.functional.linear(target_BD, of_query + of_difference, first.bias)
        pairs_NM = torch.cat([keys_ND, expand(target_BD, owners_N, offsets) * keys_ND], dim=1)
        if not self.keeps_statistics:
            pairs_NM = rounded_up(pairs_NM)
        hidden_NU = nn.functional.linear(pairs_NM, torch.cat([of_key - of_difference, of_product], dim=1))
        padding = (0, 0, 0, len(hidden_NU) - len(keys_ND))
        return hidden_NU + nn.functional.pad(expand(query_BU, owners_N, offsets), padding)


class DIN(CTRModel):
    """An MLP over fields, numbers, and a vector for each sequence."""

    def __init__(self, config: Config, num_fields: int, num_numeric: int, num_sequences: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(ActivationUnit(config) for _ in range(num_sequences))
        width = (num_fields + num_sequences) * config.embedding_dim + num_numeric
        self.mlp = MLP(width, config.mlp, num_outputs=1)

    def forward(
        self, rows_BFD: Tensor, wide_B: Tensor, numeric_BK: Tensor, sequences: tuple[SequenceRows, ...] = ()
    ) -> Tensor:
        """Logits, shape (B,)."""
        units = zip(self.attention, sequences, strict=True)
        interests = [unit(sequence, rows_BFD[:, sequence.target]) for unit, sequence in units]
        logits_B1: Tensor = self.mlp(torch.cat([rows_BFD.flatten(1), *interests, numeric_BK], dim=1))
        return logits_B1.squeeze(1)
