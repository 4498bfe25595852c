"""Rows in device memory: the same rows as those gathered on the host, in an order of seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from clickherd.data.store import Store
from clickherd.device_store import DeviceEpoch, DeviceStore, HostEpoch, TrainingRows, device_order, fits, loaded

MakeStore = Callable[..., Store]
CPU = torch.device("cpu")  # a device like any other to torch


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (100, 137), (400, 500), (250, 250)])
def test_a_batch_from_the_device_is_the_batch_from_the_host(make_store: MakeStore, start: int, stop: int) -> None:
    store = make_store(500)
    order = device_order(3, 1, 500, CPU)
    there = DeviceEpoch(DeviceStore.of(store, CPU), order).take(start, stop)
    here = HostEpoch(store, order.numpy(), CPU).take(start, stop)
    for name in ("ids", "numeric", "labels"):
        assert torch.equal(getattr(there, name), getattr(here, name)), name
    for ours, theirs in zip(there.bags, here.bags, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
        assert ours[0].dtype == theirs[0].dtype


def test_a_batch_may_be_changed_without_changing_the_store(make_store: MakeStore) -> None:
    store = make_store(50)
    epoch = DeviceEpoch(DeviceStore.of(store, CPU), torch.arange(50))
    batch = epoch.take(0, 50)  # in stored order, where a view would do
    batch.ids.fill_(0)
    batch.bags[0][0].fill_(0)
    again = epoch.take(0, 50)
    assert np.array_equal(again.ids.numpy(), store.ids)
    assert np.array_equal(again.bags[0][0].numpy(), store.bags[0][0])


def test_an_epoch_is_a_permutation_of_its_own(make_store: MakeStore) -> None:
    orders = [device_order(seed, epoch, 1000, CPU) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert all(torch.equal(order.sort().values, torch.arange(1000)) for order in orders)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])
    rows = TrainingRows(make_store(300), CPU)
    first, again, second = (rows.epoch(0, epoch).take(0, 300).ids for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_columns_are_loaded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clickherd.device_store.CHUNK", 7)
    column = np.arange(60, dtype=np.int32).reshape(20, 3)
    column.flags.writeable = False  # as a mapped file is
    assert torch.equal(loaded(column, CPU), torch.arange(60, dtype=torch.int32).reshape(20, 3))
    assert loaded(np.empty((5, 0), np.float32), CPU).shape == (5, 0)


def test_rows_stay_on_the_host_when_they_would_take_more_than_half_of_the_free_memory(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(1000)
    columns = (store.ids, store.numeric, store.labels, *(array for bag in store.bags for array in bag))
    needed = sum(column.nbytes for column in columns) + 1000 * 5 * 8
    for free, expected in ((2 * needed, True), (2 * needed - 2, False)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _, free=free: (free, 10 * free))
        assert fits(store, torch.device("cuda")) is expected
