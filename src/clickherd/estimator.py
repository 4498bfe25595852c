"""A scikit-learn classifier: `CTRClassifier(model="deepfm").fit(df, y).predict_proba(df2)`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d, validate_data

from clickherd import calibration, checkpoint
from clickherd.calibrate import calibrate, check_calibration
from clickherd.config import SourceConfig, dump_yaml, merge, resolve
from clickherd.data.config import DataConfig
from clickherd.data.cross import cross_name
from clickherd.data.prepare import Prepared, encode_stream, encode_to_store, prepare
from clickherd.data.source import open_source
from clickherd.data.store import Store
from clickherd.data.values import as_texts
from clickherd.device_store import TrainingRows
from clickherd.errors import ConfigError
from clickherd.learner import Learner
from clickherd.masking import check_mask
from clickherd.network import ClickModel
from clickherd.runtime import check_device, precision_here, precision_on, seeded, threads_kept, use_threads
from clickherd.train import Trainer, batch_size_for, begin

LABEL = "__label__"  # a name that no feature is likely to have
MIN_ROWS_TO_VALIDATE = 1_000  # below, a tenth of the rows judges nothing; all of them train


class CTRClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A click model over raw columns: ids, texts, numbers and lists, encoded and trained as on the command line.

    Args:
        model: name of the network (see docs/models.md).
        batch_size: rows per update; found by itself when None.
        epochs: most passes over the rows.
        rule: how hyper-parameters follow the batch size.
        valid_fraction: rows held out for early stopping; with fewer than 1,000 rows none are.
        roles: column → role, where the inferred one is not wanted.
        settings: any other setting, nested as in a recipe, e.g. `{"optim": {"l2": 1e-5}}`.
        random_state: seed of everything random; None draws one.
        threads: CPU threads in `fit` and in predictions; all when None.

    Attributes:
        classes_: the two labels; the second is the click.
        encoder_: fitted encoder (schema and vocabularies).
        model_: trained `ClickModel`.
        config_: resolved settings.
        history_: one record per epoch.
        unseen_: column → how many values of the rows predicted last were unknown: seen too seldom in training.

    X is a pandas, polars or Arrow frame, or an array of numbers; missing values are allowed, infinite ones are not.
    Columns that say nothing (constant, empty, row numbers) are left out by themselves.
    """

    def __init__(
        self,
        model: str = "deepfm",
        *,
        batch_size: int | None = None,
        epochs: int = 20,
        rule: str = "root",
        valid_fraction: float = 0.1,
        roles: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        threads: int | None = None,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.epochs = epochs
        self.rule = rule
        self.valid_fraction = valid_fraction
        self.roles = roles
        self.settings = settings
        self.random_state = random_state
        self.threads = threads

    def fit(self, X: Any, y: Any) -> Self:
        """Train from scratch.

        Raises:
            ValueError: the rows cannot be used; the message names column and row.
        """
        frame = self._labelled(X, y, first=True)
        self.__dict__.pop("learner_", None)
        with tempfile.TemporaryDirectory(prefix="clickherd-") as folder, seeded(self._seed()), threads_kept():
            valid_fraction = self.valid_fraction if len(frame) >= MIN_ROWS_TO_VALIDATE else 0.0
            prepared = self._prepare(frame, Path(folder), valid_fraction)
            if self.batch_size is not None and self.batch_size > len(prepared.train):
                warnings.warn(
                    f"the batch holds all {len(prepared.train):,} training rows: one update an epoch; leave batch_size "
                    "out to have one chosen",
                    stacklevel=2,
                )
            trainer = Trainer(self.config_, self.model_, prepared.train, prepared.valid, Path(folder) / "run")
            try:
                self.history_ = trainer.run().history
            finally:
                trainer.learner.settle()  # interrupted in mid-epoch, the model is still one that predicts
            self.model_.pack()
            calibrate(self.model_, self.config_, prepared.valid)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """One more pass over new rows. The first call fits the encoder too; later ones keep its vocabularies and its
        batch size.

        `classes` names both labels when the first rows may hold one only.
        """
        first = not hasattr(self, "encoder_")
        frame = self._labelled(X, y, first=first, classes=classes)
        with tempfile.TemporaryDirectory(prefix="clickherd-") as folder, seeded(self._seed()), threads_kept():
            store = self._prepare(frame, Path(folder), 0.0).train if first else self._store(frame, Path(folder))
            if not hasattr(self, "learner_"):
                self.learner_ = Learner(self.model_, self.config_, batch_size_for(self.config_, len(store)))
            if first:
                begin(self.model_, self.config_, store)
            learner, size = self.learner_, self.learner_.batch_size
            rows = TrainingRows(store, self.model_.device)
            epoch = rows.epoch(self.config_.train.seed, learner.dense.num_steps)
            try:
                with learner.workers:
                    for start in range(0, len(store), size):
                        learner.step(epoch, start, min(start + size, len(store)), learner.hyper)
            except BaseException:
                del self.learner_  # it may hold half a batch; the next call starts with new moments
                raise
            finally:
                learner.settle()
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities of both classes, shape (N, 2)."""
        check_is_fitted(self)
        frame = self._features(X, reset=False)
        source = open_source(frame, self.config_.data, need_label=False)
        self.encoder_.unseen.clear()
        with threads_kept():
            use_threads(self.config_.train.threads)
            parts = [self.model_.predict(batch) for batch in encode_stream(self.encoder_, source, labels=False)]
        click = np.concatenate(parts)
        return np.stack([1 - click, click], axis=1)

    @property
    def unseen_(self) -> dict[str, int]:
        """See the class; columns without unknown values are left out."""
        return {name: count for name, count in self.encoder_.unseen.items() if count}

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The likelier class of each row."""
        proba = self.predict_proba(X)  # first: it says so when the estimator is not fitted
        likelier: npt.NDArray[Any] = self.classes_[(proba[:, 1] > 0.5).astype(int)]
        return likelier

    def save(self, folder: str | Path) -> None:
        """Write a folder that `CTRClassifier.load`, `clickherd.load` and `clickherd predict` open.

        Raises:
            ValueError: the folder is there already, or cannot be written; then nothing is left behind.
        """
        check_is_fitted(self)
        facts = {
            "classes": self.classes_.tolist(),
            "history": self.history_,
            "parameters": self.get_params() | {"random_state": self.config_.train.seed},
            "has_feature_names": hasattr(self, "feature_names_in_"),
        }
        encoder = self.encoder_
        update: dict[str, Any] = {"source": SourceConfig()}  # rows of a run are not those of this model
        if encoder.reading.positive is None and self.classes_.tolist() not in ([0, 1], [False, True]):
            other, positive = as_texts(pl.Series(self.classes_))  # how the labels stand in the user's files
            encoder = encoder.with_labels(positive, (positive, other))
            update["data"] = self.config_.data.model_copy(update={"positive": positive})
        if self.model_.calibration is None:  # `fit` was interrupted before it was learned
            update["train"] = self.config_.train.model_copy(update={"calibration": "none"})
        config = self.config_.model_copy(update=update)
        with checkpoint.new_folder(Path(folder), mend="Choose another folder, or remove this one.") as beside:
            encoder.save(beside / "encoder")
            checkpoint.write_text(beside / "config.yaml", dump_yaml(config))
            checkpoint.save(beside / "model.safetensors", self.model_.finished_tensors(), facts)
            calibration.save(beside, self.model_.calibration)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open a folder that `save` or the command line wrote."""
        from clickherd.loaded import load

        run = load(folder)
        _, facts = checkpoint.load(Path(folder) / "model.safetensors")
        config = run.config
        train: dict[str, Any] = {"precision": precision_here(config.train.device, config.train.precision)}
        if "parameters" not in facts:  # a run of the command line, with the threads of the machine that trained it
            train["threads"] = None
        config = config.model_copy(update={"train": config.train.model_copy(update=train)})
        of_files = {"label", "positive", "roles", "valid_fraction", "test_fraction", "format", "separator", "header"}
        of_run = {  # a run of the command line, as the estimator that would learn the same from a frame
            "model": config.model.name,
            "batch_size": config.train.batch_size,
            "epochs": config.train.epochs,
            "rule": config.optim.rule,
            "valid_fraction": config.data.valid_fraction,
            "roles": config.data.roles,
            "settings": {
                "data": config.data.model_dump(mode="json", exclude=of_files),
                **config.model_dump(mode="json", include={"model", "compression", "optim", "train"}),
            },
            "random_state": config.train.seed,
        }
        classifier = cls(**facts.get("parameters", of_run))
        classifier.config_, classifier.encoder_, classifier.model_ = config, run.encoder, run.model
        classifier.classes_ = np.array(facts.get("classes", [0, 1]))
        classifier.history_ = facts.get("history", [])
        derived = {run.encoder.schema.label, *map(cross_name, config.data.crosses), *config.data.histories}
        names = [column.name for column in run.encoder.schema.columns if column.name not in derived]
        classifier.n_features_in_ = len(names)
        if facts.get("has_feature_names", True):
            classifier.feature_names_in_ = np.array(names, dtype=object)
        return classifier

    def __sklearn_tags__(self) -> Any:
        """Two classes; missing values are fine."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        return tags

    def _prepare(self, frame: pl.DataFrame, folder: Path, valid_fraction: float) -> Prepared:
        """Encode the rows under `folder` and make a new model for them."""
        own: dict[str, Any] = {
            "data": {"label": frame.columns[-1], "valid_fraction": valid_fraction, "test_fraction": 0.0},
            "model": {"name": self.model},
            "optim": {"rule": self.rule},
            "train": {"epochs": self.epochs, "seed": self._seed(), "threads": self.threads},
        }
        own["data"]["roles"] = dict(self.roles or {})
        own["train"]["batch_size"] = self.batch_size
        config = resolve(merge(own, self.settings or {}))
        self._check_positive(config.data.positive)
        if config.train.teacher is not None:
            raise ConfigError("train.teacher is for runs of the command line", mend="Leave it out of the settings.")
        check_device(config.train.device, config.train.precision)
        precision = precision_on(config.train.device, config.train.precision)
        train = config.train.model_copy(update={"precision": precision})
        data = config.data.model_copy(update={"positive": None})
        config = config.model_copy(update={"data": data, "train": train})
        use_threads(train.threads)
        prepared = prepare(frame, config.data, seed=train.seed, cache_dir=folder / "cache")
        check_mask(train.mask, prepared.encoder)
        config.model.check_fields(tuple(field.name for field in prepared.encoder.layout.fields))
        check_calibration(config, prepared.valid)
        self.config_, self.encoder_, self.history_ = config, prepared.encoder, []
        self.model_: ClickModel = ClickModel(
            config.model,
            prepared.encoder.layout,
            init_std=config.optim.init_std,
            device=train.device,
            compression=config.compression,
        )
        return prepared

    def _check_positive(self, positive: str | None) -> None:
        """See that the click is the second class, as scikit-learn's scores take it."""
        click = str(self.classes_[1])
        if positive not in (None, click, click.removesuffix(".0")):
            raise ConfigError(
                f"data.positive = {positive!r}, but the click is the second class in scikit-learn's order, {click!r}",
                mend=f"Give y as y == {positive!r}, or read the first column of predict_proba.",
            )

    def _seed(self) -> int:
        """An integer seed: `random_state` itself, or one drawn from it once per call, as scikit-learn does."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _store(self, frame: pl.DataFrame, folder: Path) -> Store:
        """The rows encoded with the fitted vocabularies."""
        check_device(self.config_.train.device, self.config_.train.precision)
        use_threads(self.config_.train.threads)
        return encode_to_store(self.encoder_, open_source(frame, self.config_.data), folder / "rows")

    def _features(self, X: Any, *, reset: bool) -> pl.DataFrame:
        """X as a frame of raw columns, checked against the columns seen in `fit`."""
        if not issparse(X) and (hasattr(X, "__arrow_c_stream__") or isinstance(X, Mapping)):
            validate_data(self, X, reset=reset, skip_check_array=True)
            source = open_source(X, DataConfig(label=LABEL), need_label=False)
            return pl.concat([chunk.frame for chunk in source.chunks()])
        array = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")
        columns = {f"x{j}": array[:, j] for j in range(array.shape[1])}
        return pl.DataFrame(columns, nan_to_null=True)

    def _labelled(self, X: Any, y: Any, *, first: bool, classes: Any = None) -> pl.DataFrame:
        """X with y in an additional column: as 0 and 1, or as the texts of a loaded model's labels."""
        frame = self._features(X, reset=first)
        label = self.encoder_.schema.label if not first else _label_name(y, frame)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        if len(y) != len(frame):
            raise ValueError(f"X has {len(frame)} rows and y has {len(y)}")
        if first:
            self.classes_ = np.unique(y if classes is None else classes)
        if len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported, y has {len(self.classes_)} classes")
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only: {self.classes_.tolist()}")
        click = pl.Series(label, (y == self.classes_[1]).astype(np.int8))
        if not first and self.encoder_.reading.positive is not None:
            click = click.replace_strict([0, 1], as_texts(pl.Series(self.classes_)), return_dtype=pl.String)
        return frame.with_columns(click)


def _label_name(y: Any, frame: pl.DataFrame) -> str:
    """The name that a Series of labels has, so that a saved model finds them in a file; otherwise a name of ours."""
    name = getattr(y, "name", None)
    return name if isinstance(name, str) and name and name not in frame.columns else LABEL
