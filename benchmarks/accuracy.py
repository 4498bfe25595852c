"""Test AUC and log loss on public click data: logistic regression, LightGBM, and clickherd beside them.

    CLICKHERD_DATA=FOLDER python benchmarks/accuracy.py [--data-sets movielens_1m …] [--clickherd]

All models get the same rows: the splits are written once as Parquet files, from which clickherd's command line reads.
Every model's settings are chosen on the validation rows; test rows are scored once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from baselines import Roles, baselines
from datasets import DATA_SETS, Splits, crossed

COMMAND_LINE = [sys.executable, "-c", "import sys; from clickherd.cli import main; sys.exit(main())"]


def main() -> None:
    """Measure the data sets asked for; the result is written after each."""
    args = read_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"baselines-{args.machine}.json"
    result: dict[str, Any] = {
        "machine": host.describe(("scikit-learn", "lightgbm", "polars", "torch", "numba")),
        "command": host.command(),
        "data_sets": {},
    }
    for name in args.data_sets:
        data = DATA_SETS[name]
        splits, roles = data.splits()
        clicks = [int(frame[roles.label].sum()) for frame in splits]
        entry: dict[str, Any] = {
            "rows": [len(frame) for frame in splits],
            "clicks": clicks,
            "note": data.note,
            "models": {},
        }
        if not args.skip_baselines:
            frames, with_crosses = crossed(splits, roles, args.cross)
            entry["models"] |= baselines(*frames, with_crosses)
        if args.clickherd:
            entry["models"]["clickherd"] = clickherd(splits, roles, args)
        result["data_sets"][name] = entry
        file.write_text(json.dumps(result, indent=1) + "\n")
        print(table({name: entry}), file=sys.stderr, flush=True)
    text = f"{header(result)}\n{table(result['data_sets'])}"
    file.with_suffix(".md").write_text(text)
    print(text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--skip-baselines", action="store_true")
    parser.add_argument("--clickherd", action="store_true", help="also train clickherd")
    parser.add_argument("--recipe", type=Path, help="clickherd's settings, instead of its defaults")
    parser.add_argument("--cross", nargs="*", default=[], metavar="A*B", help="columns that the baselines get crossed")
    parser.add_argument("--set", nargs="*", default=[], help="further settings for clickherd, as key=value")
    parser.add_argument("--seeds", type=int, default=3, help="clickherd is trained with seeds 0, 1, …")
    parser.add_argument("--machine", default=host.slug(), help="name of the machine in the result's file name")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def clickherd(splits: Splits, roles: Roles, args: argparse.Namespace) -> dict[str, Any]:
    """Scores of `clickherd train` over the seeds, as mean and standard deviation."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{part}.parquet" for part in ("train", "valid", "test")]
        for frame, path in zip(splits, paths, strict=True):
            frame.write_parquet(path)
        command = [*COMMAND_LINE, "train", paths[0], "--valid", paths[1], "--test", paths[2], "--json", "--no-report"]
        command += ["--label", roles.label]
        command += ["--recipe", args.recipe] if args.recipe else []
        for setting in [f"data.roles={json.dumps(column_roles(roles))}", *args.set]:
            command += ["--set", setting]
        for seed in range(args.seeds):
            seeded = [*command, "--seed", seed, "--out", Path(folder) / f"run-{seed}"]
            start = time.perf_counter()
            done = subprocess.run([str(part) for part in seeded], stdout=subprocess.PIPE, text=True, check=True)
            metrics: dict[str, Any] = json.loads(done.stdout)
            del metrics["run"]  # a temporary folder
            runs.append(metrics | {"wall_seconds": round(time.perf_counter() - start, 1)})
    test = {key: [run["test"][key] for run in runs] for key in ("auc", "logloss")}
    valid = {key: statistics.mean(run["valid"][key] for run in runs) for key in ("auc", "logloss")}
    spread = {f"{key}_std": statistics.stdev(values) for key, values in test.items() if len(values) > 1}
    settings = {"model": runs[0]["model"], "batch_size": runs[0]["batch_size"], "seeds": args.seeds}
    mean = {key: statistics.mean(values) for key, values in test.items()}
    return {"test": mean | spread, "valid": valid, "settings": settings, "runs": runs}


def column_roles(roles: Roles) -> dict[str, str]:
    """Column → role, as clickherd's settings take it."""
    named = {"numeric": roles.numeric, "categorical": roles.categorical, "multi": roles.multi}
    return {column: role for role, columns in named.items() for column in columns}


def header(result: Mapping[str, Any]) -> str:
    of = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in of["packages"].items())
    return f"{of['cpu']}, {of['cores']} cores; {versions}; {of['date']}.\nCommand: `{' '.join(result['command'])}`\n"


def table(data_sets: Mapping[str, Any]) -> str:
    """The scores in Markdown."""
    lines = ["| data | model | test AUC | test logloss | valid AUC | settings |", "|" + " --- |" * 6]
    for name, entry in data_sets.items():
        for title, model in entry["models"].items():
            test = [with_spread(model["test"], key) for key in ("auc", "logloss")]
            settings = ", ".join(f"{key} {value}" for key, value in model["settings"].items())
            lines.append(f"| {name} | {title} | {' | '.join(test)} | {model['valid']['auc']:.4f} | {settings} |")
    notes = [
        f"- {name}: {by_split(entry['rows'])} rows, {by_split(entry['clicks'])} clicks; {entry['note']}"
        for name, entry in data_sets.items()
    ]
    return "\n".join([*lines, "", *notes, ""])


def by_split(counts: list[int]) -> str:
    return " / ".join(f"{count:,}" for count in counts)


def with_spread(figures: Mapping[str, float], key: str) -> str:
    """`.8123 ± .0004`."""
    deviation = f" ± {figures[f'{key}_std']:.4f}" if f"{key}_std" in figures else ""
    return f"{figures[key]:.4f}{deviation}"


if __name__ == "__main__":
    main()
