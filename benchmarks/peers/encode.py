"""What the encoders' runners share: the arguments, the columns, and the two lines that they print.

A runner is started by benchmarks/encoding.py with the Python of the encoder's own environment, so this file needs the
standard library only. It encodes the first rows, prints `begin`, encodes the file, and prints the result as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LABEL = "label"
NUMERIC = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))


def main(encode: Callable[[Path, Path, int], dict[str, Any]]) -> None:
    """Run `encode(log, new folder, threads)`, which tells how many values have an id, first on few rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--few", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what the encoder prints, from C as well, goes to standard error
        with contextlib.redirect_stdout(sys.stderr):
            encode(args.few, args.scratch / "few", args.threads)
            out.write("begin\n")
            out.flush()
            told = encode(args.log, args.scratch / "all", args.threads)
        out.write(json.dumps(told) + "\n")
