"""Work that runs ahead on another thread: order, and errors on both sides."""

import threading

import pytest

from clickherd.data import parallel
from clickherd.data.parallel import ahead


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request, monkeypatch):
    monkeypatch.setattr(parallel, "get_threads", lambda: request.param)
    return request.param


def test_items_come_in_order_each_made_while_the_last_is_used(threads):
    made, lead = [], []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    for i in ahead(items()):
        lead.append(len(made) - i - 1)
        assert lead[-1] < threads
    assert made == list(range(20))
    assert len(lead) == 20
    assert list(ahead([])) == []


def test_a_producers_error_comes_after_the_items_before_it():
    def items():
        yield from (1, 2)
        raise OSError("broken")

    coming = ahead(items())
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(OSError, match="broken"):
        next(coming)


def test_a_consumers_error_ends_the_producer():
    running, closed = threading.active_count(), []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    def use():
        for i in ahead(items()):
            if i == 3:
                raise ValueError("no use")

    with pytest.raises(ValueError, match="no use"):
        use()
    assert closed == [True]
    assert threading.active_count() == running
