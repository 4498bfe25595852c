"""Values taken for unknown while training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from clickherd.data.config import DataConfig
from clickherd.data.prepare import prepare
from clickherd.data.store import Batch, FieldLayout, Layout
from clickherd.errors import ConfigError
from clickherd.masking import Mask, check_mask
from clickherd.network import TensorBatch
from clickherd.runtime import seeded

LAYOUT = Layout((FieldLayout("a", 0, 50), FieldLayout("b", 50, 50), FieldLayout("tags", 100, 30, multi=True)), ())


def batch_of(num_rows: int) -> TensorBatch:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(2, 50, num_rows), rng.integers(52, 100, num_rows)], axis=1).astype(np.int32)
    values = rng.integers(102, 130, 2 * num_rows).astype(np.int32)
    bags = ((values, np.arange(0, 2 * num_rows + 1, 2)),)
    empty = np.empty((num_rows, 0), np.float32)
    return TensorBatch.of(
        Batch(ids, bags, empty, np.zeros(num_rows, np.float32), np.empty(0, np.uint64)), torch.device("cpu")
    )


def test_each_columns_values_become_unknown_at_its_rate_and_others_stay() -> None:
    before, after = batch_of(20_000), batch_of(20_000)
    with seeded(0):
        Mask({"b": 0.25, "tags": 0.5}, LAYOUT).apply(after.ids, after.bags)
    assert torch.equal(after.ids[:, 0], before.ids[:, 0])
    hidden = after.ids[:, 1] == 50
    assert hidden.float().mean() == pytest.approx(0.25, abs=0.015)
    assert torch.equal(after.ids[~hidden, 1], before.ids[~hidden, 1])
    tags, known = after.bags[0][0], before.bags[0][0]
    assert (tags == 100).float().mean() == pytest.approx(0.5, abs=0.015)
    assert torch.equal(tags[tags != 100], known[tags != 100])
    assert torch.equal(after.bags[0][1], before.bags[0][1])


def test_masks_are_drawn_anew_from_the_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        with seeded(seed):
            batch, again = batch_of(200), batch_of(200)
            mask = Mask({"a": 0.5}, LAYOUT)
            mask.apply(batch.ids, batch.bags)
            mask.apply(again.ids, again.bags)
        assert not torch.equal(batch.ids, again.ids)
        drawn.append(batch.ids)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_only_columns_with_an_unknown_id_can_be_masked(tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {"label": [0, 1] * 50, "site": ["a", "b"] * 50, "user": list(range(100)), "x": np.linspace(0, 1, 100)}
    )
    config = DataConfig(
        roles={"user": "categorical"}, hash_buckets={"user": 7}, valid_fraction=0, test_fraction=0, min_count=1
    )
    encoder = prepare(rows, config, cache_dir=tmp_path).encoder
    check_mask({"site": 0.5}, encoder)
    for name, why in (("user", "never unknown"), ("x", "never unknown"), ("sote", "no feature")):
        with pytest.raises(ConfigError, match=f"{why}.*Valid names: site"):
            check_mask({name: 0.5}, encoder)
