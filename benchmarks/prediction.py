"""How fast clickherd predicts, beside other trainers, with the same network on the same encoded rows.

    python benchmarks/data.py DATA --tail-exponent 1.235
    python benchmarks/prediction.py DATA

Every measurement is a process of its own in the peer's own environment, held to the same threads. It trains the network
on the first rows at batch 8,192, predicts the test rows once, which does not count, and times the peer's own call that
predicts them a few times; the median counts. clickherd reads the rows from its store on disk, FuxiCTR through its
loader from a file, the others from arrays in the form that they take. Peers take turns within a round.

The `clickherd predict` command is timed as well, from the start of its process to the file of probabilities, on a
Parquet file of raw rows: what it takes to load, encode and write is in it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from command import CLICKHERD, seconds_to
from driver import able, add_arguments, begin, compare, environment, tell
from peers.environments import DEFAULT, KNOWN
from tables import at_batch, by_batch, failures, heading, networks, spread

from clickherd.data import synthetic

TRAINED_ROWS, TRAINED_BATCH_SIZE = 262_144, 8192


def main() -> None:
    """Measure, and write the result after every measurement."""
    args = read_arguments()
    result = begin(args) | {"raw": predict_command(args)}
    compare(args, "prediction", result, measurements(args), progress_line, table)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.set_defaults(peers=[name for name in DEFAULT if KNOWN[name].batched])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[4096, 65_536])
    parser.add_argument("--trained-rows", type=int, default=TRAINED_ROWS)
    parser.add_argument("--raw-rows", type=int, default=500_000, help="of the file for `clickherd predict`; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    odd = [name for name in args.peers if not KNOWN[name].batched]
    if odd:
        parser.error(f"{', '.join(odd)}: only trainers of networks are compared")
    return args


def measurements(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """All measurements in order; peers take turns within round and batch size."""
    for round_ in range(args.rounds):
        for batch_size in args.batch_sizes:
            for peer in able(args):
                yield {
                    "kind": "prediction",
                    "measure": "prediction",
                    "peer": peer,
                    "batch_size": batch_size,
                    "training_batch_size": TRAINED_BATCH_SIZE,
                    "round": round_,
                    "rows": args.trained_rows,
                    "options": ["--scoring-batch-size", batch_size],
                }


def predict_command(args: argparse.Namespace) -> dict[str, Any] | None:
    """Seconds of `clickherd predict` on a file of raw rows, with a model trained on as many others."""
    if not args.raw_rows:
        return None
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        for seed, name in enumerate(("train", "new")):
            synthetic.write(folder / f"{name}.parquet", args.raw_rows, seed=seed)
        variables = environment(KNOWN["clickherd"], args.threads) | {"CLICKHERD_CACHE": str(folder / "cache")}
        command: list[str | Path] = [
            CLICKHERD,
            "train",
            folder / "train.parquet",
            "--label",
            "label",
            "--out",
            folder / "run",
        ]
        command += ["--model", args.model, "--epochs", "1", "--no-report"]
        subprocess.run(command, env=variables, check=True, capture_output=True)
        predict = ["predict", str(folder / "run"), str(folder / "new.parquet"), "--out", str(folder / "out.parquet")]
        seconds = [round(seconds_to(None, predict, variables), 3) for _ in range(1 + args.rounds)][1:]
    tell(f"clickherd predict: {', '.join(f'{value:.2f}' for value in seconds)} s")
    return {"rows": args.raw_rows, "seconds": seconds}


def progress_line(run: Mapping[str, Any]) -> str:
    """One measurement in words, for standard error."""
    what = run.get("error") or f"{run['rows_per_second']:,.0f} rows/s, {run['peak_rss_mib']:,.0f} MiB"
    return f"round {run['round']}  {run['peer'] + at_batch(run):<40} {what}"


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown: rows per second, ratios and memory by batch size, and the command's seconds."""
    raw, command = result["raw"], ""
    if raw:
        seconds = dict(enumerate(raw["seconds"]))
        speed = {round_: raw["rows"] / value for round_, value in seconds.items()}
        command = (
            f"`clickherd predict` on a Parquet file of {raw['rows']:,} raw rows: {spread(seconds, '{:.2f}')} s, "
            f"{spread(speed, '{:,.0f}')} rows per second.\n"
        )
    runs = result["runs"]
    peak = "Peak memory of the process while it predicts, what training left behind included, MiB"
    parts = [heading(result), *by_batch(runs, "prediction", peak=peak), command, networks(result), failures(runs)]
    return "\n".join(part for part in parts if part)


if __name__ == "__main__":
    main()
