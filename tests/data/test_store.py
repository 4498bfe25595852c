"""A store gives back the rows that are asked for, in the order that is asked for."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from clickherd.data.store import Store


@pytest.mark.parametrize("rows", [[], [7], [299, 0, 0, 150], list(range(299, -1, -1))])
def test_rows_in_any_order(make_store: Callable[..., Store], rows: list[int]) -> None:
    store = make_store(300)
    order = np.array(rows, np.int64)
    batch = store.take(order)
    for name in ("ids", "numeric", "labels", "groups"):
        assert np.array_equal(getattr(batch, name), np.asarray(getattr(store, name))[order]), name
    ((values, offsets),) = store.bags
    ((got, bounds),) = batch.bags
    expected = [values[offsets[row] : offsets[row + 1]].tolist() for row in rows]
    assert [got[a:b].tolist() for a, b in itertools.pairwise(bounds)] == expected
