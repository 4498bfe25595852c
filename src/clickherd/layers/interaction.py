"""Products between fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
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


class InnerProducts(nn.Module):
    """⟨v_f, v_g⟩ of all pairs f < g, in the order (1, 2), (1, 3), …, (F−1, F)."""

    places: Tensor  # where they stand in the F×F matrix of all products

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        first_P, second_P = torch.triu_indices(num_fields, num_fields, offset=1)
        self.num_pairs = len(first_P)
        self.register_buffer("places", first_P * num_fields + second_P, persistent=False)

    def forward(self, rows_BFD: Tensor) -> Tensor:
        """Shape (B, F, D) in, (B, P) out: one product of each row's embeddings with themselves, and half of it read."""
        products_BFF = torch.bmm(rows_BFD, rows_BFD.transpose(1, 2))
        return products_BFF.flatten(1).index_select(1, self.places)


def bilinear(x_BDH: Tensor, y_BDF: Tensor, weight_MHF: Tensor) -> Tensor:
    """Σ_h Σ_f w_{mhf} x_h y_f for every row and column, shape (B, D, M); products in the dtype of `torch.autocast`.

    The products x_h y_f are H·F numbers a row and column. They are made a slice at a time, and once more on the way
    back rather than kept.
    """
    if torch.compiler.is_exporting():
        return (x_BDH[..., :, None] * y_BDF[..., None, :]).flatten(2) @ weight_MHF.flatten(1).t()
    device = x_BDH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BDH.dtype
    x_NH, y_NF = x_BDH.flatten(0, 1), y_BDF.flatten(0, 1)
    out_NM: Tensor = _Bilinear.apply(x_NH, y_NF, weight_MHF.flatten(1), dtype)  # type: ignore[no-untyped-call]
    return out_NM.view(*x_BDH.shape[:2], len(weight_MHF))


SLICE = {"cpu": 1 << 19, "cuda": 1 << 26}  # numbers: about what a CPU's cache holds, a small part of a GPU's memory


def _slices(x_NH: Tensor, y_NF: Tensor) -> Iterator[slice]:
    num_rows = max(1, SLICE.get(x_NH.device.type, 1 << 26) // max(1, x_NH.shape[1] * y_NF.shape[1]))
    yield from (slice(start, start + num_rows) for start in range(0, len(x_NH), num_rows))


def _outer(x_NH: Tensor, y_NF: Tensor) -> Tensor:
    return (x_NH[:, :, None] * y_NF[:, None, :]).flatten(1)


class _Bilinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, y_NF: Tensor, weight_MP: Tensor, dtype: torch.dtype) -> Tensor:
        x, y, weight = x_NH.to(dtype), y_NF.to(dtype), weight_MP.to(dtype)
        ctx.save_for_backward(x, y, weight)
        ctx.dtype = x_NH.dtype
        out_NM = x_NH.new_empty(len(x_NH), len(weight))
        for part in _slices(x, y):
            out_NM[part] = _outer(x[part], y[part]) @ weight.t()
        return out_NM

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        x, y, weight = ctx.saved_tensors
        grad_NM = grad_outputs[0].to(x.dtype)
        grad_x, grad_y = (torch.empty_like(t, dtype=ctx.dtype) for t in (x, y))
        grad_weight = torch.zeros_like(weight, dtype=ctx.dtype)
        for part in _slices(x, y):
            grad_weight += grad_NM[part].t() @ _outer(x[part], y[part])
            grad_NHF = (grad_NM[part] @ weight).view(len(x[part]), x.shape[1], y.shape[1])
            grad_x[part] = (grad_NHF * y[part, None, :]).sum(dim=2)
            grad_y[part] = torch.bmm(x[part, None, :], grad_NHF).squeeze(1)
        return grad_x, grad_y, grad_weight, None
