"""Train DeepFM on the built-in click log, beside logistic regression and the best that is possible.

    python examples/demo.py [--rows 2000000] [--out runs]

This is what `make demo` runs. It is also the Python API in one page: write a log, train two runs, read their scores.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clickherd import machine
from clickherd.config import Config, resolve
from clickherd.data import synthetic
from clickherd.progress import RichObserver
from clickherd.reporting import best_possible
from clickherd.runs import prepare_sources, train_run

BATCH_SIZE = 65_536
err = Console(stderr=True)


def say(message: str) -> None:
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def settings(model: str, log: Path) -> Config:
    """One large batch size for both; `true_probability` in the log is never a feature.

    The minimum count and the smaller network were chosen on the log's validation rows; all but the number of
    epochs is the default.
    """
    return resolve(
        {
            "source": {"data": [str(log)]},
            "data": {"label": "label", "min_count": 10},
            "model": {"name": model} | ({"mlp": {"hidden_units": [128, 128]}} if model == "deepfm" else {}),
            "train": {"batch_size": BATCH_SIZE, "epochs": 8},
        }
    )


def train(config: Config, folder: Path, *, report: bool) -> dict[str, Any]:
    """One run, anew."""
    shutil.rmtree(folder, ignore_errors=True)
    return train_run(config, folder, announce=say, observer=RichObserver(err), report=report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    log = args.out / f"demo-log-{args.rows}.parquet"
    if not log.exists():
        say(f"writing {args.rows:,} rows of the built-in click log")
        synthetic.write(log, args.rows)
    linear = train(settings("lr", log), args.out / "demo-lr", report=False)
    deep = train(settings("deepfm", log), args.out / "demo", report=True)
    test = prepare_sources(settings("deepfm", log), lambda message: None).test
    assert test is not None
    best = best_possible(test)
    assert best is not None

    table = Table("", "test AUC", "test logloss", title=f"{deep['rows']['test']:,} test rows, batch {BATCH_SIZE:,}")
    for name, scores in (("logistic regression", linear["test"]), ("DeepFM", deep["test"])):
        table.add_row(name, f"{scores['auc']:.4f}", f"{scores['logloss']:.4f}")
    table.add_row("best reachable", f"{best['auc']:.4f}", f"{best['logloss']:.4f}")
    closed = (deep["test"]["auc"] - linear["test"]["auc"]) / (best["auc"] - linear["test"]["auc"])
    console = Console()
    console.print(table)
    console.print(
        f"DeepFM closes {closed:.0%} of the gap in AUC between logistic regression and the best reachable, "
        f"at {deep['samples_per_second']:,.0f} rows/s on {machine.describe()}.",
        highlight=False,
    )
    console.print(f"Open {args.out / 'demo' / 'report.html'}", highlight=False)


if __name__ == "__main__":
    main()
