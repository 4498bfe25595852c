"""Other tables than a row of 32-bit numbers for each value: hashed, one for all fields, in 8 bits from the first step.

    CLICKHERD_DATA=FOLDER python benchmarks/unified.py [--data-sets movielens_1m generated] [--threads 1]

DeepFM (128-128) on MovieLens-1M (random split, eight epochs at batch 8,192) and on 1,000,000 rows of the built-in click
log (default batch, early stopping). `whole` has a row for each value; `hashed` hashes every column of values into half
as many buckets; `unified` has one table that all fields share, with one or two look-ups a value and as many numbers as
`hashed`; `8 bits` is the whole table, trained in 8 bits. Bytes are those of the finished table. Runs are kept in
benchmarks/results/unified.json, none that is there is repeated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from kept_runs import KeptRuns
from tables import grid, mean_std
from value_selection import settings_of

from clickherd.config import Config, merge, resolve
from clickherd.data.prepare import Prepared
from clickherd.data.vocabulary import Vocabulary
from clickherd.evaluate import evaluate
from clickherd.runs import ready, train_prepared
from compression import ROWS, SETTINGS

KINDS = ("whole", "8 bits", "hashed", "unified, one look-up", "unified, two look-ups")
HEAD = ["data", "table", "seeds", "bytes", "validation AUC", "test AUC", "test log loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", nargs="+", default=["movielens_1m", "generated"], choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()), help="where the log is written")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    args = parser.parse_args()
    kept = KeptRuns(args.out / "unified.json", ("torch", "numba", "numpy"))
    for data in args.data_sets:
        for kind in KINDS:
            for seed in args.seeds:
                of_all = {"train": {"epochs": 20, "patience": 2}}
                settings = merge(merge(settings_of(data, seed, args.log, args.threads, ROWS), of_all), SETTINGS[data])
                key = {"data": data, "kind": kind, "seed": seed}
                kept.run(key, partial(trained, settings, kind))
    kept.write(table(kept.runs))


def trained(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """One model from scratch."""
    config, prepared = ready(resolve(settings), lambda _: None)
    if kind != "whole":
        config, prepared = ready(resolve(merge(settings, halved(config, prepared, kind))), lambda _: None)
    with tempfile.TemporaryDirectory() as name:
        model, progress = train_prepared(config, prepared, Path(name) / "run")
        assert prepared.test is not None
        test = evaluate(model, prepared.test).scores
        rows = {name: tensor for name, tensor in model.tensors().items() if not name.startswith("net.")}
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in rows.values())
    return {"bytes": num_bytes, "valid": progress.history[progress.best_epoch - 1]["valid"], "test": test}


def halved(config: Config, prepared: Prepared, kind: str) -> dict[str, Any]:
    """The settings that take half of the numbers, or fewer bits for each."""
    if kind == "8 bits":
        return {"compression": {"trained_bits": 8}}
    sizes = {field.name: field.size for field in prepared.encoder.layout.fields}
    buckets = {
        name: max(1, size // 2 - 2)
        for name, size in sizes.items()
        if isinstance(prepared.encoder.embedded[name], Vocabulary)
    }
    if kind == "hashed":
        return {"data": {"hash_buckets": buckets}}
    width, wide = config.model.row_width, int(config.model.wide)
    rows = sum(sizes.values()) - sum(sizes[name] - buckets[name] - 2 for name in buckets)  # as `hashed` has
    lookups = 2 if kind.endswith("two look-ups") else 1
    numbers = rows * (width + wide)
    return {"compression": {"unified": {"rows": numbers // (width // lookups + wide), "lookups": lookups}}}


def table(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = []
    for data, kind in dict.fromkeys((run["data"], run["kind"]) for run in runs):
        of = [run for run in runs if (run["data"], run["kind"]) == (data, kind)]
        lines.append(
            [data, kind, str(len(of)), f"{of[0]['bytes']:,}", mean_std([run["valid"]["auc"] for run in of])]
            + [mean_std([run["test"][name] for run in of]) for name in ("auc", "logloss")]
        )
    return grid(HEAD, lines)


if __name__ == "__main__":
    main()
