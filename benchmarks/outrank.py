"""`clickherd select` beside outbrain's outrank, on the same rows: time, agreement, and where columns of noise end up.

    python benchmarks/outrank.py --rows 1000000

The rows are the categorical columns of the built-in click log, and of every second one a copy whose values are
shuffled: as many values, equally frequent, that tell nothing. outrank runs with its default heuristic
(MI-numba-randomized) on all rows, in its own environment under benchmarks/.envs, on as many threads as clickherd.
Seconds are those of the processor, user and system, of the whole command, reading included: of clickherd without any
cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import numpy as np
import polars as pl
from command import CLICKHERD
from peers.environments import OUTRANK
from scipy.stats import spearmanr

NOISE = "noise of "


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = write_log(folder, args.rows)
        found = {"clickherd": run_clickherd(folder, args.threads), "outrank": run_outrank(folder, args.threads)}
    scores = {trainer: run.pop("scores") for trainer, run in found.items()}
    columns = sorted(scores["clickherd"])
    assert set(columns) == set(scores["outrank"])
    correlation = spearmanr(*([scores[trainer][column] for column in columns] for trainer in found)).statistic
    useful = [column for column in columns if not column.startswith(NOISE)]
    of_useful = spearmanr(*([scores[trainer][column] for column in useful] for trainer in found)).statistic
    for trainer, run in found.items():
        own = scores[trainer]
        run["above_own_noise"] = sum(own[column] > own[NOISE + column] for column in originals)
        run["above_all_noise"] = sum(own[column] > max(own[NOISE + c] for c in originals) for column in useful)
    result = {
        "machine": host.describe(("numpy", "numba", "polars")),
        "command": host.command(),
        "rows": args.rows,
        "threads": args.threads,
        "columns": len(columns),
        "with_noise": len(originals),
        "spearman": correlation,
        "spearman_without_noise": of_useful,
        "packages": {n: v for n, v in OUTRANK.packages().items() if n in ("outrank", "numba", "numpy", "pandas")},
        **found,
        "scores": scores,
    }
    path = args.out / "outrank.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(result))
    print(table(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def write_log(folder: Path, rows: int) -> list[str]:
    """Write log/data.csv; returns the columns that have a copy of noise."""
    subprocess.run([CLICKHERD, "data", "synth", "--rows", str(rows), "--out", folder / "log.parquet"], check=True)
    frame = pl.read_parquet(folder / "log.parquet")
    columns = [name for name in frame.columns if name.startswith("C")]
    rng = np.random.default_rng(1)
    noise = [frame[name].gather(rng.permutation(rows)).alias(NOISE + name) for name in columns[::2]]
    (folder / "log").mkdir()
    frame.select(["label", *columns]).with_columns(noise).fill_null("").write_csv(folder / "log/data.csv")
    return columns[::2]


def run_clickherd(folder: Path, threads: int) -> dict[str, Any]:
    command = [CLICKHERD, "select", "log/data.csv", "--label", "label"]
    settings = ["--min-count", 1, "--pairs", 0, "--keep", 1, "--threads", threads, "--json", "--out", "selected"]
    settings += ["--set", "data.valid_fraction=0", "--set", "data.test_fraction=0"]
    variables = {"CLICKHERD_CACHE": str(folder / "cache"), "POLARS_MAX_THREADS": str(threads)}
    seconds, printed = timed([*command, *settings], folder, variables)
    features = json.loads(printed)["features"]
    return {"seconds": seconds, "scores": {feature["name"]: feature["score"] for feature in features}}


def run_outrank(folder: Path, threads: int) -> dict[str, Any]:
    OUTRANK.make()
    options = {
        "task": "ranking",
        "data_path": "log",
        "data_source": "csv-raw",
        "heuristic": "MI-numba-randomized",
        "subsampling": 1,
        "num_threads": threads,
        "label_column": "label",
        "output_folder": "ranked",
        "disable_tqdm": True,
        "include_cardinality_in_feature_names": False,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    seconds, _ = timed([OUTRANK.python.with_name("outrank"), *flags], folder, {})
    ranks = pl.read_csv(folder / "ranked/pairwise_ranks.tsv", separator="\t").filter(pl.col("FeatureB") == "label")
    ranks = ranks.filter(pl.col("FeatureA") != "label")
    return {"seconds": seconds, "scores": dict(zip(ranks["FeatureA"], ranks["Score"], strict=True))}


def timed(command: list[Any], folder: Path, variables: dict[str, str]) -> tuple[float, str]:
    """Seconds of the processor, and what the command printed.

    Raises:
        SystemExit: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **variables},
        check=False,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2), done.stdout


def table(result: dict[str, Any]) -> str:
    head = ("", "processor seconds", "columns above their own noise", "useful columns above all noise")
    useful = result["columns"] - result["with_noise"]
    lines = [head, ["---"] * len(head)] + [
        (
            name,
            f"{result[name]['seconds']:,.1f}",
            f"{result[name]['above_own_noise']} of {result['with_noise']}",
            f"{result[name]['above_all_noise']} of {useful}",
        )
        for name in ("clickherd", "outrank")
    ]
    ratio = result["outrank"]["seconds"] / result["clickherd"]["seconds"]
    parts = [
        f"{result['rows']:,} rows, {useful} categorical columns of the built-in click log, {result['with_noise']} of "
        "them once more with their values shuffled; the whole command, reading included.",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        f"{ratio:.0f} times fewer processor seconds. Rank correlation of the scores (Spearman): "
        f"{result['spearman']:.2f}, of the columns that are no noise {result['spearman_without_noise']:.2f}.",
        f"`{' '.join(result['command'])}`, {result['machine']['cpu']}, {result['threads']} thread(s), "
        f"outrank {result['packages']['outrank']}, {result['machine']['date'][:10]}.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
