"""Products between fields."""

from __future__ import annotations

from torch import Tensor


def pairwise_products(rows_BFD: Tensor) -> Tensor:
    """Σ_{f<g} v_f ⊙ v_g in linear time, shape (B, D): ½((Σv)² − Σv²) (Rendle, ICDM 2010, eq. 3.2 ff.)."""
    sum_BD = rows_BFD.sum(dim=1)
    squares_BD = rows_BFD.square().sum(dim=1)
    return 0.5 * (sum_BD.square() - squares_BD)
