"""Products between fields."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pairwise_products(rows_BFD: Tensor) -> Tensor:
    """Σ_{f<g} v_f ⊙ v_g, shape (B, D), as ½((Σv)² − Σv²): linear in F (Rendle, ICDM 2010, Lemma 3.1)."""
    if torch.compiler.is_exporting():
        return _pairwise_products(rows_BFD)[0]
    out_BD: Tensor = _PairwiseProducts.apply(rows_BFD)  # type: ignore[no-untyped-call]
    return out_BD


def _pairwise_products(rows_BFD: Tensor) -> tuple[Tensor, Tensor]:
    sum_BD = rows_BFD.sum(dim=1)
    return 0.5 * (sum_BD.square() - rows_BFD.square().sum(dim=1)), sum_BD


class _PairwiseProducts(torch.autograd.Function):
    """∂/∂v_f = (Σv − v_f) ⊙ g: one pass over the rows, where autograd takes five."""

    @staticmethod
    def forward(ctx: Any, rows_BFD: Tensor) -> Tensor:
        out_BD, sum_BD = _pairwise_products(rows_BFD)
        ctx.save_for_backward(rows_BFD, sum_BD)
        return out_BD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        rows_BFD, sum_BD = ctx.saved_tensors
        grad_BD = grad_outputs[0]
        return torch.addcmul((sum_BD * grad_BD).unsqueeze(1), rows_BFD, grad_BD.unsqueeze(1), value=-1)
