"""Threads and random numbers of the running process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clickherd.errors import ConfigError
from clickherd.kernels import kernels_for
from clickherd.threads import CORES, get_threads, set_threads


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers start from `seed` inside, and go on as before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def threads_kept() -> Iterator[None]:
    """Whatever `use_threads` does inside, torch and our loops have the threads of before outside."""
    before = torch.get_num_threads(), get_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        set_threads(before[1])


def use_threads(threads: int | None) -> int:
    """Set the threads of torch and of our loops, all that this process may use when None. Returns their number."""
    chosen = min(threads or CORES, CORES)
    torch.set_num_threads(chosen)
    set_threads(chosen)
    return chosen


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def precision_on(device: str, precision: str) -> str:
    """The precision that `train.precision` stands for on a device: fp32, tf32 or bf16."""
    if precision != "auto":
        return precision
    able = has_bf16_units() if device == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"


def precision_here(device: str, precision: str) -> str:
    """The precision to go on in where a run or a model comes from a machine that may have had other units."""
    lacking = device == "cpu" and (precision == "tf32" or (precision == "bf16" and not has_bf16_units()))
    return "fp32" if lacking else precision


def check_device(device: str, precision: str = "fp32") -> None:
    """See that the device is there and can do what is asked of it, before any work is done for it.

    Raises:
        ConfigError: no CUDA device is available, or triton is missing for it; a CPU has no tf32, or no units for bf16
            and would be slower with it.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"train.device = {device!r}, but torch finds no CUDA device", mend="Use --device cpu.")
    kernels_for(torch.device(device))
    if device == "cpu" and precision == "tf32":
        raise ConfigError("train.precision = 'tf32', which CPUs do not have", mend="Use --set train.precision=fp32.")
    if device == "cpu" and precision == "bf16" and not has_bf16_units():
        raise ConfigError(
            "train.precision = 'bf16', but this CPU has no bf16 units: it would only be slower",
            mend="Use --set train.precision=fp32.",
        )
