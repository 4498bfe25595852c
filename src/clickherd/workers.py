"""Threads that each take a slice of rows through a network by themselves.

Splitting every operator among all cores makes them wait for each other some sixty times per micro-batch, and leaves
all but one idle in the operators that are too small to split. A thread of its own for each micro-batch waits once per
batch (decision 0011), and a core that another process slows down takes fewer micro-batches. Torch and the kernels hold
Python's global lock for a small part of the time only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class _TorchThreads:
    """How many threads torch has outside of all workers.

    `torch.set_num_threads` holds for the thread that calls it, and for threads that have not used torch yet. So what is
    found on entry may be the doing of other workers, and is taken from the first of those that are at work together.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self._outside = 0

    def enter(self, count: int) -> int:
        """Share torch's threads out among `count` workers; returns each one's number."""
        with self._lock:
            if not self._inside:
                self._outside = torch.get_num_threads()
            self._inside += 1
            each = max(1, self._outside // count)
        torch.set_num_threads(each)
        return each

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(self._outside)


_torch_threads = _TorchThreads()


class Workers:
    """As many threads as `count` within a `with`; torch's threads are shared out among them there.

    With a count of 1, and outside of the `with`, the work is done in the calling thread, by all of torch's threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            each = _torch_threads.enter(self.count)
            self._pool = ThreadPoolExecutor(self.count, "clickherd", torch.set_num_threads, (each,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            pool.shutdown(cancel_futures=True)
        finally:
            _torch_threads.leave()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in the order of the items. Few are kept waiting, so that memory does not grow with their number.

        Raises:
            Exception: whatever `function` raised, for the first item with which it did.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(self._pool.submit(function, item))
            if len(pending) > 2 * self.count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
