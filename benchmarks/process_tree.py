"""CPU seconds and memory of a process and of all that it starts, as Linux tells them under /proc."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

_INTERVAL = 0.05
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: what loses its parent stays a descendant of this process
_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """Watches a child process and its descendants; leaving the context ends what is left of them.

    CPU seconds of a descendant are those at the last look at it, so that up to a twentieth of a second of each is
    missed. Memory is the proportional set size: what processes share counts once; not every kernel tells it.
    """

    def __init__(self, pid: int, *, timeout: float) -> None:
        self.pid, self.timed_out = pid, False
        self._deadline = time.monotonic() + timeout
        self._lock, self._over = threading.Lock(), threading.Event()
        self._cpu: dict[tuple[int, str], float] = {}  # (process, its start) → CPU seconds
        self._before = 0.0
        self._peak = 0
        self._tells_memory = Path("/proc/self/smaps_rollup").exists()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessTree:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._end()

    def restart(self) -> None:
        """Count from now on."""
        self._look()
        with self._lock:
            self._before, self._peak = sum(self._cpu.values()), 0

    def figures(self) -> dict[str, float]:
        """CPU seconds and, if it is known, the peak of memory since `restart`."""
        self._look()
        with self._lock:
            memory = {"peak_mib": round(self._peak / 1024, 1)} if self._tells_memory else {}
            return {"cpu_seconds": round(sum(self._cpu.values()) - self._before, 2), **memory}

    def _end(self) -> None:
        """End what still runs."""
        for pid in self._members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL):
            self._look()
            if time.monotonic() > self._deadline:
                self.timed_out = True
                self._end()
                return

    def _look(self) -> None:
        memory, found = 0, {}
        for pid in self._members():
            with suppress(OSError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid, fields[19]] = (int(fields[11]) + int(fields[12])) / _TICKS
                if not self._tells_memory:
                    continue
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                memory += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        with self._lock:
            self._cpu.update(found)
            self._peak = max(self._peak, memory)

    def _members(self) -> list[int]:
        """The process and its descendants; also those that were adopted because their parents are gone."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, IndexError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        members = {self.pid, *(pid for pid, parent in parents.items() if parent == os.getpid())}
        while more := {pid for pid, parent in parents.items() if parent in members} - members:
            members |= more
        return sorted(members & parents.keys())
