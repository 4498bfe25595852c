"""The linear term over real-valued columns; ids carry theirs in the embedding table."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NumericLinear(nn.Module):
    """Σ_k w_k·x_k, plus b unless another part of the model has the bias. Weights and bias start at zero."""

    def __init__(self, num_numeric: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_numeric))
        self.bias = nn.Parameter(torch.zeros(())) if bias else None

    def forward(self, numeric_BK: Tensor) -> Tensor:
        """Shape (B, K) in, (B,) out."""
        term_B = (numeric_BK * self.weight).sum(dim=1)  # not a product, which autocast would take in bf16
        return term_B if self.bias is None else term_B + self.bias
