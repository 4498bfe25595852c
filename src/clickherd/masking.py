"""Values taken for unknown at random while training: dropout of whole ids.

Without it, a vocabulary that holds every value of the training rows leaves the unknown id untrained, and a model may
lean on ids (a crossed pair, say) that most new rows do not have.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from clickherd.data.encode import Encoder
from clickherd.data.numeric import QuantileBuckets
from clickherd.data.store import UNKNOWN, Layout
from clickherd.data.vocabulary import HashBuckets
from clickherd.errors import ConfigError, did_you_mean
from clickherd.kernels import Bags


def check_mask(rates: Mapping[str, float], encoder: Encoder) -> None:
    """See that the columns of `train.mask` have an id that stands for values never seen.

    Raises:
        ConfigError: no such column, or one whose values are never unknown: hashed, in quantiles, or a real number.
    """
    able = [name for name, how in encoder.embedded.items() if not isinstance(how, HashBuckets | QuantileBuckets)]
    for name in rates:
        if name not in able:
            known = name in encoder.embedded or name in encoder.scaled
            what = "whose values are never unknown" if known else "which is no feature"
            raise ConfigError(f"train.mask names {name!r}, {what}", mend=did_you_mean(name, able))


class Mask:
    """Replaces ids by their field's unknown id, each with its column's rate; draws from torch's random numbers."""

    def __init__(self, rates: Mapping[str, float], layout: Layout) -> None:
        self._fields = [
            (position, field.offset + UNKNOWN, rates[field.name])
            for position, field in enumerate(layout.fields)
            if rates.get(field.name)
        ]
        self._num_single = layout.num_single

    def apply(self, ids_BS: torch.Tensor, bags: Bags) -> None:
        """Mask the ids of a batch in place; in a multi-valued column each value by itself."""
        for position, unknown, rate in self._fields:
            single = position < self._num_single
            ids = ids_BS[:, position] if single else bags[position - self._num_single][0]
            ids.masked_fill_(torch.rand(ids.shape, device=ids.device) < rate, unknown)
