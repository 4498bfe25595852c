"""Threads that each take a slice of rows through a network by themselves.

Splitting every operator among all cores makes them wait for each other some sixty times per micro-batch, and leaves
all but one idle in the operators that are too small to split. A thread of its own for each micro-batch waits once per
batch (measured in docs/log.md), and a core that another process slows down takes fewer micro-batches. Torch and the
kernels hold Python's global lock for a small part of the time only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """As many threads as `count` within a `with`; torch's threads are shared out among them there.

    With a count of 1, and outside of the `with`, the work is done in the calling thread, by all of torch's threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        self._threads = 1  # of torch, outside

    def __enter__(self) -> Workers:
        if self.count > 1:
            self._threads = torch.get_num_threads()
            torch.set_num_threads(max(1, self._threads // self.count))  # holds for all threads of the process
            self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="clickherd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self._threads)

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
