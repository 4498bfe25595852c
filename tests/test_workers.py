"""Micro-batches side by side: the same numbers, in the same order, whichever thread is faster."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from clickherd.config import resolve
from clickherd.data.store import Store
from clickherd.device_store import HostEpoch
from clickherd.learner import Gradients, Learner
from clickherd.network import ClickModel
from clickherd.runtime import seeded, threads_kept, use_threads
from clickherd.workers import Workers

MakeStore = Callable[..., Store]


def test_results_come_in_order_from_several_threads() -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(item: int) -> tuple[int, int, int]:
        both.wait()  # nobody gets on before the other one has come
        return item, threading.get_ident(), torch.get_num_threads()

    with threads_kept():
        torch.set_num_threads(2)
        with Workers(2) as workers:
            results = list(workers.map(meet, range(20)))
        assert torch.get_num_threads() == 2
    assert [item for item, _, _ in results] == list(range(20))
    assert len({thread for _, thread, _ in results} - {threading.get_ident()}) == 2
    assert {threads for _, _, threads in results} == {1}
    assert list(workers.map(lambda item: threading.get_ident(), range(2))) == [threading.get_ident()] * 2


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), Workers(2) as workers:
        list(workers.map(lambda item: 1 // item, [1, 0, 1]))
    assert torch.get_num_threads() == before


def test_workers_that_overlap_leave_torch_its_threads() -> None:
    with threads_kept():
        torch.set_num_threads(4)
        first, second = Workers(2), Workers(2)
        inside, done = threading.Event(), threading.Event()
        found = []

        def overlap() -> None:  # a thread that knows torch from within the other's `with`
            with second:
                inside.set()
                done.wait(10)
            found.append(torch.get_num_threads())

        with first:
            thread = threading.Thread(target=overlap)
            thread.start()
            assert inside.wait(10)
        done.set()
        thread.join()
        assert found == [4]
        assert torch.get_num_threads() == 4


def learner_of(store: Store, model: dict[str, Any]) -> Learner:
    config = resolve({"model": model, "train": {"micro_batch_size": 32}, "optim": {"base_batch_size": 400}})
    with seeded(0):
        return Learner(ClickModel(config.model, store.layout), config, 400)


def step_through(learner: Learner, store: Store) -> None:
    """Four batches."""
    for start in range(0, 1600, 400):
        learner.step(HostEpoch(store, np.arange(1600), torch.device("cpu")), start, start + 400, learner.hyper)


def trained(store: Store, delays: Callable[[int], float], monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Four batches with two workers, the one or the other of them slowed down."""
    compute, calls = Learner.gradients, iter(range(10**6))

    def delayed(learner: Learner, *args: Any, **kwargs: Any) -> Gradients:
        time.sleep(delays(next(calls)))
        return compute(learner, *args, **kwargs)

    monkeypatch.setattr(Learner, "gradients", delayed)
    with threads_kept():
        use_threads(2)
        learner = learner_of(store, {"mlp": {"hidden_units": [16]}})
        learner.workers = Workers(2)  # whatever this machine has
        with learner.workers:
            step_through(learner, store)
    monkeypatch.undo()
    return {name: tensor.clone() for name, tensor in learner.tensors().items() if name != "rng"}


def test_weights_do_not_depend_on_which_thread_is_slower(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(1600)
    rng = np.random.default_rng(0)
    one = trained(store, lambda call: 0.0, monkeypatch)
    other = trained(store, lambda call: float(rng.random() * 0.01), monkeypatch)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("model", ["deepfm", "dcnv2"])
def test_workers_change_nothing_but_rounding(make_store: MakeStore, model: str) -> None:
    store, results = make_store(1600), []
    with threads_kept():
        use_threads(2)
        for count in (1, 3):
            learner = learner_of(store, {"name": model, "mlp": {"hidden_units": [16]}})
            learner.workers = Workers(count)
            with learner.workers:
                step_through(learner, store)
            results.append({name: t.clone() for name, t in learner.tensors().items() if name != "rng"})
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_a_copied_learner_goes_on(make_store: MakeStore) -> None:
    store = make_store(1600)
    learner = learner_of(store, {"name": "dcnv2", "mlp": {"hidden_units": [16]}})
    step_through(learner, store)
    twin = pickle.loads(pickle.dumps(learner))
    step_through(learner, store)
    step_through(twin, store)
    for name, tensor in learner.tensors().items():
        assert torch.equal(tensor, twin.tensors()[name]), name


def test_a_network_with_statistics_or_random_numbers_stays_in_one_thread(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(100)
    monkeypatch.setattr("clickherd.threads._team.count", 2)
    with threads_kept():
        torch.set_num_threads(2)
        assert learner_of(store, {"mlp": {"hidden_units": [8]}}).workers.count == 2
        assert learner_of(store, {"mlp": {"hidden_units": [8], "dropout": 0.5}}).workers.count == 1
        assert learner_of(store, {"mlp": {"hidden_units": [8], "batch_norm": True}}).workers.count == 1
