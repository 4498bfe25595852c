"""The one embedding table of all fields. Its rows reach a model as leaves of the autograd graph: no V×D gradient is
ever built by the framework."""

from __future__ import annotations

import torch
from torch import Tensor

from clickherd.kernels import Bags, Kernels, kernels_for


class EmbeddingTable:
    """Embedding rows, and in column 0 the linear weights if there are any. Not a module: it is updated by `optim`.

    `weight` has shape (V, wide + D). Rows start at N(0, init_std²), linear weights at zero. `shared`: fields may have
    rows in common.
    """

    shared = False

    def __init__(
        self,
        num_ids: int,
        embedding_dim: int,
        *,
        wide: bool,
        init_std: float,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.wide = wide
        self.is_settled = True  # no row waits for updates that it missed; see `optim.cowclip`
        self.weight = torch.zeros(num_ids, embedding_dim + wide, device=device)
        self.weight[:, int(wide) :].normal_(0, init_std, generator=generator)

    @property
    def kernels(self) -> Kernels:
        """The implementation for the device that the table is on."""
        return kernels_for(self.weight.device)

    def gather(self, ids_BS: Tensor, bags: Bags = ()) -> tuple[Tensor, Tensor]:
        """Embedding rows (B, F, D) and the sum over fields of the linear weights (B,)."""
        return self.kernels.gather(self.weight, ids_BS, bags, self.wide)
