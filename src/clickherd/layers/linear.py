"""The linear term over real-valued columns; ids carry theirs in the embedding table."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NumericLinear(nn.Module):
    """b + Σ_k w_k·x_k, weights and bias starting at zero."""

    def __init__(self, num_numeric: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_numeric))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, numeric_BK: Tensor) -> Tensor:
        """Shape (B, K) in, (B,) out."""
        return numeric_BK @ self.weight + self.bias
