"""The update of the embedding table against CowClip's algorithm, written out step by step in NumPy.

The threshold is that of the authors' code, count·r·max(‖w‖, r·√D·ζ), with which the published recipes were run.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clickherd.kernels import cpu, reference
from clickherd.layers.embedding import EmbeddingTable
from clickherd.optim.cowclip import CowClip, CowClipConfig, lag_for
from clickherd.optim.scaling import Hyperparameters

NUM_FIELDS, VOCABULARY, DIM, BATCH = 3, 40, 10, 64


def numpy_cowclip_step(state, step, ids, grad_rows, grad_wide, *, rate, l2, r, zeta):
    """One step of Algorithm 1 with Adam, id by id, in float64.

    `state` holds w, m, v of shape (V, 1 + D), column 0 the linear weight; every id of every field is updated.
    """
    beta1, beta2, epsilon = 0.9, 0.999, 1e-7
    for i in range(NUM_FIELDS * VOCABULARY):
        gradient = np.zeros(1 + DIM)
        count = 0
        for b in range(len(ids)):
            for f in range(NUM_FIELDS):
                if ids[b, f] == i:
                    count += 1
                    gradient[0] += grad_wide[b]
                    gradient[1:] += grad_rows[b, f]
        count = max(count, 1)
        gradient += 2 * l2 * state["w"][i]
        weight_norm = math.sqrt(sum(x * x for x in state["w"][i, 1:]))
        norm = math.sqrt(sum(x * x for x in gradient[1:]))
        threshold = count * r * max(weight_norm, r * math.sqrt(DIM) * zeta)
        gradient[1:] *= threshold / max(norm, threshold)
        state["clipped"] += int(norm > threshold)
        state["m"][i] = beta1 * state["m"][i] + (1 - beta1) * gradient
        state["v"][i] = beta2 * state["v"][i] + (1 - beta2) * gradient**2
        corrected = rate * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        state["w"][i] -= corrected * state["m"][i] / (np.sqrt(state["v"][i]) + epsilon)


@pytest.mark.parametrize("kernels", [reference, cpu], ids=["reference", "cpu"])
def test_fifty_steps_equal_the_papers_algorithm(kernels, monkeypatch) -> None:
    monkeypatch.setattr(EmbeddingTable, "kernels", kernels)
    rng = np.random.default_rng(7)
    hyper = Hyperparameters(learning_rate=0.0, embedding_learning_rate=1e-3, l2=1e-3, clip=0.5)
    zeta = 1e-3
    table = EmbeddingTable(NUM_FIELDS * VOCABULARY, DIM, wide=True, init_std=1e-2)
    optimizer = CowClip(table, CowClipConfig(zeta, (0.9, 0.999), 1e-7, touched_only=False))
    initial = table.weight.clone()
    w = initial.double().numpy()
    state = {"w": w, "m": np.zeros_like(w), "v": np.zeros_like(w), "clipped": 0}
    clipped = 0
    for step in range(1, 51):
        # Zipf ids: some repeat dozens of times in a batch, some are seen once in 50 steps, some never
        local = np.minimum(rng.zipf(1.3, (BATCH, NUM_FIELDS)) - 1, VOCABULARY - 2)
        ids = (local + np.arange(NUM_FIELDS) * VOCABULARY).astype(np.int32)
        size = 10.0 ** rng.uniform(-6, -1, (BATCH, NUM_FIELDS, 1))
        grad_rows = (rng.standard_normal((BATCH, NUM_FIELDS, DIM)) * size).astype(np.float32)
        grad_wide = (rng.standard_normal(BATCH) * 1e-2).astype(np.float32)
        for start in range(0, BATCH, 24):  # in micro-batches, the last one shorter
            part = slice(start, start + 24)
            optimizer.accumulate(
                torch.from_numpy(ids[part]), (), torch.from_numpy(grad_rows[part]), torch.from_numpy(grad_wide[part])
            )
        _, clipped_now = optimizer.step(hyper)
        clipped += clipped_now
        numpy_cowclip_step(state, step, ids, grad_rows, grad_wide, rate=1e-3, l2=1e-3, r=0.5, zeta=zeta)
        np.testing.assert_allclose(table.weight.numpy(), state["w"], rtol=0, atol=1e-6)
    assert clipped == state["clipped"] > 50
    np.testing.assert_allclose(optimizer.exp_avg_VW.numpy(), state["m"], rtol=1e-4, atol=1e-7)
    never_seen = VOCABULARY - 1
    assert (table.weight[never_seen, 1:].abs() < initial[never_seen, 1:].abs()).all()


def zipf_batches(num_steps):
    """(ids, gradients of rows, gradients of linear weights): some ids in every batch, some in few, some in none."""
    rng = np.random.default_rng(1)
    for _ in range(num_steps):
        local = np.minimum(rng.zipf(1.2, (BATCH, NUM_FIELDS)) - 1, 10 * VOCABULARY - 2)
        ids = (local + np.arange(NUM_FIELDS) * 10 * VOCABULARY).astype(np.int32)
        grads = rng.standard_normal((BATCH, NUM_FIELDS, DIM + 1)).astype(np.float32) * 1e-3
        yield torch.from_numpy(ids), torch.from_numpy(grads[..., 1:].copy()), torch.from_numpy(grads[:, 0, 0].copy())


@pytest.mark.parametrize("lag", [2, 5, 16])
@pytest.mark.parametrize("l2", [0.0, 1e-4, 1.0])  # at 1.0 absent rows are clipped as well
def test_rows_that_wait_and_catch_up_end_with_the_same_bits(lag: int, l2: float) -> None:
    ends = []
    for each_lag in (1, lag):
        torch.manual_seed(0)
        table = EmbeddingTable(NUM_FIELDS * 10 * VOCABULARY, DIM, wide=True, init_std=1e-2)
        optimizer = CowClip(table, CowClipConfig(1e-5, (0.9, 0.999), 1e-7, touched_only=False), each_lag)
        seen, tallies, waited = [], [], False
        for step, (ids, grad_rows, grad_wide) in enumerate(zipf_batches(37)):
            for start in range(0, BATCH, 24):
                part = slice(start, start + 24)
                optimizer.touch(ids[part], ())
                seen.append(table.gather(ids[part])[0])  # what the network reads is up to date too
                optimizer.accumulate(ids[part], (), grad_rows[part], grad_wide[part])
            rate = 1e-3 if step < 20 else 1e-4  # rates may change while rows wait
            tallies.append(optimizer.step(Hyperparameters(1e-3, rate, l2=l2, clip=1.0)).tolist())
            waited |= not table.is_settled
            if step == 10:
                optimizer.load_tensors({k: t.clone() for k, t in optimizer.tensors().items()}, step + 1)
        assert waited == (each_lag > 1 and 2 * l2 <= 1.0)
        optimizer.settle()
        ends.append((table.weight, optimizer.exp_avg_VW, optimizer.exp_avg_sq_VW, *seen, tallies))
    for whole, waiting in zip(*ends, strict=True):
        assert torch.equal(whole, waiting) if isinstance(whole, torch.Tensor) else whole == waiting


def test_only_large_tables_wait() -> None:
    for device in ("cpu", "cuda"):
        assert lag_for(num_ids=1_000_000, lookups=26 * 131_072, device=device) == 1
        assert lag_for(num_ids=30_000_000, lookups=26 * 1024, device=device) > 1


@pytest.mark.parametrize("lag", [1, 4])
def test_absent_rows_decay_and_keep_moving_unless_told_otherwise(lag: int) -> None:
    for touched_only in (False, True):
        table = EmbeddingTable(4, 2, wide=False, init_std=1e-2)
        before = table.weight.clone()
        optimizer = CowClip(table, CowClipConfig(1e-5, (0.9, 0.999), 1e-7, touched_only=touched_only), lag)
        optimizer.touch(torch.zeros(1, 1, dtype=torch.int32), ())
        optimizer.accumulate(torch.zeros(1, 1, dtype=torch.int32), (), torch.full((1, 1, 2), 1e-3), None)
        optimizer.step(Hyperparameters(1e-3, 1e-4, l2=1e-2, clip=1.0))
        optimizer.settle()
        absent_moved = not torch.equal(table.weight[1:], before[1:])
        assert absent_moved is not touched_only
        if absent_moved:
            assert (table.weight[1:].abs() < before[1:].abs()).all()


def test_linear_weights_are_never_clipped() -> None:
    moved = []
    for clip in (1e-6, math.inf):
        torch.manual_seed(0)
        table = EmbeddingTable(1, 3, wide=True, init_std=1e-2)
        optimizer = CowClip(table, CowClipConfig(1e-5, (0.9, 0.999), 1e-7, touched_only=False))
        ids = torch.zeros(2, 1, dtype=torch.int32)
        optimizer.accumulate(ids, (), torch.ones(2, 1, 3), torch.ones(2))
        _, clipped = optimizer.step(Hyperparameters(1e-3, 1e-4, l2=0.0, clip=clip))
        assert clipped == (clip < 1)
        moved.append(optimizer.exp_avg_VW.clone())
    assert torch.equal(moved[0][:, 0], moved[1][:, 0])
    assert (moved[0][:, 1:].abs() < 1e-3 * moved[1][:, 1:].abs()).all()
