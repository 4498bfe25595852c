"""One measurement, one process: in the peer's own environment, held to so many threads, given up after so long."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import host
from peers.environments import DEFAULT, KNOWN, MODELS, PEERS, InstallError, Peer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every comparison of peers asks for."""
    parser.add_argument("data", type=Path, help="folder written by benchmarks/data.py")
    parser.add_argument("--peers", nargs="+", choices=KNOWN, default=DEFAULT, metavar="PEER", help=", ".join(KNOWN))
    parser.add_argument("--model", choices=MODELS, default="deepfm", help="the network")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds after which a measurement is given up")
    parser.add_argument("--budget", type=float, default=900, help="seconds of training; trees in speed.py only")
    add_machine_arguments(parser)


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark asks for: threads, and where its files go."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--machine", default=host.slug(), help="name of the machine in the result's file name")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    parser.add_argument("--scratch", type=Path, help="where files go for the time being; the system's temporary folder")


def able(args: argparse.Namespace) -> list[str]:
    """The peers that have the network in question."""
    return [name for name in args.peers if not KNOWN[name].lacks(args.model)]


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """Make the peers' environments; the head of the result, without runs yet."""
    missing = install(able(args))
    meta = json.loads((args.data / "meta.json").read_text())
    return {
        **head(args),
        "model": args.model,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "each library's own"),
        "budget_seconds": args.budget,
        "data": {key: meta[key] for key in ("rows", "ids", "best_reachable") if key in meta},
        "peers": {name: KNOWN[name].environment.packages() for name in able(args) if name not in missing},
        "missing": missing,
        "left_out": {name: why for name in args.peers if (why := KNOWN[name].lacks(args.model))},
        "runs": [],
    }


def head(args: argparse.Namespace) -> dict[str, Any]:
    """The machine and the command, with which every result begins."""
    machine = host.describe(("torch", "numba", "numpy", "polars"))
    return {"machine": machine, "command": host.command(), "threads": args.threads}


def result_file(args: argparse.Namespace, what: str) -> Path:
    """Where the result goes; the network is named unless it is DeepFM."""
    args.out.mkdir(parents=True, exist_ok=True)
    model = "" if getattr(args, "model", "deepfm") == "deepfm" else f"-{args.model}"
    folder: Path = args.out
    return folder / f"{what}{model}-{args.machine}.json"


def compare(
    args: argparse.Namespace,
    what: str,
    result: dict[str, Any],
    runs: Iterable[Mapping[str, Any]],
    progress_line: Callable[[Mapping[str, Any]], str],
    table: Callable[[Mapping[str, Any]], str],
) -> None:
    """Measure; the result is written after every measurement, its table at the end."""
    file = result_file(args, what)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for run in carry_out(result, runs, args, Path(scratch), file):
            tell(progress_line(run))
    write_table(file, table(result))


def write_table(file: Path, text: str) -> None:
    """Write a result's table beside it, and print it."""
    file.with_suffix(".md").write_text(text)
    print(text)


def install(peers: Iterable[str]) -> dict[str, str]:
    """Make the peers' environments; peer → why there is none."""
    return install_all({name: KNOWN[name] for name in peers})


def install_all(peers: Mapping[str, Peer]) -> dict[str, str]:
    """As `install`, for peers that may be others than those of KNOWN."""
    missing = {}
    for name, peer in peers.items():
        try:
            peer.environment.make()
        except InstallError as error:
            missing[name] = str(error)
    return missing


def carry_out(
    result: dict[str, Any], runs: Iterable[Mapping[str, Any]], args: argparse.Namespace, scratch: Path, file: Path
) -> Iterable[dict[str, Any]]:
    """Measure one run after the other; the result is written after each, so that a cut-off run leaves what it has."""
    for run in runs:
        why = result["missing"].get(run["peer"])
        result["runs"].append({**run, **({"error": f"not installed: {why}"} if why else measure(run, args, scratch))})
        file.write_text(json.dumps(result, indent=1) + "\n")
        yield result["runs"][-1]


def measure(run: Mapping[str, Any], args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The figures of one measurement, or why there are none."""
    peer = KNOWN[run["peer"]]
    command = [peer.environment.python, PEERS / peer.runner, "--data", args.data, "--scratch", scratch]
    batch_size = run.get("training_batch_size", run["batch_size"])
    command += ["--rows", run["rows"], "--batch-size", batch_size, "--threads", args.threads, "--model", args.model]
    command += ["--seed", run["round"], "--variant", peer.variant, "--budget", args.budget]
    command += ["--measure", run["measure"], *run.get("options", [])]
    return answer_of(command, environment(peer, args.threads), args.timeout)


def answer_of(command: Iterable[object], variables: Mapping[str, str], timeout: float) -> dict[str, Any]:
    """The JSON object that a command prints, with the load before and the time of day; or why there is none."""
    load = os.getloadavg()[0]
    process = subprocess.Popen(
        [str(part) for part in command],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer, complaint = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its loader's worker processes too
        process.communicate()
        return {"error": f"gave up after {timeout:.0f} s"}
    if process.returncode != 0 or not answer:
        killed = f"ended by signal {-process.returncode}, perhaps out of memory " if process.returncode < 0 else ""
        reason = " | ".join(complaint.strip().splitlines()[-2:]).replace(str(host.REPOSITORY), ".")
        return {"error": killed + (reason or "ended without a word")}
    # the last line: DeepCTR-Torch asks for its newest version in a thread, which may print before stdout is taken away
    measured: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return measured | {"load_average_before": load, "at": time.strftime("%H:%M:%S")}


def environment(peer: Peer, threads: int) -> dict[str, str]:
    """The environment variables of a measurement: every library is held to the same number of threads."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    limits = {f"{pool}_NUM_THREADS": str(threads) for pool in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    source = {} if peer.environment.steps else {"PYTHONPATH": str(host.REPOSITORY / "src")}
    return {**inherited, **limits, **source, "POLARS_MAX_THREADS": str(threads), "RAY_USAGE_STATS_ENABLED": "0"}


def tell(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
