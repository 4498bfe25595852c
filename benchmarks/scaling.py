"""What a row costs clickherd as the log grows, and as its vocabulary grows.

    python benchmarks/scaling.py

Rows of Criteo's shape are drawn in encoded form, chunk by chunk, into a store on disk, from which they are trained on
as memory maps. The k-th most frequent id of a field has probability ∝ k^−1.05 at every size of the vocabulary; the
labels are noise, as only speed is at stake. Every measurement is a process of its own: some full batches of DeepFM,
from the store to the updated table, and in each row's cost its share of drawing the order of an epoch over all rows.
Sizes take turns within a round; the cost beside the smallest size's is taken within a round.

The logs of one series lie on disk at a time: 160 bytes a row, 3.2 GB at 20 million rows, gone at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from criteo import draw, layout_of
from driver import add_machine_arguments, answer_of, environment, head, result_file, tell, write_table
from peers.environments import KNOWN
from tables import by_round, grid, machine_line, quotient, spread

from clickherd.data.store import StoreWriter

CHUNK_ROWS = 262_144
STEPS = Path(__file__).resolve().parent / "steps.py"
SERIES = {"rows": "training rows", "ids": "ids"}  # what grows


def main() -> None:
    """Measure, and write the result after every measurement."""
    args = read_arguments()
    result = head(args) | {"batch_size": args.batch_size, "steps": args.steps, "runs": []}
    file = result_file(args, "scaling")
    for series in SERIES:
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            for run in measured(series, args, Path(scratch)):
                result["runs"].append(run)
                file.write_text(json.dumps(result, indent=1) + "\n")
                tell(progress_line(run))
    write_table(file, table(result))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--ids", nargs="+", type=int, default=[1_000_000, 3_000_000, 10_000_000, 30_000_000])
    parser.add_argument("--fixed-rows", type=int, default=2_000_000, help="while the vocabulary grows")
    parser.add_argument("--fixed-ids", type=int, default=1_000_000, help="while the rows grow")
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--steps", type=int, default=32, help="batches that are timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a measurement is given up")
    add_machine_arguments(parser)
    args = parser.parse_args()
    if min(*args.rows, args.fixed_rows) < args.batch_size:
        parser.error("every log must hold a batch at least")
    return args


def measured(series: str, args: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    """One series: its logs drawn, then all its sizes in every round."""
    if series == "rows":  # one log, of which the first rows are taken
        sizes = [(rows, args.fixed_ids) for rows in args.rows]
        logs = [(max(args.rows), args.fixed_ids)]
    else:
        sizes = logs = [(args.fixed_rows, ids) for ids in args.ids]
    stores = {ids: write_log(scratch / str(ids), rows, ids) for rows, ids in logs}
    for round_ in range(args.rounds):
        for rows, ids in sizes:
            command = [sys.executable, STEPS, stores[ids], "--rows", rows, "--steps", args.steps]
            command += ["--batch-size", args.batch_size, "--threads", args.threads, "--seed", round_]
            figures = answer_of(command, environment(KNOWN["clickherd"], args.threads), args.timeout)
            yield {"kind": series, "rows": rows, "ids": ids, "round": round_} | figures


def write_log(path: Path, num_rows: int, num_ids: int) -> Path:
    """An encoded store of so many rows, with about so many ids."""
    layout = layout_of(num_ids)
    needed = num_rows * 4 * (len(layout.fields) + len(layout.numeric) + 1)
    free = shutil.disk_usage(path.parent).free
    if needed > 0.9 * free:
        raise SystemExit(f"{num_rows:,} rows take {needed >> 20:,} MiB, but {path.parent} has {free >> 20:,} left")
    tell(f"drawing {num_rows:,} rows of {layout.num_ids:,} ids")
    rng = np.random.default_rng(0)
    with StoreWriter(path, layout) as writer:
        for start in range(0, num_rows, CHUNK_ROWS):
            writer.append(draw(layout, min(CHUNK_ROWS, num_rows - start), rng))
    return path


def progress_line(run: Mapping[str, Any]) -> str:
    """One measurement in words, for standard error."""
    what = run.get("error") or f"{run['rows_per_second']:,.0f} rows/s, {run['peak_rss_mib']:,.0f} MiB"
    return f"round {run['round']}  {run['rows']:>12,} rows {run['ids']:>12,} ids  {what}"


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown: a table for each series, a line for each size."""
    first = f"DeepFM at batch {result['batch_size']:,}, {result['steps']} batches a measurement, {machine_line(result)}"
    return "\n".join([first, *(series_table(result["runs"], series) for series in SERIES)])


def series_table(runs: list[Mapping[str, Any]], series: str) -> str:
    """How rows per second, memory and the ids that a batch touches change with what grows."""
    fixed = next(name for name in SERIES if name != series)
    of_series = [run for run in runs if run["kind"] == series]
    sizes = list(dict.fromkeys(run[series] for run in of_series))

    def of(size: int, key: str) -> dict[int, float]:
        return by_round(of_series, key, **{series: size})

    lines = [
        [
            f"{size:,}",
            spread(of(size, "rows_per_second"), "{:,.0f}"),
            spread(quotient(of(sizes[0], "rows_per_second"), of(size, "rows_per_second")), "{:.2f}"),
            *(spread(of(size, key), "{:,.0f}") for key in ("peak_rss_mib", "own_mib", "mapped_mib", "touched")),
            spread(of(size, "share_touched"), "{:.2%}"),
        ]
        for size in sizes
    ]
    head = [
        SERIES[series],
        "rows per second",
        f"cost of a row beside {sizes[0]:,}",
        "peak MiB",
        "of its own",
        "of files",
    ]
    head += ["ids in a batch", "of all"]
    errors = [f"- {run[series]:,}: {run['error']}\n" for run in of_series if "error" in run]
    failed = "\nFailed:\n\n" + "".join(errors) if errors else ""
    title = (
        f"{of_series[0][fixed]:,} {SERIES[fixed]}, median (lowest–highest); memory of files: rows and libraries mapped:"
    )
    return f"{title}\n\n{grid(head, lines)}{failed}"


if __name__ == "__main__":
    main()
