"""Products between fields."""

from __future__ import annotations

from torch import Tensor


def pairwise_products(rows_BFD: Tensor) -> Tensor:
    """Σ_{f<g} v_f ⊙ v_g, shape (B, D), as ½((Σv)² − Σv²): linear in F (Rendle, ICDM 2010, Lemma 3.1)."""
    sum_BD = rows_BFD.sum(dim=1)
    squares_BD = rows_BFD.square().sum(dim=1)
    return 0.5 * (sum_BD.square() - squares_BD)
