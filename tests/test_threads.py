"""Loops that are shared out among threads."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from clickherd.runtime import threads_kept
from clickherd.threads import _Team, get_threads, set_threads, share_out


@pytest.fixture(autouse=True)
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clickherd.threads.CORES", 3)
    monkeypatch.setattr("clickherd.threads._team", _Team())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("total", [0, 1, 2, 7])
def test_shares_cover_the_range_once_and_in_order(threads: int, total: int) -> None:
    with threads_kept():
        set_threads(threads)
        shares = share_out(lambda first, last: list(range(first, last)), total)
    assert [element for share in shares for element in share] == list(range(total))
    assert len(shares) == max(1, min(threads, total))


def test_shares_run_side_by_side_unless_they_are_small() -> None:
    with threads_kept():
        set_threads(2)
        both = threading.Barrier(2, timeout=10)
        assert share_out(lambda first, last: both.wait() >= 0, 2) == [True, True]
        assert share_out(lambda first, last: (first, last), 9, least=5) == [(0, 9)]


def test_no_share_is_left_running_when_one_fails() -> None:
    ended = []

    def loop(first: int, last: int) -> None:
        if first == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)
        ended.append(last)

    with threads_kept():
        set_threads(2)
        with pytest.raises(KeyboardInterrupt):
            share_out(loop, 2)
    assert ended == [2]


def test_no_more_threads_than_cores() -> None:
    with threads_kept():
        set_threads(100)
        assert get_threads() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    with threads_kept():
        set_threads(2)
        share_out(lambda first, last: None, 2)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # rather than wait for ever for threads that are not there
            os._exit(0 if share_out(lambda first, last: last - first, 4) == [2, 2] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
