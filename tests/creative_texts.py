"""Numbers and encoded captions drawn from a seed, for tests of single networks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clickherd.creative.clip import Texts


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn_texts(rows: int, dim: int, width: int, length: int, seed: int) -> Texts:
    """Captions of 2 tokens and more; the first has 3 at most."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=rng)
    mask[0, 3:] = False
    embedding = normalize(torch.randn(rows, dim, generator=rng), dim=1)
    return Texts(embedding, torch.randn(rows, length, width, generator=rng), mask)
