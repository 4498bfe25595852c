"""One table for all fields: Unified Embedding, or feature multiplexing.

Coleman et al., NeurIPS 2023, https://arxiv.org/abs/2305.12102, with several look-ups of a value. Field f looks up its
value v in c places of T shared tables, and joins what it finds:

    e_f(v) = [E_t1[h_{f,1}(v)], …, E_tc[h_{f,c}(v)]]                  t going round the tables from look-up to look-up

Fields that share rows learn to tell their values apart behind the table, because each has its own weights there.
Fields need no size of their own; only the whole has one.

Shapes: B rows, S single-valued fields, N values, c look-ups of a value.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from clickherd.settings import Settings

# Multipliers of SplitMix64 and MurmurHash3's finaliser, as signed numbers: torch has no others of 64 bits.
_STEP, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0xAE502812AA7333, -0x3B314601E57A13AD
_LOW_31 = (1 << 31) - 1  # what a shift of 33 leaves


class UnifiedConfig(Settings):
    """How many rows there are for all fields together, and how they are looked up."""

    rows: int = Field(ge=1, description="of all tables together")
    tables: int = Field(1, ge=1, description="that look-ups take by turns")
    lookups: int = Field(1, ge=1, description="of each value; the embedding width is a multiple of it")


class Places:
    """Where the values of each field lie. Ids are those of the layout, no two fields having one in common."""

    def __init__(self, config: UnifiedConfig) -> None:
        self.config = config
        self.rows_of_table = -(-config.rows // config.tables)
        self.num_rows = self.rows_of_table * config.tables

    def of(self, ids_N: Tensor, position: int) -> Tensor:
        """Rows of the shared table, shape (N, c) int32, for ids of the field at `position`."""
        return torch.stack(list(self._lookups(ids_N, position)), dim=1)

    def _lookups(self, ids_N: Tensor, position: int) -> Iterator[Tensor]:
        count, tables = self.config.lookups, self.config.tables
        for lookup in range(count):
            table = (position * count + lookup) % tables
            row_N = mixed(ids_N.long() + (lookup << 40)) % self.rows_of_table
            yield (row_N + table * self.rows_of_table).int()


def mixed(keys_N: Tensor) -> Tensor:
    """Non-negative hashes of whole numbers, the same on every machine: SplitMix64's step, MurmurHash3's finaliser."""
    x = keys_N * _STEP + _STEP
    x = (x ^ (x >> 33 & _LOW_31)) * _MIX_1
    x = (x ^ (x >> 33 & _LOW_31)) * _MIX_2
    return (x ^ (x >> 33 & _LOW_31)) & ((1 << 62) - 1)
