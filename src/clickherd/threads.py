"""The CPU threads of this process, and loops that are shared out among them.

Compiled loops run on plain threads, not on numba's: those come from an OpenMP library which, if something else has
loaded it first, lets its threads spin between two loops and so keeps the cores from the network. They also may not be
called from two threads at once. The loops must let go of Python's global lock (`nogil`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")

# Linux tells which cores this process may use; elsewhere all of them count.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Team:
    """How many threads there are, and all but the calling one of them."""

    def __init__(self) -> None:
        self.count = CORES
        self.pool: ThreadPoolExecutor | None = None

    def others(self) -> ThreadPoolExecutor:
        if self.pool is None:
            self.pool = ThreadPoolExecutor(CORES - 1, thread_name_prefix="clickherd-loop")
        return self.pool


_team = _Team()


def _after_fork() -> None:
    """The parent's threads are not there in the child."""
    _team.pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def get_threads() -> int:
    """How many threads loops are shared out among."""
    return _team.count


def set_threads(count: int) -> None:
    """Use so many threads from now on, as many as there are cores at most."""
    _team.count = max(1, min(count, CORES))


def share_out(loop: Callable[[int, int], Result], total: int, least: int = 1) -> list[Result]:
    """`loop(first, last)` over consecutive shares of range(total), one a thread; the results in order.

    A share has `least` elements or more, or the loop runs in the calling thread alone. Not to be called from within
    such a loop.
    """
    shares = max(1, min(_team.count, total // least))
    bounds = [total * i // shares for i in range(shares + 1)]
    others = [_team.others().submit(loop, *bounds[i : i + 2]) for i in range(1, shares)]
    try:
        first = loop(*bounds[:2])
    finally:
        wait(others)  # even if this share ended early: what it was to write is the caller's again
    return [first, *(other.result() for other in others)]
