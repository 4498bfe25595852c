"""The scaling rules against each other: one base recipe, several batch sizes, rules and seeds, on any log.

    python benchmarks/large_batch.py train.parquet --valid valid.parquet --test test.parquet --label label \\
        --base-batch 1024 --batch-sizes 65536 --seeds 0 1 2 --epochs 10 --name movielens-1m

Hyper-parameters belong to the base batch size (`--set optim.l2=…`); the rules carry them. Each run keeps the weights
of its best validation epoch and is scored on the test rows once. Results are appended to a JSON file as they come: a
run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from clickherd import machine
from clickherd.config import merge, parse_assignments, resolve
from clickherd.data.prepare import Prepared
from clickherd.evaluate import evaluate
from clickherd.network import ClickModel
from clickherd.optim.scaling import EXPONENTS, scaled
from clickherd.runs import prepare_sources
from clickherd.runtime import seeded, use_threads
from clickherd.train import Trainer

RESULTS = Path(__file__).parent / "results"


def one_run(settings: dict[str, Any], prepared: Prepared) -> dict[str, Any]:
    """Train and judge once."""
    config = resolve(settings)
    with seeded(config.train.seed), tempfile.TemporaryDirectory() as folder:
        model = ClickModel(config.model, prepared.encoder.layout, init_std=config.optim.init_std)
        trainer = Trainer(config, model, prepared.train, prepared.valid, Path(folder))
        progress = trainer.run()
    assert prepared.test is not None
    scores = evaluate(model, prepared.test).scores
    return {
        "batch_size": trainer.batch_size,
        "rule": config.optim.rule,
        "seed": config.train.seed,
        "hyper": vars(scaled(config.optim, trainer.batch_size)),
        "test_auc": scores["auc"],
        "test_logloss": scores["logloss"],
        "best_epoch": progress.best_epoch,
        "valid_auc": [record["valid"]["auc"] for record in progress.history],
        "clipped_fraction": [record["clipped_fraction"] or 0.0 for record in progress.history],
        "train_seconds": progress.seconds,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds, a line per batch size and rule."""
    lines = [
        "| batch | rule | seeds | test AUC | test logloss | best epoch | training seconds | rows clipped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((run["batch_size"], run["rule"]) for run in runs):
        group = [run for run in runs if (run["batch_size"], run["rule"]) == key]

        def spread(name: str, group: list[dict[str, Any]] = group) -> str:
            values = [run[name] for run in group]
            deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            return f"{statistics.mean(values):.4f}{deviation}"

        epochs = "/".join(str(run["best_epoch"]) for run in group)
        seconds = statistics.mean(run["train_seconds"] for run in group)
        clipped = statistics.mean(statistics.mean(run["clipped_fraction"]) for run in group)
        off = "–" if key[1] != "cowclip" else f"{clipped:.3%}"
        lines.append(
            f"| {key[0]:,} | {key[1]} | {len(group)} | {spread('test_auc')} | {spread('test_logloss')} | {epochs} "
            f"| {seconds:.0f} | {off} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--valid", nargs="*", default=[])
    parser.add_argument("--test", nargs="*", default=[])
    parser.add_argument("--label", default="label")
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--base-batch", type=int, default=1024)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[65_536])
    parser.add_argument("--rules", nargs="+", default=list(EXPONENTS), choices=list(EXPONENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", required=True, help="results go to benchmarks/results/large-batch-NAME.json")
    args = parser.parse_args()

    base: dict[str, Any] = {
        "source": {"data": args.data, "valid": args.valid, "test": args.test},
        "data": {"label": args.label},
        "model": {"name": args.model},
        "optim": {"base_batch_size": args.base_batch},
        "train": {
            "epochs": args.epochs,
            "patience": None,
            "micro_batch_size": 1024,
            "threads": args.threads,
            "precision": "fp32",  # the same tables on CPUs with and without bf16 units
        },
    }
    base = merge(base, parse_assignments(args.set))
    threads = use_threads(args.threads)
    prepared = prepare_sources(resolve(base), print)
    path = RESULTS / f"large-batch-{args.name}.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {"runs": []}
    names = {split: [Path(path).name for path in paths] for split, paths in base["source"].items()}
    results |= {"machine": f"{machine.describe()}, {threads} threads", "date": time.strftime("%Y-%m-%d")}
    results["base"] = {**base, "source": names}
    done = {(run["batch_size"], run["rule"], run["seed"]) for run in results["runs"]}
    for seed in args.seeds:
        for size in args.batch_sizes:
            for rule in args.rules:
                if (size, rule, seed) in done:
                    continue
                own = {"optim": {"rule": rule}, "train": {"batch_size": size, "seed": seed}}
                run = one_run(merge(base, own), prepared)
                results["runs"].append(run)
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(json.dumps({k: run[k] for k in ("batch_size", "rule", "seed", "test_auc", "test_logloss")}))
    text = table(results["runs"])
    path.with_suffix(".md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
