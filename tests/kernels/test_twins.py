"""Every implementation of a kernel gives what the reference gives."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.kernels import AdamStep, Kernels, cpu, reference
from clickherd.runtime import threads_kept
from clickherd.threads import _Team, set_threads
from conftest import TRITON_DEVICE

try:
    from clickherd.kernels import gpu
except ModuleNotFoundError:  # triton is built for Linux alone
    gpu = None  # type: ignore[assignment]
CPU = torch.device("cpu")
needs_triton = pytest.mark.skipif(gpu is None, reason="triton is not installed")


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """A table, and micro-batches over it with repeated ids, bags, and now and then no row at all.

    Gradients and the shares of a bag's values have few binary digits, so that sums over rows come out the same in any
    order: where gradients cancel, Adam would make steps of what their rounding leaves.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    num_multi = draw(st.integers(0, len(sizes)))
    num_rows = draw(st.integers(0, 50))
    wide = draw(st.booleans())
    width = draw(st.integers(1, 17)) + wide
    scale = 2.0 ** draw(st.integers(-26, 10))
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    fields = list(zip(offsets, sizes, strict=False))
    single, multi = fields[: len(sizes) - num_multi], fields[len(sizes) - num_multi :]
    ids = np.zeros((num_rows, len(single)), np.int32)
    for f, (offset, size) in enumerate(single):
        ids[:, f] = offset + rng.integers(0, size, num_rows)
    bags = []
    for offset, size in multi:
        bag_offsets = np.concatenate([[0], np.cumsum(2 ** rng.integers(0, 3, num_rows))]).astype(np.int64)
        values = (offset + rng.integers(0, size, bag_offsets[-1])).astype(np.int32)
        bags.append((torch.from_numpy(values), torch.from_numpy(bag_offsets)))
    table = {
        name: torch.from_numpy((rng.standard_normal((sum(sizes), width)) * scale).astype(np.float32))
        for name in ("weight", "exp_avg", "exp_avg_sq")
    }
    table["exp_avg_sq"].abs_()
    return {
        "ids": torch.from_numpy(ids),
        "bags": tuple(bags),
        "wide": wide,
        "grad_rows": gradients(rng, num_rows, len(sizes), width - wide) * scale,
        "grad_wide": gradients(rng, num_rows) if wide else None,
        "adam": AdamStep(
            step=draw(st.integers(1, 1000)),
            learning_rate=1e-2,
            l2=draw(st.sampled_from([0.0, 1e-6, 1e-2, 0.4, 3.0])),
            clip=draw(st.sampled_from([math.inf, 1.0, 1e-2, 1e-4])),
            zeta=draw(st.sampled_from([0.0, 1e-5, 1.0])),
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-7,
            touched_only=draw(st.booleans()),
        ),
        **table,
    }


def gradients(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Normal, to 1/256."""
    return torch.from_numpy((rng.standard_normal(shape) * 256).round() / 256).float()


@settings(max_examples=150, deadline=None)
@given(problem=problems())
def test_numba_equals_reference(problem: dict[str, Any]) -> None:
    check_a_step(cpu, problem)


@needs_triton
@settings(max_examples=25, deadline=None)  # the interpreter is slow
@given(problem=problems())
def test_triton_equals_reference(problem: dict[str, Any]) -> None:
    check_a_step(gpu, problem)


@settings(max_examples=100, deadline=None)
@given(problem=problems(), lag=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_numba_lags_and_catches_up_as_the_reference(problem: dict[str, Any], lag: int, seed: int) -> None:
    check_a_lag(cpu, problem, lag, seed)


@needs_triton
@settings(max_examples=15, deadline=None)
@given(problem=problems(), lag=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_triton_lags_and_catches_up_as_the_reference(problem: dict[str, Any], lag: int, seed: int) -> None:
    check_a_lag(gpu, problem, lag, seed)


@needs_triton
def test_triton_adds_up_an_id_that_every_row_has() -> None:
    """Rows enough for several programs, ids alike within and across them, values of one bag alike as well."""
    rows = 200
    with TRITON_DEVICE:
        ids = torch.stack([torch.zeros(rows), 1 + torch.arange(rows) % 3], dim=1).int()
        values, offsets = torch.full((3 * rows,), 4, dtype=torch.int32), torch.arange(0, 3 * rows + 1, 3)
        grad, counts = torch.zeros(5, 3), torch.zeros(5, dtype=torch.int32)
        gpu.scatter_add(grad, counts, ids, ((values, offsets),), torch.full((rows, 3, 2), 0.5), torch.ones(rows))
    assert counts.tolist() == [200, 67, 67, 66, 600]
    occurrences = torch.tensor([200.0, 67, 67, 66, 200])
    torch.testing.assert_close(grad.cpu(), torch.stack([occurrences, occurrences / 2, occurrences / 2], dim=1))


def devices_of(twin: Kernels) -> tuple[tuple[Kernels, torch.device], ...]:
    """The reference and its twin, and where each is to run."""
    return (reference, CPU), (twin, TRITON_DEVICE if twin is gpu else CPU)


def copied(problem: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The problem with tensors of its own, on the device."""
    bags = tuple((values.to(device), offsets.to(device)) for values, offsets in problem["bags"])
    tensors = {name: value.to(device, copy=True) for name, value in problem.items() if isinstance(value, torch.Tensor)}
    return problem | tensors | {"bags": bags}


def check_a_step(twin: Kernels, problem: dict[str, Any]) -> None:
    """Gather, scatter and update once; the results are the reference's."""
    results = []
    for kernels, device in devices_of(twin):
        p = copied(problem, device)
        rows, wide = kernels.gather(p["weight"], p["ids"], p["bags"], p["wide"])
        grad = torch.zeros_like(p["weight"])
        counts = torch.zeros(len(grad), dtype=torch.int32, device=device)
        kernels.scatter_add(grad, counts, p["ids"], p["bags"], p["grad_rows"], p["grad_wide"])
        summed, occurrences = grad.clone(), counts.clone()
        tally = kernels.cowclip_adam(p["weight"], p["exp_avg"], p["exp_avg_sq"], grad, counts, p["wide"], p["adam"])
        assert not grad.any()
        assert not counts.any()
        results.append([rows, wide, summed, occurrences, p["weight"], p["exp_avg"], p["exp_avg_sq"], tally])
    assert_close(*results)


def check_a_lag(twin: Kernels, problem: dict[str, Any], lag: int, seed: int) -> None:
    """Rows at different steps; some catch up and are updated, then all catch up."""
    rng = np.random.default_rng(seed)
    num_ids = len(problem["weight"])
    first = problem["adam"].step
    missed = [replace(problem["adam"], step=first + k, l2=l2) for k, l2 in enumerate(rng.choice([0, 1e-6, 1e-2], lag))]
    following = replace(problem["adam"], step=first + lag)
    current = torch.from_numpy(rng.integers(first - 1, first + lag, num_ids).astype(np.int32))
    ids = torch.cat([problem["ids"].flatten(), *(values for values, _ in problem["bags"])])
    results = []
    for kernels, device in devices_of(twin):
        p, named = copied(problem, device), ids.to(device)
        table, reached = (p["weight"], p["exp_avg"], p["exp_avg_sq"]), current.to(device, copy=True)
        kernels.catch_up(*table, reached, named, missed)
        assert (reached[named.long()] == first + lag - 1).all()
        grad, counts = torch.zeros_like(p["weight"]), torch.zeros(num_ids, dtype=torch.int32, device=device)
        kernels.scatter_add(grad, counts, p["ids"], p["bags"], p["grad_rows"], p["grad_wide"])
        tally = kernels.cowclip_adam_rows(*table, grad, counts, reached, named, p["wide"], following)
        assert not grad.any()
        assert not counts.any()
        kernels.catch_up(*table, reached, None, [*missed, following])
        assert (reached == first + lag).all()
        results.append([*table, tally])
    # What cancels leaves its rounding: steps of a weight, and a moment that a gradient or time takes away.
    moved = (lag + 1) * following.learning_rate
    moments = [float(problem[name].abs().max()) for name in ("exp_avg", "exp_avg_sq")]
    assert_close(*results, sizes=(moved, *moments))


@needs_triton
@given(problems())
@settings(max_examples=20, deadline=None)
def test_gpu_updates_a_network_as_the_reference(problem: dict[str, Any]) -> None:
    check_a_network(gpu, problem)


@given(problems(), st.sampled_from([0, 3, cpu.CHUNK * 2 + 17]))
@settings(max_examples=40, deadline=None)
def test_cpu_updates_a_network_as_the_reference(problem: dict[str, Any], more: int) -> None:
    check_a_network(cpu, problem, more)


def check_a_network(twin: Kernels, problem: dict[str, Any], more: int = 3) -> None:
    """Two weights of different shapes, one of them perhaps large enough to be updated by several threads."""
    results = []
    for kernels, device in devices_of(twin):
        p = copied(problem, device)
        tensors = [[p[name], torch.full((more,), 0.25, device=device)] for name in ("weight", "exp_avg", "exp_avg_sq")]
        grads = [p["weight"] * 0.5, torch.linspace(-1, 1, more, device=device)]
        kernels.adam(tensors[0], tensors[1], tensors[2], grads, problem["adam"])
        results.append([tensor for pair in tensors for tensor in pair])
    assert_close(*results)


@st.composite
def layers(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A ReLU's output, with its zeros, and a gradient of it; both in the dtype of the products."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(0, 150)), draw(st.integers(1, 150))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    out, grad = torch.randn(2, *shape, generator=generator).to(dtype)
    return out.relu_(), grad


@pytest.mark.parametrize("twin", [pytest.param("cpu"), pytest.param("gpu", marks=needs_triton)])
@given(layer=layers())
@settings(max_examples=30, deadline=None)
def test_the_way_back_through_a_relu_is_that_of_the_reference(
    twin: str, layer: tuple[torch.Tensor, torch.Tensor]
) -> None:
    results = []
    for kernels, device in devices_of(gpu if twin == "gpu" else cpu):
        out, grad = (tensor.to(device, copy=True) for tensor in layer)
        total = kernels.relu_backward(grad, out)
        assert total.dtype == torch.float32
        results.append([grad, total])
    assert torch.equal(results[0][0], results[1][0].cpu())
    torch.testing.assert_close(results[1][1].cpu(), results[0][1], rtol=1e-5, atol=1e-4)


def assert_close(expected: list[torch.Tensor], got: list[torch.Tensor], *, sizes: tuple[float, ...] = (0.0,)) -> None:
    """To rounding: of the largest element, or, in the first tensors, of what went into them, given by its size."""
    for theirs, found, size_before in zip_longest(expected, got, sizes, fillvalue=0.0):
        assert isinstance(theirs, torch.Tensor)
        ours = found.cpu()
        size = max(float(theirs.abs().max()), 1e-12, size_before) if theirs.numel() else 1.0
        exact = not theirs.is_floating_point()
        torch.testing.assert_close(ours, theirs, rtol=0 if exact else 2e-5, atol=0 if exact else 2e-6 * size)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 100, (500, 3), generator=generator, dtype=torch.int32)
    ids += torch.tensor([0, 100, 200], dtype=torch.int32)
    values = torch.randint(300, 400, (1000,), generator=generator, dtype=torch.int32)
    bags = ((values, torch.arange(0, 1001, 2)),)
    grad_rows, weight = torch.randn(500, 4, 5, generator=generator), torch.randn(400, 5, generator=generator)
    adam = AdamStep(3, 1e-2, 1e-3, clip=0.1, zeta=1e-5, beta1=0.9, beta2=0.999, epsilon=1e-7)
    results = []
    monkeypatch.setattr("clickherd.threads.CORES", 3)
    monkeypatch.setattr("clickherd.threads._team", _Team())
    with threads_kept():
        for threads in (1, 2, 3):
            set_threads(threads)
            table = [weight.clone(), torch.zeros(400, 5), torch.zeros(400, 5), torch.zeros(400, 5)]
            counts = torch.zeros(400, dtype=torch.int32)
            cpu.scatter_add(table[3], counts, ids, bags, grad_rows, None)
            tally = cpu.cowclip_adam(*table, counts, False, adam)
            current, later = torch.full_like(counts, 3), replace(adam, step=4)
            cpu.catch_up(*table[:3], current, ids[:100].flatten(), [later])
            cpu.catch_up(*table[:3], current, None, [later])
            cpu.scatter_add(table[3], counts, ids, bags, grad_rows, None)
            touched = torch.cat([ids.flatten(), values])
            second = cpu.cowclip_adam_rows(*table, counts, current, touched, False, replace(adam, step=5))
            results.append((tally, second, cpu.gather(table[0], ids, bags, False)[0], *table))
    for one, two, three in zip(*results, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
