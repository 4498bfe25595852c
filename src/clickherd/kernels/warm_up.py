"""The CPU kernels compiled ahead of the first batch: the user is told, and the first batch is not blamed for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from clickherd.kernels import AdamStep, cpu, cpu_update


def warm_up(announce: Callable[[str], None]) -> None:
    """Compile the kernels, or load them if an earlier process on this machine compiled them."""
    if not _are_compiled():
        announce("compiling kernels, once on this machine")
    # one row with one field of one value and one multi-valued field of one
    ids, bags = torch.zeros(1, 1, dtype=torch.int32), ((torch.ones(1, dtype=torch.int32), torch.tensor([0, 1])),)
    weight, exp_avg, exp_avg_sq, grad = (torch.zeros(2, 3) for _ in range(4))
    counts, current = torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    step = AdamStep(1, 0.0, 0.0, math.inf, 0.0, 0.9, 0.999, 1e-7)
    cpu.gather(weight, ids, bags, True)
    cpu.scatter_add(grad, counts, ids, bags, torch.zeros(1, 2, 2), torch.zeros(1))
    cpu.cowclip_adam(weight, exp_avg, exp_avg_sq, grad, counts, True, step)
    cpu.catch_up(weight, exp_avg, exp_avg_sq, current, ids.flatten(), [step])
    cpu.catch_up(weight, exp_avg, exp_avg_sq, current, None, [step])
    cpu.cowclip_adam_rows(weight, exp_avg, exp_avg_sq, grad, counts, current, ids.flatten(), True, step)
    weights, exp_avgs, exp_avg_sqs, grads = ([torch.zeros(1)] for _ in range(4))
    cpu.adam(weights, exp_avgs, exp_avg_sqs, grads, step)


def _are_compiled() -> bool:
    """Whether numba has the largest kernel in its cache on disk (perhaps of an older version of the file)."""
    kernel = cpu_update._catch_up_all
    cache = kernel.stats.cache_path
    return cache is not None and any(Path(cache).glob(f"*.{kernel.py_func.__name__}-*.nbi"))
