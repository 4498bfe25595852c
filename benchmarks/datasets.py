"""The public click data that accuracy is measured on: where the rows lie, how they are split, what the columns are.

Files are looked for under the folder that the environment variable CLICKHERD_DATA names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from baselines import Roles

Splits = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


@dataclass(frozen=True)
class DataSet:
    """Train, validation and test rows, and the roles of their columns. Columns without a role are left out."""

    roles: Roles
    read: Callable[[Path], Splits]
    note: str = ""

    def splits(self) -> tuple[Splits, Roles]:
        """The rows in the form that `baselines` takes (label 0 or 1, numeric columns float, the rest text) and the
        roles of the columns that are left: those that never vary in the training rows go.
        """
        train, valid, test = (self._typed(frame) for frame in self.read(root()))
        varying = {name for name in train.columns if train[name].n_unique() > 1}
        numeric, categorical, multi = (
            tuple(name for name in names if name in varying)
            for names in (self.roles.numeric, self.roles.categorical, self.roles.multi)
        )
        columns = [self.roles.label, *numeric, *categorical, *multi]
        roles = replace(self.roles, numeric=numeric, categorical=categorical, multi=multi)
        return (train.select(columns), valid.select(columns), test.select(columns)), roles

    def _typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        roles = self.roles
        return frame.select(
            pl.col(roles.label).cast(pl.Int8),
            *(pl.col(name).cast(pl.String).replace("", None).cast(pl.Float64) for name in roles.numeric),
            *(pl.col(name).cast(pl.String).replace("", None) for name in (*roles.categorical, *roles.multi)),
        )


def crossed(
    splits: Splits, roles: Roles, crosses: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, Roles]:
    """The splits with the combinations of some columns' values as further categories, and the roles with these."""
    train, valid, test = (
        frame.with_columns(pl.concat_str(cross.split("*"), separator=" × ").alias(cross) for cross in crosses)
        for frame in splits
    )
    return (train, valid, test), replace(roles, categorical=(*roles.categorical, *crosses))


def root() -> Path:
    """The folder of public data sets."""
    folder = os.environ.get("CLICKHERD_DATA")
    if folder is None or not Path(folder).is_dir():
        raise SystemExit("Set CLICKHERD_DATA to the folder that holds the public data sets.")
    return Path(folder)


def files(*names: str) -> Callable[[Path], Splits]:
    """Three files that come split."""

    def read(folder: Path) -> Splits:
        train, valid, test = (pl.read_parquet(folder / f"{name}.parquet") for name in names)
        return train, valid, test

    return read


def held_out(frame: pl.DataFrame, *tenths: int) -> tuple[pl.DataFrame, ...]:
    """The rows whose number, modulo 10, is none of `tenths`, and those of each: a split that no library changes."""
    number = pl.int_range(pl.len()) % 10
    return frame.filter(~number.is_in(tenths)), *(frame.filter(number == tenth) for tenth in tenths)


def movielens_ratings(folder: Path) -> pl.DataFrame:
    """MovieLens-1M's ratings that have a label, each user's in order of time, with what is known of user and film."""
    users, movies = (pl.read_parquet(folder / f"movielens_1m/{name}.parquet") for name in ("users", "movies"))
    year = pl.col("title").str.extract(r"\((\d{4})\)$")
    return (
        pl.read_parquet(folder / "movielens_1m/interactions.parquet")
        .drop_nulls("label")
        .sort("user_id", "chrono_pos")
        .with_columns(pl.col("user_id", "movie_id").cast(pl.String))
        .join(users, on="user_id", how="left", maintain_order="left")
        .join(movies.with_columns(year=year), on="movie_id", how="left", maintain_order="left")
    )


def read_movielens_by_time(folder: Path) -> Splits:
    ratings = movielens_ratings(folder)
    train, valid, test = (ratings.filter(pl.col("time_split") == part) for part in ("train", "valid", "test"))
    return train, valid, test


def read_open_bandit(folder: Path) -> Splits:
    train, valid, test = held_out(pl.read_parquet(folder / "open_bandit_40k/random_men.parquet"), 8, 9)
    return train, valid, test


def read_census(folder: Path) -> Splits:
    train, valid = held_out(pl.read_parquet(folder / "census_adult/train.parquet"), 9)
    frames = (train, valid, pl.read_parquet(folder / "census_adult/test.parquet"))
    # the test file's labels end with a dot
    first, second, third = (
        frame.with_columns((pl.col("income").str.strip_suffix(".") == ">50K").cast(pl.Int8)) for frame in frames
    )
    return first, second, third


CENSUS_NUMERIC = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
CENSUS_CATEGORICAL = (
    *("workclass", "education", "marital_status", "occupation"),
    *("relationship", "race", "sex", "native_country"),
)
AVAZU = (
    *("hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{i}" for i in range(14, 22)),
)
FRAPPE = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
MOVIELENS = ("user_id", "movie_id", "gender", "age", "occupation", "zip", "year")

MOVIELENS_BY_TIME = DataSet(
    Roles("label", categorical=MOVIELENS, multi=("genres",)),
    read_movielens_by_time,
)
DATA_SETS = {
    "movielens_1m": DataSet(
        Roles("label", categorical=MOVIELENS, multi=("genres",)),
        files("movielens_1m/flat_train", "movielens_1m/flat_valid", "movielens_1m/flat_test"),
        "rating of 4 or 5 as a click; random split",
    ),
    "frappe_x1": DataSet(
        Roles("label", categorical=FRAPPE),
        files("frappe_x1/train_reconstructed", "frappe_x1/valid", "frappe_x1/test"),
        "Frappe_x1 validation and test rows, reconstructed training rows",
    ),
    "census_adult": DataSet(
        Roles("income", numeric=CENSUS_NUMERIC, categorical=CENSUS_CATEGORICAL),
        read_census,
        "every tenth training row validates",
    ),
    "criteo_8k": DataSet(
        Roles(
            "label",
            numeric=tuple(f"I{i}" for i in range(1, 14)),
            categorical=tuple(f"C{i}" for i in range(1, 27)),
        ),
        files("criteo_8k/train", "criteo_8k/dev", "criteo_8k/test"),
        "391 test rows: differences under about .05 AUC mean nothing",
    ),
    "avazu_9k": DataSet(
        Roles("click", categorical=AVAZU),
        files("avazu_9k/train", "avazu_9k/dev", "avazu_9k/test"),
        "432 test rows of one hour: differences under about .05 AUC mean nothing",
    ),
    "open_bandit": DataSet(
        Roles(
            "click",
            numeric=tuple(f"user-item_affinity_{i}" for i in range(34)),
            categorical=("item_id", "position", *(f"user_feature_{i}" for i in range(4))),
        ),
        read_open_bandit,
        "46 clicks in 10,000 rows; row number modulo 10: 8 validates, 9 tests",
    ),
}
