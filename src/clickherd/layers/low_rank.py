"""A linear layer as a product of two. Shapes: B rows."""

from __future__ import annotations

from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """y = V(Ux + a) + b with `rank` numbers in between."""

    def __init__(self, num_inputs: int, num_outputs: int, rank: int, *, bias: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Linear(num_inputs, rank, bias=bias)
        self.expand = nn.Linear(rank, num_outputs, bias=bias)
        for linear in (self.reduce, self.expand):
            nn.init.xavier_normal_(linear.weight)
            if bias:
                nn.init.zeros_(linear.bias)

    def forward(self, x_BN: Tensor) -> Tensor:
        """Shape (B, num_inputs) in, (B, num_outputs) out."""
        out: Tensor = self.expand(self.reduce(x_BN))
        return out
