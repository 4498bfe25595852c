"""Training speed of clickherd beside other trainers, on the same encoded rows, with the same network.

    python benchmarks/data.py DATA
    python benchmarks/speed.py DATA

Every measurement is a process of its own in the peer's own environment (made under benchmarks/.envs when missing),
held to the same number of cores and threads. It builds the network, fits one warm-up batch that does not count, and
times one call of the peer's own `fit` over the first rows of the training split: loader, loss, metrics and all.
Within a round the peers take turns at each batch size (A B C, A B C, …), so that a change in the machine's pace
meets all of them; ratios are taken within a round. A peer that fails is recorded as such and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from peers.environments import KNOWN, PEERS, Peer

# rows of a timed fit: about half a minute for the slowest peer on two cores
ROWS = {1024: 262_144, 8192: 786_432, 65_536: 786_432, 131_072: 1_048_576}
ACCURACY_BATCH_SIZE = 8192


def main() -> None:
    """Measure, and write the result after every measurement, so that a cut-off run leaves what it has."""
    args = read_arguments()
    for name in args.peers:
        KNOWN[name].environment.make()
    result: dict[str, Any] = {
        "machine": host.describe(("torch", "numba", "numpy", "polars")),
        "command": host.command(),
        "threads": args.threads,
        "data": json.loads((args.data / "meta.json").read_text())["rows"],
        "peers": {name: KNOWN[name].environment.packages() for name in args.peers},
        "runs": [],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    json_file = args.out / f"speed-{args.machine}.json"
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for run in measurements(args):
            result["runs"].append(run | measure(run, args, Path(scratch)))
            json_file.write_text(json.dumps(result, indent=1) + "\n")
            print(progress_line(result["runs"][-1]), file=sys.stderr, flush=True)
    text = table(result)
    json_file.with_suffix(".md").write_text(text)
    print(text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder written by benchmarks/data.py")
    parser.add_argument("--peers", nargs="+", choices=KNOWN, default=["clickherd", "deepctr-torch", "fuxictr"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--rows", type=int, help="rows of every timed fit, instead of a number by batch size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--accuracy", action="store_true", help="also one whole epoch at 8,192, scored on test rows")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a measurement is given up")
    parser.add_argument("--machine", default=host.slug(), help="name of the machine in the result's file name")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    parser.add_argument("--scratch", type=Path, help="where loaders' files go; the system's temporary folder")
    return parser.parse_args()


def measurements(args: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """All measurements in order; peers take turns within batch size and round."""
    for round_ in range(args.rounds):
        for batch_size in args.batch_sizes:
            for peer in args.peers:
                rows = args.rows or ROWS.get(batch_size, max(ROWS.values()))
                yield {"kind": "speed", "peer": peer, "batch_size": batch_size, "round": round_, "rows": rows}
    if args.accuracy:
        for peer in args.peers:
            yield {"kind": "accuracy", "peer": peer, "batch_size": ACCURACY_BATCH_SIZE, "round": 0, "rows": 0}


def measure(run: Mapping[str, Any], args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of one measurement, or why there are none."""
    peer = KNOWN[run["peer"]]
    command = [peer.environment.python, PEERS / peer.runner, "--data", args.data, "--scratch", scratch]
    command += ["--rows", run["rows"], "--batch-size", run["batch_size"], "--threads", args.threads]
    command += ["--seed", run["round"], "--variant", peer.variant]
    command += ["--accuracy"] if run["kind"] == "accuracy" else []
    load = os.getloadavg()[0]
    process = subprocess.Popen(
        [str(part) for part in command],
        env=environment(peer, args.threads),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer, complaint = process.communicate(timeout=args.timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its loader's worker processes too
        process.communicate()
        return {"error": f"gave up after {args.timeout:.0f} s"}
    if process.returncode != 0:
        killed = f"ended by signal {-process.returncode}, perhaps out of memory " if process.returncode < 0 else ""
        reason = " | ".join(complaint.strip().splitlines()[-2:]).replace(str(host.REPOSITORY), ".")
        return {"error": killed + reason}
    measured: dict[str, Any] = json.loads(answer)
    return measured | {"load_average_before": load, "at": time.strftime("%H:%M:%S")}


def environment(peer: Peer, threads: int) -> dict[str, str]:
    """The environment variables of a measurement: every library is held to the same number of threads."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    limits = {f"{pool}_NUM_THREADS": str(threads) for pool in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    source = {} if peer.environment.steps else {"PYTHONPATH": str(host.REPOSITORY / "src")}
    return {**inherited, **limits, **source, "POLARS_MAX_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}


def progress_line(run: Mapping[str, Any]) -> str:
    """One measurement in words, for standard error."""
    what = run.get("error") or f"{run['rows_per_second']:,.0f} rows/s, {run['peak_rss_mib']:,.0f} MiB"
    scores = f", test AUC {run['auc']:.4f}, logloss {run['logloss']:.4f}" if "auc" in run else ""
    return f"round {run['round']}  batch {run['batch_size']:>7,}  {run['peer']:<16} {what}{scores}"


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown: rows per second, ratios, memory, scores."""
    runs = result["runs"]
    names = list(dict.fromkeys(run["peer"] for run in runs))
    sizes = list(dict.fromkeys(run["batch_size"] for run in runs if run["kind"] == "speed"))
    head = ["trainer", *(f"batch {size:,}" for size in sizes)]

    def by_batch(key: str, form: str) -> str:
        return grid(
            head, [[KNOWN[n].title, *(spread(figures(runs, n, size, key), form) for size in sizes)] for n in names]
        )

    of = result["machine"]
    parts = [
        f"DeepFM, embeddings of 10, MLP 400-400-400, {result['threads']} threads; {of['cpu']}, {of['cores']} cores, "
        f"{of['memory_gib']} GiB; Python {of['python']}, torch {of['packages'].get('torch', '?')}; "
        f"{of['date']}; load at the start {of['load_average_at_start'][0]:.2f}.\n"
        f"Command: `{' '.join(result['command'])}`\n",
        f"Training rows per second, median (lowest–highest):\n\n{by_batch('rows_per_second', '{:,.0f}')}",
    ]
    if len(names) > 1:
        ours = names[0]
        ratios = [
            [KNOWN[n].title, *(spread(ratio(runs, ours, n, size), "{:.2f}") for size in sizes)] for n in names[1:]
        ]
        title = (
            f"Rows per second of {KNOWN[ours].title} over those of another, within a round, median (lowest–highest):"
        )
        parts.append(f"{title}\n\n{grid(head, ratios)}")
    parts.append(f"Peak memory of the training process, MiB:\n\n{by_batch('peak_rss_mib', '{:,.0f}')}")
    scored = [run for run in runs if "auc" in run]
    if scored:
        scores = [[KNOWN[run["peer"]].title, f"{run['auc']:.4f}", f"{run['logloss']:.4f}"] for run in scored]
        title = f"Test scores after one epoch over all training rows at batch {ACCURACY_BATCH_SIZE:,}, one seed:"
        parts.append(f"{title}\n\n{grid(['trainer', 'AUC', 'logloss'], scores)}")
    failed = [f"- {run['peer']}, batch {run['batch_size']:,}: {run['error']}\n" for run in runs if "error" in run]
    if failed:
        parts.append("Failed:\n\n" + "".join(failed))
    return "\n".join(parts)


def figures(runs: Iterable[Mapping[str, Any]], peer: str, batch_size: int, key: str) -> dict[int, float]:
    """Round → figure, of the measurements that succeeded."""
    return {
        run["round"]: run[key]
        for run in runs
        if run["kind"] == "speed" and run["peer"] == peer and run["batch_size"] == batch_size and key in run
    }


def ratio(runs: list[Mapping[str, Any]], ours: str, theirs: str, batch_size: int) -> dict[int, float]:
    """Round → our rows per second over theirs, of the rounds in which both succeeded."""
    a, b = (figures(runs, name, batch_size, "rows_per_second") for name in (ours, theirs))
    return {round_: a[round_] / b[round_] for round_ in a.keys() & b.keys()}


def spread(values: Mapping[int, float], form: str) -> str:
    """The median, and the lowest and highest when there are several."""
    if not values:
        return "failed"
    median = form.format(statistics.median(values.values()))
    if len(values) == 1:
        return median
    return f"{median} ({form.format(min(values.values()))}–{form.format(max(values.values()))})"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
