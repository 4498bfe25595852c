"""Work on several threads; polars, numpy and the compiled loops let other threads run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from clickherd.threads import get_threads

Item = TypeVar("Item")


def in_parallel(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """The jobs' results in order."""
    with ThreadPoolExecutor(get_threads()) as pool:
        return list(pool.map(lambda job: job(), jobs))


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; each is made while its forerunner is used, unless one thread is all there may be."""
    if get_threads() == 1:
        yield from items
        return
    end, iterator = object(), iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
