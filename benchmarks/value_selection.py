"""A model whose values were chosen by OptFS, beside the one that has them all and the one of the most frequent.

    CLICKHERD_DATA=FOLDER python benchmarks/value_selection.py [--data-sets generated frappe_x1] [--threads 1]

The penalty is the one with the best validation AUC of the first seed, of those that keep at most 30% of the values (if
none does, of all); every penalty's search and training from scratch is in the results. Beside it `min_count` is raised
until no more values are left: what frequency alone would have chosen; and OptEmbed chooses values and lengths of rows,
half of the table's numbers at most. DeepFM (128-128), the default settings, at most
ten epochs with early stopping; searches of five epochs (generated rows) or ten. `generated` is 150,000 rows of the
built-in click log. Runs are kept in benchmarks/results/value-selection.json, none that is there is repeated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
from common_gradient import written
from datasets import root
from kept_runs import KeptRuns
from tables import grid, mean_std

from clickherd.config import Config, merge, resolve
from clickherd.data.features import load_features
from clickherd.data.prepare import Prepared
from clickherd.evaluate import evaluate
from clickherd.runs import ready, train_prepared
from clickherd.selection.optembed import OptEmbedConfig
from clickherd.selection.optfs import OptFSConfig
from clickherd.selection.sizes import EPOCHS as SIZE_EPOCHS
from clickherd.selection.sizes import select_sizes
from clickherd.selection.values import select_values

PENALTIES = {"generated": (0.3, 1.0, 2.0, 4.0), "frappe_x1": (1.0, 4.0, 8.0), "movielens_1m": (1.0, 4.0, 16.0)}
SEARCHED = {"generated": 5, "frappe_x1": 10, "movielens_1m": 10}  # epochs
MOST = 0.3  # of the values
BUDGET = 0.5  # of the numbers
HEAD = ["data", "values", "seeds", "of all values", "of all numbers", "validation AUC", "test AUC", "test log loss"]


def main() -> None:
    args = arguments()
    kept = KeptRuns(args.out / "value-selection.json", ("torch", "numba", "numpy"))

    def run(data: str, kind: str, setting: float | None, seed: int) -> None:
        settings = settings_of(data, seed, args.log, args.threads)
        key = {"data": data, "kind": kind, "setting": setting, "seed": seed}
        kept.run(key, lambda: train(settings, kind, setting, SEARCHED[data]))

    for name in args.data_sets:
        first, *others = args.seeds
        for seed in args.seeds:
            run(name, "all", None, seed)
        for penalty in PENALTIES[name]:
            run(name, "optfs", penalty, first)
        tried = [one for one in kept.runs if (one["data"], one["kind"], one["seed"]) == (name, "optfs", first)]
        small = [one for one in tried if one["share"] <= MOST] or tried
        chosen = max(small, key=lambda one: one["valid"]["auc"])
        for seed in others:
            run(name, "optfs", chosen["setting"], seed)
        for seed in args.seeds:
            run(name, "frequent", chosen["kept"], seed)
            run(name, "optembed", BUDGET, seed)
    kept.write(table(kept.runs))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-sets", nargs="+", default=list(PENALTIES), choices=list(PENALTIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()), help="where the log is written")
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def table(runs: list[dict[str, Any]]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = []
    for key in dict.fromkeys((run["data"], run["kind"], run["setting"]) for run in runs):
        group = [run for run in runs if (run["data"], run["kind"], run["setting"]) == key]
        titles = {"all": "all", "optfs": f"OptFS, penalty {key[2]}", "frequent": "the most frequent"}
        title = (titles | {"optembed": f"OptEmbed, budget {key[2]}"})[key[1]]
        shares = [(run["share"], run.get("numbers", run["share"])) for run in group]
        lines.append(
            [key[0], title, str(len(group))]
            + [f"{sum(of) / len(of):.1%}" for of in zip(*shares, strict=True)]
            + [mean_std([run["valid"]["auc"] for run in group])]
            + [mean_std([run["test"][name] for run in group]) for name in ("auc", "logloss")]
        )
    return grid(HEAD, lines)


def settings_of(data: str, seed: int, log: Path, threads: int | None, rows: int = 150_000) -> dict[str, Any]:
    """Of the training; `log` is the folder where the generated rows are, `rows` their number."""
    if data == "generated":
        source = {"data": [str(written(log, rows))]}
    else:
        names = {"data": "train_reconstructed", "valid": "valid", "test": "test"}
        if data == "movielens_1m":
            names = {"data": "flat_train", "valid": "flat_valid", "test": "flat_test"}
        source = {part: [str(root() / data / f"{name}.parquet")] for part, name in names.items()}
    return {
        "source": source,
        "model": {"name": "deepfm", "mlp": {"hidden_units": [128, 128]}},
        "train": {"epochs": 10, "seed": seed, "threads": threads},
    }


def train(settings: dict[str, Any], kind: str, setting: float | None, epochs: int) -> dict[str, Any]:
    """One model from scratch, with the values of its kind."""
    config, prepared = ready(resolve(settings), lambda _: None)
    of, numbers_of = number_of_values(prepared), numbers(config, prepared)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind in ("optfs", "optembed"):
            assert setting is not None
            search = resolve(merge(settings, {"train": {"epochs": epochs if kind == "optfs" else SIZE_EPOCHS}}))
            if kind == "optfs":
                select_values(search, OptFSConfig(penalty=setting), folder / "selected")
            else:
                select_sizes(search, OptEmbedConfig(share=setting), folder / "selected")
            chosen = load_features(folder / "selected/features.yaml")
            data = {"features": list(chosen.features), "kept_values": chosen.values}
            changed = {"data": data, "compression": {"dims": chosen.dims.of if chosen.dims else {}}}
            config, prepared = ready(resolve(merge(settings, changed)), lambda _: None)
        elif kind == "frequent":
            count = 2
            while number_of_values(prepared) > (setting or 0):
                count += 1
                config, prepared = ready(resolve(merge(settings, {"data": {"min_count": count}})), lambda _: None)
        model, progress = train_prepared(config, prepared, folder / "run")
        assert prepared.test is not None
        test = evaluate(model, prepared.test).scores
    kept = number_of_values(prepared)
    return {
        "kept": kept,
        "share": kept / of,
        "numbers": numbers(config, prepared) / numbers_of,
        "epoch": progress.best_epoch,
        "valid": progress.history[progress.best_epoch - 1]["valid"],
        "test": test,
    }


def numbers(config: Config, prepared: Prepared) -> int:
    """Of all rows of the table, linear weights left out."""
    dims, width = config.compression.dims, config.model.row_width
    fields = (field for field in prepared.encoder.layout.fields if field.target is None)
    return sum(field.size * dims.get(field.name, width) for field in fields)


def number_of_values(prepared: Prepared) -> int:
    """Ids but for the unknown and the missing one of each field."""
    return sum(field.size - 2 for field in prepared.encoder.layout.fields if field.target is None)


if __name__ == "__main__":
    main()
