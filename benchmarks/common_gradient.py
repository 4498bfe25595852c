"""What becomes of a model when all, a share or nothing is kept of what the gradients of a field have in common.

    python benchmarks/common_gradient.py [--threads 1]

The rule `root` keeps 1/s of it at s times the base batch (src/clickherd/optim/scaling.py). Rows are those of the
built-in click log, 39 columns: 150,000 at batches of 2,048 and 8,192 for LR, FM and DeepFM (128-128), 2,000,000 at
65,536 for DeepFM; three epochs without early stopping, the default settings otherwise, one seed. Scores are those of
the validation rows at the best epoch; runs are kept in benchmarks/results/common-gradient.json, none is repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from command import CLICKHERD
from tables import grid

from clickherd.config import resolve
from clickherd.optim import scaling
from clickherd.runs import ready, train_prepared

SHARES = {"all": 0.0, "1/√s": -0.5, "1/s": -1.0, "nothing": -math.inf}  # exponents of s
SMALL, LARGE = 150_000, 2_000_000
TRIALS = [(SMALL, size, model) for size in (2_048, 8_192) for model in ("lr", "fm", "deepfm")] + [
    (LARGE, 65_536, "deepfm")
]
HEAD = ["rows", "batch", "model", "kept", "AUC", "log loss", "predicted / actual clicks", "epoch"]


def main() -> None:
    args = arguments()
    path = args.out / "common-gradient.json"
    result = json.loads(path.read_text()) if path.exists() else {"runs": []}
    result |= {"machine": host.describe(("torch", "numba", "numpy")), "command": host.command()}
    done = {(run["rows"], run["batch"], run["model"], run["kept"]) for run in result["runs"]}
    for rows, size, model in TRIALS:
        for kept in SHARES:
            if (rows, size, model, kept) not in done:
                result["runs"].append(trained(written(args.data, rows), rows, size, model, kept, args.threads))
                path.write_text(json.dumps(result, indent=1) + "\n")
                print(json.dumps(result["runs"][-1]), flush=True)
    path.with_suffix(".md").write_text(table(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()), help="where the log is written")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def written(folder: Path, rows: int) -> Path:
    path = folder / f"clickherd-log-{rows}.parquet"
    if not path.exists():
        subprocess.run([CLICKHERD, "data", "synth", "--rows", str(rows), "--out", path], check=True)
    return path


def trained(log: Path, rows: int, size: int, model: str, kept: str, threads: int | None) -> dict[str, Any]:
    network: dict[str, Any] = {"mlp": {"hidden_units": [128, 128]}} if model == "deepfm" else {}
    settings = {
        "source": {"data": [str(log)]},
        "model": {"name": model, **network},
        "train": {"batch_size": size, "epochs": 3, "patience": None, "threads": threads},
    }
    with patch.dict(scaling.COMMON, {"root": SHARES[kept]}), tempfile.TemporaryDirectory() as folder:
        config, prepared = ready(resolve(settings), lambda _: None)
        _, progress = train_prepared(config, prepared, Path(folder) / "run")
    return {
        "rows": rows,
        "batch": size,
        "model": model,
        "kept": kept,
        "epoch": progress.best_epoch,
        "valid": progress.history[progress.best_epoch - 1]["valid"],
        "seconds": round(progress.seconds, 1),
    }


def table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        [
            f"{run['rows']:,}",
            f"{run['batch']:,}",
            run["model"],
            run["kept"],
            *(f"{run['valid'][name]:.4f}" for name in ("auc", "logloss")),
            f"{run['valid']['calibration']:.3f}",
            str(run["epoch"]),
        ]
        for run in result["runs"]
    ]
    return (
        f"`{' '.join(result['command'])}`, {machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}.\n\n"
        + grid(HEAD, lines)
    )


if __name__ == "__main__":
    main()
