"""What a careful user would try first on click rows: logistic regression and gradient-boosted trees.

Settings are chosen on the validation rows alone; the test rows are scored once, by the chosen model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

REGULARISATION = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # scikit-learn's C
NUMERIC_BINS = 20
NUM_LEAVES = (31, 127)
MAX_ROUNDS, PATIENCE = 2000, 50
MIN_COUNT = 2  # rarer categories count as one, in the logistic regression


@dataclass(frozen=True)
class Roles:
    """Which column plays which part. The values of a `multi` column stand in one text, parted by `separator`."""

    label: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    multi: tuple[str, ...] = ()
    separator: str = "|"


def baselines(train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, roles: Roles) -> dict[str, dict[str, Any]]:
    """Test AUC and log loss of both baselines, with the settings that won on the validation rows.

    The label is 0 or 1, numeric columns are floats (null: missing), the rest is text (null: missing).
    """
    frames = (train, valid, test)
    labels = tuple(frame[roles.label].to_numpy() for frame in frames)
    return {
        "logistic regression": logistic_regression(one_hot(frames, roles), labels),
        "LightGBM": gradient_boosting(*tree_features(frames, roles), labels),
    }


def scores(y_true: npt.NDArray[Any], y_score: npt.NDArray[np.float64]) -> dict[str, float]:
    """AUC and log loss."""
    return {"auc": float(roc_auc_score(y_true, y_score)), "logloss": float(log_loss(y_true, y_score))}


def logistic_regression(
    features: tuple[sparse.csr_matrix, ...], labels: tuple[npt.NDArray[Any], ...]
) -> dict[str, Any]:
    """Logistic regression with an L2 penalty; C by validation log loss."""
    model = LogisticRegression(solver="newton-cg", max_iter=1000, tol=1e-5)
    tried: dict[float, float] = {}
    best: dict[str, Any] = {}
    for c in REGULARISATION:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)  # a half-fitted baseline would flatter us
            model.set_params(C=c).fit(features[0], labels[0])
        valid = scores(labels[1], model.predict_proba(features[1])[:, 1])
        tried[c] = valid["logloss"]
        if valid["logloss"] == min(tried.values()):
            test = scores(labels[2], model.predict_proba(features[2])[:, 1])
            best = {"test": test, "valid": valid, "settings": {"C": c, "features": features[0].shape[1]}}
    return best | {"valid_logloss_by_C": tried}


def gradient_boosting(
    features: tuple[npt.NDArray[np.float32], ...], categorical: list[int], labels: tuple[npt.NDArray[Any], ...]
) -> dict[str, Any]:
    """LightGBM with native categories; rounds by early stopping, leaves by validation log loss."""
    train = lightgbm.Dataset(features[0], labels[0], categorical_feature=categorical, free_raw_data=False)
    valid = lightgbm.Dataset(features[1], labels[1], reference=train, free_raw_data=False)
    tried: dict[int, float] = {}
    best: dict[str, Any] = {}
    for leaves in NUM_LEAVES:
        booster = lightgbm.train(
            {"objective": "binary", "metric": "binary_logloss", "num_leaves": leaves, "seed": 0, "verbosity": -1},
            train,
            num_boost_round=MAX_ROUNDS,
            valid_sets=[valid],
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
        found = scores(labels[1], np.asarray(booster.predict(features[1])))
        tried[leaves] = found["logloss"]
        if found["logloss"] == min(tried.values()):
            settings = {"num_leaves": leaves, "rounds": booster.best_iteration, "learning_rate": 0.1}
            test = scores(labels[2], np.asarray(booster.predict(features[2])))
            best = {"test": test, "valid": found, "settings": settings}
    return best | {"valid_logloss_by_leaves": tried}


def one_hot(frames: tuple[pl.DataFrame, ...], roles: Roles) -> tuple[sparse.csr_matrix, ...]:
    """Indicator columns: categories, quantile bins of numeric columns, and every value of a multi-valued column."""
    blocks: list[list[sparse.csr_matrix]] = [[] for _ in frames]
    if roles.categorical or roles.numeric:
        tables = [
            np.column_stack([*texts(frame, roles.categorical), *(bins[name].astype(str) for name in roles.numeric)])
            for frame, bins in zip(frames, quantile_bins(frames, roles.numeric), strict=True)
        ]
        encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=MIN_COUNT, dtype=np.float32)
        encoder.fit(tables[0])
        for block, table in zip(blocks, tables, strict=True):
            block.append(encoder.transform(table))
    for name in roles.multi:
        for block, indicators in zip(blocks, multi_hot(frames, name, roles.separator), strict=True):
            block.append(indicators)
    return tuple(sparse.hstack(block, format="csr") for block in blocks)


def tree_features(
    frames: tuple[pl.DataFrame, ...], roles: Roles
) -> tuple[tuple[npt.NDArray[np.float32], ...], list[int]]:
    """Columns for trees, and which of them hold category codes; unseen and missing categories are NaN.

    Every category keeps its code, however rare, and a combination of values in a multi-valued column is one category:
    on MovieLens-1M's validation rows both did better than a minimum count and indicators of the single values.
    """
    tables: list[list[npt.NDArray[np.float32]]] = [[] for _ in frames]
    categorical = (*roles.categorical, *roles.multi)
    for name in categorical:
        counts = frames[0][name].drop_nulls().value_counts()
        codes = counts.sort("count", name, descending=[True, False])[name]
        numbers = pl.Series(np.arange(len(codes)), dtype=pl.Float32)
        for table, frame in zip(tables, frames, strict=True):
            coded = frame[name].replace_strict(codes, numbers, default=None, return_dtype=pl.Float32)
            table.append(coded.fill_null(float("nan")).to_numpy())
    for name in roles.numeric:
        for table, frame in zip(tables, frames, strict=True):
            table.append(frame[name].cast(pl.Float32).fill_null(float("nan")).to_numpy())
    return tuple(np.column_stack(table) for table in tables), list(range(len(categorical)))


def texts(frame: pl.DataFrame, names: Iterable[str]) -> list[npt.NDArray[np.object_]]:
    """Columns as Python texts; missing is a category of its own."""
    return [frame[name].cast(pl.String).fill_null("").to_numpy().astype(object) for name in names]


def quantile_bins(frames: tuple[pl.DataFrame, ...], names: Iterable[str]) -> list[Mapping[str, npt.NDArray[np.int64]]]:
    """Bins of about equal frequency in the training rows; missing is a bin of its own."""
    binned: list[dict[str, npt.NDArray[np.int64]]] = [{} for _ in frames]
    for name in names:
        present = frames[0][name].drop_nulls().to_numpy()
        inner = np.linspace(0, 1, NUMERIC_BINS + 1)[1:-1]
        edges = np.unique(np.quantile(present, inner)) if len(present) else np.empty(0)
        for bins, frame in zip(binned, frames, strict=True):
            values = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            bins[name] = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
    return list(binned)


def multi_hot(frames: tuple[pl.DataFrame, ...], name: str, separator: str) -> list[sparse.csr_matrix]:
    """Indicators of a multi-valued column's values."""

    def split(text: str) -> list[str]:
        return [value for value in text.split(separator) if value]

    counter = CountVectorizer(analyzer=split, lowercase=False, min_df=MIN_COUNT, binary=True, dtype=np.float32)
    columns = [frame[name].cast(pl.String).fill_null("").to_numpy() for frame in frames]
    return [counter.fit_transform(columns[0]), *(counter.transform(column) for column in columns[1:])]
