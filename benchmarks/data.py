"""The encoded rows of the speed comparison, as plain NumPy files that every trainer can read.

    python benchmarks/data.py DATA [--rows 2000000] [--test-rows 200000] [--tail-exponent 1.235]

With --tail-exponent 1.235, two million training rows hold about 1.08 million ids; as the built-in log is, 444 thousand.
The option makes the popularity of ids fall off as k^(−1.235) in the fields of 90,000 ids and more, and changes nothing
else. The log goes through clickherd's own encoder, numeric columns scaled to [0, 1], and is written as

    meta.json             categorical fields and their number of ids, numeric columns, rows, the best reachable scores
    <split>_ids.npy       (N, S) int32: ids that count from 0 within each field
    <split>_numeric.npy   (N, K) float32
    <split>_labels.npy    (N,) float32: 0 or 1

for the splits train and test, each in random order, so that its first rows are a sample of all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.metrics import log_loss, roc_auc_score

from clickherd.data import click_model, synthetic
from clickherd.data.config import DataConfig
from clickherd.data.prepare import Prepared, prepare
from clickherd.data.store import Layout, Store

CHUNK_ROWS = 262_144


def main() -> None:
    """Write the data folder, unless it is there."""
    args = read_arguments()
    if (args.out / "meta.json").exists():
        raise SystemExit(f"{args.out} holds encoded rows already")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out) as scratch:
        prepared = encode(Path(scratch), args)
        assert prepared.valid is not None
        stores = {"train": prepared.train, "test": prepared.valid}
        for split, store in stores.items():
            export(store, args.out, split, np.random.default_rng(args.seed).permutation(len(store)))
        layout = prepared.encoder.layout
        meta = {
            "source": f"built-in click log, seed {args.seed}",
            "min_count": args.min_count,
            "tail_exponent": args.tail_exponent,
            "rows": {split: len(store) for split, store in stores.items()},
            "clicks": {split: round(float(np.mean(store.labels)), 4) for split, store in stores.items()},
            "ids": layout.num_ids,
            "best_reachable": best_reachable(stores["test"]),
            "fields": [{"name": field.name, "size": field.size} for field in layout.fields],
            "numeric": layout.numeric,
        }
    (args.out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print({key: meta[key] for key in ("rows", "clicks", "ids", "best_reachable")}, file=sys.stderr)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the data folder")
    parser.add_argument("--rows", type=int, default=2_000_000, help="training rows")
    parser.add_argument("--test-rows", type=int, default=200_000)
    parser.add_argument("--min-count", type=int, default=1, help="rarer values share one id")
    parser.add_argument("--tail-exponent", type=float, help="makes the tails of long-tailed fields longer: more ids")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def encode(scratch: Path, args: argparse.Namespace) -> Prepared:
    """Generate the rows and encode them. The test rows are spread evenly over the log, whose clicks drift in time."""
    log = scratch / "log.parquet"
    rows = args.rows + args.test_rows
    fields = synthetic.lengthened(args.tail_exponent) if args.tail_exponent else click_model.CATEGORICAL
    synthetic.write(log, rows, seed=args.seed, categorical=fields)
    number = pl.int_range(pl.len(), dtype=pl.Int64)
    is_test = number * args.test_rows % rows < args.test_rows
    for split, kept in {"train": ~is_test, "test": is_test}.items():
        pl.scan_parquet(log).filter(kept).sink_parquet(scratch / f"{split}.parquet")
    return prepare(
        scratch / "train.parquet",
        DataConfig(numeric="minmax", min_count=args.min_count),
        valid=scratch / "test.parquet",
        cache_dir=scratch / "cache",
        announce=lambda message: print(message, file=sys.stderr),
    )


def export(store: Store, folder: Path, split: str, order: npt.NDArray[np.int64]) -> None:
    """Write a store's columns as .npy files, rows in the given order."""
    layout: Layout = store.layout
    if len(layout.fields) != layout.num_single:
        raise SystemExit("the peers take single-valued fields only")
    offsets = np.array([field.offset for field in layout.fields], dtype=np.int32)
    columns: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
        "ids": ((len(store), layout.num_single), np.int32),
        "numeric": ((len(store), len(layout.numeric)), np.float32),
        "labels": ((len(store),), np.float32),
    }
    files = {
        name: np.lib.format.open_memmap(folder / f"{split}_{name}.npy", mode="w+", dtype=dtype, shape=shape)
        for name, (shape, dtype) in columns.items()
    }
    for start in range(0, len(store), CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, len(store))
        batch = store.take(order[start:stop])
        files["ids"][start:stop] = batch.ids - offsets
        files["numeric"][start:stop] = batch.numeric
        files["labels"][start:stop] = batch.labels
    for file in files.values():
        file.flush()


def best_reachable(store: Store) -> dict[str, Any]:
    """The scores of the true click probabilities, which no model can beat but by luck."""
    truth, labels = np.asarray(store.truth, np.float64), np.asarray(store.labels)
    return {"auc": round(roc_auc_score(labels, truth), 4), "logloss": round(log_loss(labels, truth), 4)}


if __name__ == "__main__":
    main()
