"""Kernels are compiled once on a machine, and the user is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from clickherd.kernels import cpu_update
from clickherd.kernels.warm_up import warm_up
warm_up(print)
assert cpu_update._cowclip_adam.signatures
"""


def test_the_first_process_says_that_it_compiles_and_the_next_does_not(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert [process.stdout.strip() for process in said] == ["compiling kernels, once on this machine", ""]
