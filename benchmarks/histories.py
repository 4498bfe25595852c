"""MovieLens-1M with what each user liked before: every model, DeepFM without the history too, and LightGBM.

    CLICKHERD_DATA=FOLDER python benchmarks/histories.py [--seeds 0 1 2] [--models …]

The first eight tenths of each user's ratings train, the next validates, the last tests. A row's history is the user's
last 20 films that were liked (4 or 5 stars) before it, oldest first, wherever in the log they are. DIN takes them one
by one, every other model their mean. LightGBM takes no lists: it gets the number of those films and, for each genre,
the share of them that have it. All models of clickherd have its default settings and batch size (AutoInt+ is AutoInt
with the other models' MLP) and get eight epochs; runs are kept in benchmarks/results/histories.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import polars as pl
from baselines import Roles, gradient_boosting, tree_features
from datasets import MOVIELENS as CATEGORICAL
from datasets import movielens_ratings, root
from tables import mean_std

from clickherd.config import merge, resolve
from clickherd.runs import train_run
from clickherd.runtime import precision_on

LENGTH = 20
SPLITS = ("train", "valid", "test")
HISTORY = {"data": {"sequences": {"liked": "movie_id"}, "max_length": LENGTH}}
WITHOUT = {"data": {"roles": {"liked": "ignored"}}}
WITH_HISTORY: dict[str, dict[str, Any]] = {
    "DIN": {"name": "din"},
    "DIN, softmax": {"name": "din", "softmax": True},
    "DeepFM": {"name": "deepfm"},
    "LR": {"name": "lr"},
    "FM": {"name": "fm"},
    "Wide & Deep": {"name": "wide_deep"},
    "DCN": {"name": "dcn"},
    "DCN-v2": {"name": "dcnv2"},
    "DCN-v2 mixture": {"name": "dcnv2_mix"},
    "IPNN": {"name": "ipnn"},
    "EDCN": {"name": "edcn"},
    "MaskNet": {"name": "masknet"},
    "FinalMLP": {"name": "finalmlp"},
    "FinalNet": {"name": "finalnet"},
    "FCN": {"name": "fcn"},
    "RankMixer": {"name": "rankmixer"},
    "AutoInt": {"name": "autoint"},
    "AutoInt+": {"name": "autoint", "mlp": {}},
    "xDeepFM": {"name": "xdeepfm"},
    "FGCNN": {"name": "fgcnn"},
}
MODELS = {"DeepFM, no history": {"model": {"name": "deepfm"}} | WITHOUT} | {
    title: {"model": model} | HISTORY for title, model in WITH_HISTORY.items()
}


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "histories.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"runs": []}
    results["machine"] = host.describe(("torch", "numba", "lightgbm"))
    results["command"] = host.command()
    done = {(run["model"], run["seed"]) for run in results["runs"]}
    rows = split(read(root()))
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.parquet" for name in SPLITS}
        for frame, file in zip(rows, files.values(), strict=True):
            frame.write_parquet(file)
        for seed in args.seeds:
            for name in args.models:
                if (name, seed) in done or (name == "LightGBM" and (name, 0) in done):
                    continue
                found = lightgbm(rows) if name == "LightGBM" else clickherd(MODELS[name], files, seed, args.threads)
                results["runs"].append({"model": name, "seed": seed, **found})
                done.add((name, seed))
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(json.dumps(results["runs"][-1]), flush=True)
    path.with_suffix(".md").write_text(table(results, [len(frame) for frame in rows]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*MODELS, "LightGBM"]
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=host.RESULTS)
    return parser.parse_args()


def read(folder: Path) -> pl.DataFrame:
    """The ratings in each user's order of time, with what is known of user and film, and the films liked before."""
    return movielens_ratings(folder).pipe(with_liked).select("label", *CATEGORICAL, "genres", "liked")


def with_liked(ratings: pl.DataFrame) -> pl.DataFrame:
    """The last `LENGTH` films that the same user liked in earlier rows."""
    before: list[list[str]] = []
    user, liked = None, deque[str](maxlen=LENGTH)
    for row_user, movie, label in ratings.select("user_id", "movie_id", "label").iter_rows():
        if row_user != user:
            user, liked = row_user, deque[str](maxlen=LENGTH)
        before.append(list(liked))
        if label:
            liked.append(str(movie))
    return ratings.with_columns(pl.Series("liked", before, dtype=pl.List(pl.String)))


def split(ratings: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The first 80% of each user's rows, the next 10%, the last 10%."""
    place = (pl.int_range(pl.len()) / pl.len()).over("user_id")
    train, valid, test = (
        ratings.filter((place >= low) & (place < high)) for low, high in ((0, 0.8), (0.8, 0.9), (0.9, 1))
    )
    return train, valid, test


def clickherd(settings: dict[str, Any], files: dict[str, Path], seed: int, threads: int | None) -> dict[str, Any]:
    """A run with the default settings."""
    source = {"data": [str(files["train"])], "valid": [str(files["valid"])], "test": [str(files["test"])]}
    train = {"epochs": 8, "seed": seed, "threads": threads}
    config = resolve(merge({"source": source, "data": {"label": "label"}, "train": train}, settings))
    with tempfile.TemporaryDirectory() as folder:
        metrics = train_run(config, Path(folder) / "run", report=False)
    precision = precision_on(config.train.device, config.train.precision)
    scores = {name: {key: metrics[name][key] for key in ("auc", "logloss")} for name in ("valid", "test")}
    of_run = {key: metrics[key] for key in ("batch_size", "seconds")}
    return scores | of_run | {"epoch": metrics["best_epoch"], "precision": precision}


def lightgbm(rows: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]) -> dict[str, Any]:
    """Trees with the settings that are best on the validation rows."""
    frames = with_shares(rows)
    numeric = tuple(name for name in frames[0].columns if name.startswith("liked"))
    roles = Roles("label", numeric=numeric, categorical=CATEGORICAL, multi=("genres",))
    labels = tuple(frame["label"].to_numpy() for frame in frames)
    found = gradient_boosting(*tree_features(frames, roles), labels)
    return {key: found[key] for key in ("valid", "test", "settings")}


def with_shares(rows: tuple[pl.DataFrame, ...]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """For each genre the share of the films in the history that have it, and how many films it holds."""
    genres = pl.concat(rows).select("movie_id", pl.col("genres").str.split("|")).unique("movie_id").explode("genres")
    names = sorted(genres["genres"].unique())
    one_hot = genres.select("movie_id", *((pl.col("genres") == name).cast(pl.Float64).alias(name) for name in names))
    one_hot = one_hot.group_by("movie_id").sum()
    frames = []
    for frame in rows:
        places = frame.with_row_index().select("index", "liked").explode("liked", empty_as_null=True).drop_nulls()
        shares = places.join(one_hot, left_on="liked", right_on="movie_id").group_by("index").agg(pl.col(names).mean())
        shares = shares.rename({name: f"liked {name}" for name in names})
        length = pl.col("liked").list.len().cast(pl.Float64).alias("liked")
        joined = frame.with_row_index().join(shares, on="index", how="left", maintain_order="left")
        frames.append(joined.with_columns(length).drop("index"))
    train, valid, test = frames
    return train, valid, test


def table(results: dict[str, Any], sizes: list[int]) -> str:
    """Mean ± standard deviation of every model."""
    machine = results["machine"]
    lines = [
        f"MovieLens-1M, split by each user's time: {' / '.join(f'{size:,}' for size in sizes)} rows.",
        f"{machine['cpu']}, {machine['cores']} cores; {machine['date']}.",
        f"Command: `{shlex.join(results['command'])}`",
        "",
        "| model | seeds | validation AUC | test AUC | test log loss |",
        "|---|---|---|---|---|",
    ]
    groups = [
        [run for run in results["runs"] if run["model"] == name]
        for name in dict.fromkeys(run["model"] for run in results["runs"])
    ]
    for group in sorted(groups, key=lambda group: -sum(run["valid"]["auc"] for run in group) / len(group)):
        shown = (
            mean_std([run[part][key] for run in group])
            for part, key in (("valid", "auc"), ("test", "auc"), ("test", "logloss"))
        )
        lines.append(f"| {group[0]['model']} | {len(group)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
