"""The `clickherd` command as a person runs it: a process of its own that writes to a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

CLICKHERD = Path(sys.executable).with_name("clickherd")
PATIENCE = 600.0  # seconds, for one run
SCREEN = {"COLUMNS": "200", "TERM": "xterm"}  # wide enough for all that the progress bar shows


def seconds_to(pattern: re.Pattern[bytes] | None, arguments: list[str], variables: Mapping[str, str]) -> float:
    """Seconds from the start of `clickherd` until its screen shows the pattern, or until it ends.

    Raises:
        SystemExit: it is not installed, failed, or did not get there in time.
    """
    if not CLICKHERD.exists():
        raise SystemExit(f"{CLICKHERD} is not there: pip install . in the environment that runs this")
    screen, terminal = pty.openpty()
    shown = b""
    began = time.perf_counter()
    process = subprocess.Popen(
        [CLICKHERD, *arguments],
        env={**variables, **SCREEN},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    try:
        while time.perf_counter() - began < PATIENCE:
            ready, _, _ = select.select([screen], [], [], 1.0)
            text = read(screen) if ready else None
            shown += text or b""
            if pattern is not None and pattern.search(shown):
                return time.perf_counter() - began
            if text == b"" and process.wait(PATIENCE) == 0 and pattern is None:
                return time.perf_counter() - began
            if text == b"":
                break
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(screen)
    raise SystemExit(f"clickherd {' '.join(arguments)} did not get there:\n{shown.decode(errors='replace')[-2000:]}")


def read(screen: int) -> bytes:
    """What is new on the screen; nothing once the other side is closed."""
    try:
        return os.read(screen, 65_536)
    except OSError:  # Linux's way to say that no process writes there any more
        return b""
