"""How long clickherd takes to answer, and to begin: the median of some runs, each a process of its own.

    python benchmarks/start_up.py

Measured are `clickherd --help`, `clickherd data describe` on a Parquet file of the built-in log, and `clickherd train`
on the same file once its rows are encoded, from the start of the process to the first loss on the screen. That is after
the first batch; the progress bar shows it within a tenth of a second. Training is then cut off. With a warm cache of
kernels, numba loads what an earlier process compiled; with a cold one, as on the first run on a machine, its cache is
an empty folder every time. The files themselves are in the system's cache from the first run on, which does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from driver import add_machine_arguments, environment, head, result_file, tell, write_table
from peers.environments import KNOWN
from tables import grid, machine_line

from clickherd.data import synthetic

CLICKHERD = Path(sys.executable).with_name("clickherd")
FIRST_LOSS = re.compile(rb"loss \d")
PATIENCE = 600.0  # seconds, for one run
COLUMNS = "200"  # of the screen, so that the progress bar has room for all that it shows


def main() -> None:
    """Measure, and write the result."""
    args = read_arguments()
    if not CLICKHERD.exists():
        raise SystemExit(f"{CLICKHERD} is not there: pip install . in the environment that runs this")
    result = head(args) | {"rows": args.rows, "batch_size": args.batch_size, "seconds": {}}
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for name, seconds in measured(args, Path(scratch)):
            result["seconds"][name] = seconds
            tell(f"{name}: {', '.join(f'{value:.2f}' for value in seconds)} s")
    file = result_file(args, "start-up")
    file.write_text(json.dumps(result, indent=1) + "\n")
    write_table(file, table(result))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="of the file")
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=5)
    add_machine_arguments(parser)
    return parser.parse_args()


def measured(args: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, list[float]]]:
    """What is done → seconds of each run that counts."""
    log, run, warm, cold = (scratch / name for name in ("log.parquet", "run", "kernels", "no-kernels"))
    synthetic.write(log, args.rows, seed=0)
    variables = environment(KNOWN["clickherd"], args.threads)
    variables |= {"CLICKHERD_CACHE": str(scratch / "cache"), "COLUMNS": COLUMNS, "TERM": "xterm"}
    with_cache = variables | {"NUMBA_CACHE_DIR": str(warm)}
    train = ["train", str(log), "--label", "label", "--batch-size", str(args.batch_size), "--out", str(run)]

    def first_loss(kernels: Path) -> float:
        shutil.rmtree(run, ignore_errors=True)
        return seconds_to(FIRST_LOSS, train, variables | {"NUMBA_CACHE_DIR": str(kernels)})

    def first_loss_cold() -> float:
        shutil.rmtree(cold, ignore_errors=True)
        return first_loss(cold)

    tasks = {
        "clickherd --help": lambda: seconds_to(None, ["--help"], with_cache),
        "clickherd data describe": lambda: seconds_to(None, ["data", "describe", str(log)], with_cache),
        "clickherd train, to the first loss": lambda: first_loss(warm),
        "clickherd train, to the first loss, kernels not compiled yet": first_loss_cold,
    }
    for name, task in tasks.items():
        task()  # the files are read, the rows encoded, and in the third task the kernels compiled
        yield name, [round(task(), 3) for _ in range(args.runs)]


def seconds_to(pattern: re.Pattern[bytes] | None, arguments: list[str], variables: Mapping[str, str]) -> float:
    """Seconds from the start of `clickherd` until its screen shows the pattern, or until it ends.

    Raises:
        SystemExit: it failed, or did not get there in time.
    """
    screen, terminal = pty.openpty()
    shown = b""
    began = time.perf_counter()
    process = subprocess.Popen(
        [CLICKHERD, *arguments],
        env=dict(variables),
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


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        [name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f}–{max(seconds):.2f}", str(len(seconds))]
        for name, seconds in result["seconds"].items()
    ]
    first = (
        f"A Parquet file of {result['rows']:,} rows of the built-in log; DeepFM at batch {result['batch_size']:,}, "
        f"{machine_line(result)}"
    )
    return f"{first}\n{grid(['what', 'seconds, median', 'lowest–highest', 'runs'], rows)}"


if __name__ == "__main__":
    main()
