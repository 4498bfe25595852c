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
import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from command import seconds_to
from driver import add_machine_arguments, environment, head, result_file, tell, write_table
from peers.environments import KNOWN
from tables import grid, machine_line

from clickherd.data import synthetic

FIRST_LOSS = re.compile(rb"loss \d")


def main() -> None:
    """Measure, and write the result."""
    args = read_arguments()
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
    variables = environment(KNOWN["clickherd"], args.threads) | {"CLICKHERD_CACHE": str(scratch / "cache")}
    with_cache = variables | {"NUMBA_CACHE_DIR": str(warm)}
    train = ["train", str(log), "--label", "label", "--batch-size", str(args.batch_size), "--out", str(run)]
    train += ["--threads", str(args.threads)]

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
