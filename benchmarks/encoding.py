"""Encoding of a raw click log by clickherd beside what others' preprocessing makes of the same file.

    clickherd data synth --rows 2200000 --out log.tsv
    python benchmarks/encoding.py log.tsv

The file has the header of `clickherd data synth`: label, I1 to I13, C1 to C26. Every encoder reads all rows as its own
project does and writes what its trainer reads:

    clickherd         `prepare` with every value in the vocabulary; splits and profile included
    pandas            a plain pandas and scikit-learn script with the steps of LargeBatchCTR's published preprocessing
                      (missing values filled, categories numbered, numbers scaled). It is written anew for this
                      comparison and saves arrays, the cheapest thing to do
    fuxictr           FuxiCTR's FeatureProcessor and build_dataset from its wheel, to Parquet

Each measurement is a process in the encoder's own environment (made under benchmarks/.envs when missing), held to as
many cores as there may be threads, with all that it starts. Before the clock starts, it imports its libraries and
encodes the file's first rows, so that compiling and starting of helper processes count for nobody. Seconds and memory
are those of the process and all that it starts. The encoders take turns in each round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from driver import environment, install_all, tell
from peers.environments import ENCODERS, PEERS
from process_tree import ProcessTree
from tables import grid, spread

WARM_UP_ROWS = 20_000
FIGURES = {
    "cpu_seconds": ("CPU seconds", "{:.1f}"),
    "seconds": ("wall seconds", "{:.1f}"),
    "peak_mib": ("peak MiB", "{:,.0f}"),
}


def main() -> None:
    """Measure, and write the result after every measurement."""
    args = read_arguments()
    result = begin(args)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"encoding-{args.machine}.json"
    for round_ in range(args.rounds):
        for name in args.encoders:
            why = result["missing"].get(name)
            with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
                run = {"error": f"not installed: {why}"} if why else measure(name, args, Path(scratch))
            result["runs"].append({"encoder": name, "round": round_, **run})
            file.write_text(json.dumps(result, indent=1) + "\n")
            tell(progress_line(result["runs"][-1]))
    text = table(result)
    file.with_suffix(".md").write_text(text)
    print(text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="file written by `clickherd data synth`")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), metavar="ENCODER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds after which a measurement is given up")
    parser.add_argument("--machine", default=host.slug(), help="name of the machine in the result's file name")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    parser.add_argument("--scratch", type=Path, help="where encoded rows go; the system's temporary folder")
    return parser.parse_args()


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """Make the environments; the head of the result, without runs yet."""
    missing = install_all({name: ENCODERS[name] for name in args.encoders})
    with args.log.open("rb") as log:
        rows = sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 24), b"")) - 1
    return {
        "machine": host.describe(("numba", "numpy", "polars", "pyarrow")),
        "command": host.command(),
        "threads": args.threads,
        "data": {"rows": rows, "bytes": args.log.stat().st_size},
        "encoders": {name: ENCODERS[name].environment.packages() for name in args.encoders if name not in missing},
        "missing": missing,
        "runs": [],
    }


def measure(name: str, args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of one measurement, or why there are none."""
    encoder = ENCODERS[name]
    few = scratch / "first.tsv"
    with args.log.open("rb") as log, few.open("wb") as first:
        first.writelines(line for line, _ in zip(log, range(WARM_UP_ROWS + 1), strict=False))
    command = [encoder.environment.python, PEERS / encoder.runner, "--log", args.log.resolve(), "--few", few]
    command += ["--scratch", scratch, "--threads", args.threads]
    with tempfile.TemporaryFile("w+") as complaints:
        with on_cores(args.threads):
            process = subprocess.Popen(
                [str(part) for part in command],
                env=environment(encoder, args.threads),
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,
            )
        assert process.stdout is not None
        with ProcessTree(process.pid, timeout=args.timeout) as tree:
            began = process.stdout.readline()
            tree.restart()
            start = time.perf_counter()
            answer = process.stdout.readline() if began else ""
            seconds = time.perf_counter() - start
            figures = tree.figures()
        process.stdout.close()
        process.wait()
        if tree.timed_out:
            return {"error": f"gave up after {args.timeout:.0f} s"}
        if not answer:
            complaints.seek(0)
            return {"error": " | ".join(complaints.read().strip().splitlines()[-2:])}
    return {"seconds": round(seconds, 2), **figures, **json.loads(answer), "at": time.strftime("%H:%M:%S")}


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """What is started meanwhile runs on so many of the cores only, and so does all that it starts."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def progress_line(run: Mapping[str, Any]) -> str:
    """One measurement in words, for standard error."""
    memory = f"{run['peak_mib']:,.0f} MiB" if "peak_mib" in run else "memory unknown"
    what = run.get("error") or (
        f"{run['cpu_seconds']:.1f} CPU s, {run['seconds']:.1f} s, {memory}, {run['values']:,} values"
    )
    return f"round {run['round']}  {run['encoder']:<12} {what}"


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    runs, machine, data = result["runs"], result["machine"], result["data"]
    names = list(dict.fromkeys(run["encoder"] for run in runs))
    ours = names[0]
    lines = []
    for name in names:
        found = {key: by_round(runs, name, key) for key in FIGURES}
        figures = [spread(found[key], form) for key, (_, form) in FIGURES.items()]
        if found["seconds"] and not found["peak_mib"]:
            figures[-1] = "unknown"
        times = ratio(runs, name, ours)
        lines.append([ENCODERS[name].title, *figures, "–" if name == ours else spread(times, "{:.1f}")])
    head = ["encoder", *(title for title, _ in FIGURES.values()), f"CPU seconds over those of {ENCODERS[ours].title}"]
    errors = "".join(f"- {run['encoder']}: {run['error']}\n" for run in runs if "error" in run)
    failed = f"\nFailed:\n\n{errors}" if errors else ""
    return (
        f"{data['rows']:,} raw rows, {data['bytes'] / 2**20:,.0f} MiB of text, encoded with {result['threads']} "
        f"threads; median (lowest–highest) of {len({run['round'] for run in runs})} rounds. {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB; Python {machine['python']}; {machine['date']}; load "
        f"at the start {machine['load_average_at_start'][0]:.2f}.\n"
        f"Command: `{' '.join(result['command'])}`\n\n{grid(head, lines)}{failed}"
    )


def by_round(runs: list[Mapping[str, Any]], name: str, key: str) -> dict[int, float]:
    """Round → figure, of the measurements that succeeded."""
    return {run["round"]: run[key] for run in runs if run["encoder"] == name and key in run}


def ratio(runs: list[Mapping[str, Any]], theirs: str, ours: str) -> dict[int, float]:
    """Round → their CPU seconds over ours, of the rounds in which both succeeded."""
    a, b = (by_round(runs, name, "cpu_seconds") for name in (theirs, ours))
    return {round_: a[round_] / b[round_] for round_ in a.keys() & b.keys()}


if __name__ == "__main__":
    main()
