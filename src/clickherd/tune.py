"""A search for settings with Optuna: many short trainings on the same encoded rows, bad ones cut short.

    FOLDER/
      study.db       the trials (SQLite), unless another storage is named
      study.json     the result, as `--json` prints it
      report.md      best settings, importance, table of trials; with trials.svg and importance.svg
      best.yaml      the best trial's settings: `clickherd train --recipe` takes it as it is
      space.yaml     what was searched: `--space` takes it
      under-way/     weights and checkpoints of running and of interrupted trials

Several processes may work on one study. A trial depends on the seed and the trials before it only, so that a search by
one process can be repeated, whether it was interrupted or not. Validation scores decide; test rows are not looked at.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clickherd import checkpoint, machine
from clickherd.config import Config, dump_yaml, merge, nest, resolve
from clickherd.data.prepare import Prepared, quiet
from clickherd.errors import ConfigError, Interrupted
from clickherd.observer import Observer, Silent
from clickherd.optim.scaling import Hyperparameters
from clickherd.runs import Announce, check_folder, check_validation, make_folder, ready, settings_key, train_prepared
from clickherd.search_space import Choice, Space, dump_space, flat
from clickherd.train import DivergedError

try:
    import optuna
    import sqlalchemy.exc
except ModuleNotFoundError as error:
    if error.name not in ("optuna", "sqlalchemy"):
        raise
    raise ConfigError("tune needs Optuna, which is not installed", mend="pip install 'clickherd[tune]'") from None

FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
HEARTBEAT, GRACE = 10, 60  # seconds: how often a running trial says so, and after how long a silent one is given up
RETRIES = 2  # of a trial whose process was killed
TRIES = 5  # at a storage whose tables another process is making
POLL = 1.0  # seconds between looks at the study while other processes finish its last trials

Pruner = Literal["median", "halving", "none"]


@dataclass(frozen=True)
class Search:
    """What is searched, and how long: `trials` is the number of finished trials in all, of every process."""

    space: Space
    trials: int = 20
    pruner: Pruner = "median"
    storage: str | None = None  # an SQLAlchemy URL; study.db in the folder when None


class _Surplus(Exception):  # noqa: N818  (not a fault)
    """Another process has begun the last trial at the same time."""


def tune(
    config: Config,
    search: Search,
    folder: Path,
    *,
    announce: Announce = quiet,
    observer: Callable[[], Observer] = Silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Search until the study has its number of finished trials; returns the content of study.json.

    Raises:
        UserError: settings, data or storage are at fault, or the study was begun with other settings.
        Interrupted: `should_stop` said so; the same call goes on from there.
    """
    check_folder(folder, (".lock", "study.db", "study.json"))
    config, prepared = ready(config, announce)
    check_validation(prepared, config.train.monitor)
    make_folder(folder)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = _study(config, search, folder)
        trials = _Trials(study, config, search, prepared, folder, announce, observer, should_stop)
        announce(f"{trials.count(*FINISHED)} of {search.trials} trials are finished; the study is in {folder}")
        for name, entry in search.space.items():
            announce(f"  {name}: {entry}")
        trials.run()
        with _one_at_a_time(folder / ".lock"):
            return _write_result(study, config, search, prepared, folder)
    finally:
        optuna.logging.set_verbosity(level)


class _Trials:
    """The trials that this process runs."""

    def __init__(
        self,
        study: optuna.Study,
        config: Config,
        search: Search,
        prepared: Prepared,
        folder: Path,
        announce: Announce,
        observer: Callable[[], Observer],
        should_stop: Callable[[], bool],
    ) -> None:
        self.study, self.config, self.search, self.prepared, self.folder = study, config, search, prepared, folder
        self.announce, self.observer, self.should_stop = announce, observer, should_stop

    def count(self, *states: optuna.trial.TrialState) -> int:
        """How many trials of the study are in one of the states."""
        return len(self.study.get_trials(deepcopy=False, states=states))

    def run(self) -> None:
        """Run trials until enough are finished, here or elsewhere."""
        told = False
        while (finished := self.count(*FINISHED)) < self.search.trials:
            with _experiments():
                optuna.storages.fail_stale_trials(self.study)
            running = self.count(optuna.trial.TrialState.RUNNING)
            if finished + running < self.search.trials:
                self.study.optimize(self._trial, n_trials=1, catch=(_Surplus,))
                if self.should_stop():
                    raise Interrupted(self.folder)
            elif running:
                if not told:
                    self.announce(f"waiting for other processes' trials (killed ones are given up after {GRACE} s)")
                told = True
                time.sleep(POLL)

    def _trial(self, trial: optuna.Trial) -> float:
        if self._is_surplus(trial):
            trial.set_user_attr("surplus", True)
            raise _Surplus
        config, settings = self._settings(trial)
        folder = self.folder / "under-way" / f"{trial.user_attrs.get('first', trial.number)}-{settings_key(config)}"
        watch = _Watch(self.observer(), trial, config, folder)
        try:
            _, progress = train_prepared(config, self.prepared, folder, quiet, watch, self.should_stop)
        except DivergedError:
            trial.set_user_attr("diverged", True)
            self._close(trial, folder, settings, "diverged")
            raise optuna.TrialPruned from None
        except optuna.TrialPruned:
            self._close(trial, folder, settings, f"cut short after epoch {watch.last}")
            raise
        except (Interrupted, KeyboardInterrupt):
            _again(self.study, trial, trial.user_attrs.get("retries", 0))
            raise
        monitor, best = config.train.monitor, progress.history[progress.best_epoch - 1]["valid"]
        for name, value in (
            ("valid", best),
            ("best_epoch", progress.best_epoch),
            ("epochs", progress.epoch),
            ("seconds", round(progress.seconds, 3)),
        ):
            trial.set_user_attr(name, value)
        told = f"valid {monitor} {best[monitor]:.4f}, epoch {progress.best_epoch} of {progress.epoch}"
        self._close(trial, folder, settings, told)
        return float(best[monitor])

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether enough other trials were begun before this one."""
        states = (*FINISHED, optuna.trial.TrialState.RUNNING)
        others = self.study.get_trials(deepcopy=False, states=states)
        return sum(other.number < trial.number for other in others) >= self.search.trials

    def _settings(self, trial: optuna.Trial) -> tuple[Config, dict[str, Any]]:
        """The trial's config, and what of it was searched."""
        settings: dict[str, Any] = {}
        for name, entry in self.search.space.items():
            if isinstance(entry, Choice):  # Optuna keeps texts and numbers only
                settings[name] = json.loads(trial.suggest_categorical(name, [json.dumps(c) for c in entry.choices]))
            elif entry.whole:
                settings[name] = trial.suggest_int(name, int(entry.low), int(entry.high), log=entry.log)
            else:
                settings[name] = trial.suggest_float(name, entry.low, entry.high, log=entry.log)
        return _with(self.config, settings), settings

    def _close(self, trial: optuna.Trial, folder: Path, settings: Mapping[str, Any], told: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shown = "  ".join(f"{name.rpartition('.')[2]} {_shown(value)}" for name, value in settings.items())
        self.announce(f"trial {trial.number}: {told}  [{shown}]")


class _Watch:
    """An observer that tells the pruner of each epoch's score, and ends the training when the pruner says so."""

    def __init__(self, inner: Observer, trial: optuna.Trial, config: Config, folder: Path) -> None:
        self.inner, self.trial, self.config, self.folder = inner, trial, config, folder
        self.last = 0
        self.batch, self.finish = inner.batch, inner.finish

    def start(self, num_epochs: int, rows_per_epoch: int, hyper: Hyperparameters) -> None:
        """Tell what an interrupted trial had told already."""
        metrics = self.folder / "metrics.jsonl"
        for line in metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else ():
            self._report(json.loads(line))
        self.inner.start(num_epochs, rows_per_epoch, hyper)

    def epoch(self, record: dict[str, Any], best: bool) -> None:
        """Report the epoch.

        Raises:
            TrialPruned: the trial is not worth going on with.
        """
        self.inner.epoch(record, best)
        self._report(record)
        if record["epoch"] < self.config.train.epochs and self.trial.should_prune():
            raise optuna.TrialPruned

    def _report(self, record: Mapping[str, Any]) -> None:
        if record["epoch"] > self.last:  # the epoch after the checkpoint may have been told before the process died
            self.last = record["epoch"]
            self.trial.report(record["valid"][self.config.train.monitor], self.last)


class _Sampler(optuna.samplers.BaseSampler):
    """TPE whose random numbers depend on the seed and the number of trials before only, failed ones not counted.

    Processes that start together then draw different settings, and a search that goes on draws as if it had not ended.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.inner = optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Begin with the trial's own random numbers."""
        others = study.get_trials(deepcopy=False)
        before = sum(t.number < trial.number and t.state != optuna.trial.TrialState.FAIL for t in others)
        self.inner = optuna.samplers.TPESampler(seed=(self.seed * 1_000_003 + before) % 2**32)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """As TPE does."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: dict[str, Any]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """As TPE does."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, state: optuna.trial.TrialState, values: Any
    ) -> None:
        """As TPE does."""
        self.inner.after_trial(study, trial, state, values)


def _study(config: Config, search: Search, folder: Path) -> optuna.Study:
    """The study, made or opened; it must have been begun with the same settings and space."""
    pruners: dict[Pruner, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(),
        "halving": optuna.pruners.SuccessiveHalvingPruner(),
        "none": optuna.pruners.NopPruner(),
    }
    with _one_at_a_time(folder / ".lock"):  # two processes that make the tables at once would trip over each other
        study = optuna.create_study(
            storage=_storage(search.storage, folder),
            study_name=folder.absolute().name,
            sampler=_Sampler(config.train.seed),
            pruner=pruners[search.pruner],
            direction="maximize" if config.train.monitor in ("auc", "gauc") else "minimize",
            load_if_exists=True,
        )
        begun = json.loads(json.dumps(_begun_with(config, search.space)))
        before = study.user_attrs.get("begun_with")
        if before is None:
            study.set_user_attr("begun_with", begun)
            study.enqueue_trial(_given(config, search.space))  # what is found is no worse than what was given
        elif before != begun:
            names = [name for name in {**before, **begun} if before.get(name) != begun.get(name)]
            name = names[0]
            raise ConfigError(
                f"the study was begun with {name} = {before.get(name)}, not {begun.get(name)}",
                file=folder,
                mend="Repeat the command that began it, or choose another --out.",
            )
    return study


def _given(config: Config, space: Space) -> dict[str, Any]:
    """The settings as they were given, those that the space holds: the first trial."""
    settings, found = flat(config.model_dump(mode="json")), dict[str, Any]()
    for name, entry in space.items():
        value = settings.get(name)
        if isinstance(entry, Choice):
            if value in entry.choices:
                found[name] = json.dumps(value)
        elif isinstance(value, int | float) and entry.low <= value <= entry.high:
            found[name] = value
    return found


def _begun_with(config: Config, space: Space) -> dict[str, Any]:
    """What all trials of a study have in common, by name."""
    out = {"source": {"data", "valid", "test"}, "train": {"threads", "checkpoint_seconds"}}
    settings = flat(config.model_dump(mode="json", exclude=out))
    return {
        **{name: value for name, value in settings.items() if name not in space},
        **{f"the space of {name}": str(entry) for name, entry in space.items()},
    }


def _storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """The trials' storage. The URL may hold a password and is not repeated in errors."""
    file = folder / "study.db" if url is None else None
    for left in reversed(range(TRIES)):
        try:
            with _experiments():
                return optuna.storages.RDBStorage(
                    url or f"sqlite:///{folder.absolute() / 'study.db'}",
                    engine_kwargs={"connect_args": {"timeout": 60}} if url is None else {"pool_pre_ping": True},
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=_given_up,
                )
        except ImportError as error:
            name = getattr(error.__cause__, "name", None) or "for it"
            raise ConfigError(
                f"this kind of --storage needs the module {name}, which is not installed",
                mend="PostgreSQL's: pip install 'psycopg[binary]'",
            ) from None
        except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError):
            raise ConfigError(
                "cannot read --storage", mend="Write a database URL: postgresql://user:password@host/database"
            ) from None
        except sqlalchemy.exc.DatabaseError as error:
            if left and isinstance(error, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.ProgrammingError):
                time.sleep(POLL)  # another machine makes the tables at the same time
                continue
            why = str(error.orig).strip().splitlines()[0]
            raise ConfigError(f"cannot open the study's storage: {why}", file=file) from None
    raise AssertionError


def _given_up(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Have a trial whose process was killed run again, but not for ever."""
    retries = trial.user_attrs.get("retries", 0)
    if retries < RETRIES:
        _again(study, trial, retries + 1)


def _again(study: optuna.Study, trial: optuna.Trial | optuna.trial.FrozenTrial, retries: int) -> None:
    """Have the trial's settings run again, from their checkpoint on."""
    first = trial.user_attrs.get("first", trial.number)
    study.enqueue_trial(trial.params, user_attrs={"first": first, "retries": retries})


def _with(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with searched settings, dotted, laid over it."""
    merged: dict[str, Any] = config.model_dump()
    for name, value in settings.items():
        merged = merge(merged, nest(name, value))
    return resolve(merged)


def _write_result(
    study: optuna.Study, config: Config, search: Search, prepared: Prepared, folder: Path
) -> dict[str, Any]:
    """Write all that a study leaves to read; returns the content of study.json."""
    from clickherd.report.search import write_search

    trials = [t for t in study.get_trials(deepcopy=False) if "surplus" not in t.user_attrs and t.state.is_finished()]
    states = optuna.trial.TrialState
    complete = [t for t in trials if t.state == states.COMPLETE]
    result: dict[str, Any] = {
        "model": config.model.name,
        "monitor": config.train.monitor,
        "rows": {"train": len(prepared.train), "valid": len(prepared.valid) if prepared.valid is not None else 0},
        "epochs": config.train.epochs,
        "trials": {
            "finished": sum(t.state in FINISHED for t in trials),
            "complete": len(complete),
            "pruned": sum(t.state == states.PRUNED and "diverged" not in t.user_attrs for t in trials),
            "diverged": sum("diverged" in t.user_attrs for t in trials),
            "failed": sum(t.state == states.FAIL for t in trials),
        },
        "best": None,
        "importance": _importance(study, complete),
        "space": {name: str(entry) for name, entry in search.space.items()},
        "table": [_record(t, search.space) for t in trials],
        "machine": f"{machine.describe()}, threads: {config.train.threads}, {config.train.device}",
        "out": str(folder),
    }
    if complete:
        best = study.best_trial
        record = _record(best, search.space)
        result["best"] = {**record, "valid": best.user_attrs["valid"], "best_epoch": best.user_attrs["best_epoch"]}
        own = {"source": {"fingerprint": None}, "train": {"threads": None}}
        recipe = resolve(merge(_with(config, record["settings"]).model_dump(), own))
        head = (
            f"# Trial {best.number}, the best of {result['trials']['finished']} by validation {config.train.monitor}: "
            f"{record['score']:.4f}.\n"
        )
        checkpoint.write_text(folder / "best.yaml", head + dump_yaml(recipe))
    checkpoint.write_text(folder / "space.yaml", dump_space(search.space))
    checkpoint.write_text(folder / "study.json", json.dumps(result, indent=1) + "\n")
    write_search(folder, result)
    return result


def _record(trial: optuna.trial.FrozenTrial, space: Space) -> dict[str, Any]:
    """A trial in plain values. A pruned one has the score of its last epoch."""
    return {
        "trial": trial.number,
        "state": "diverged" if "diverged" in trial.user_attrs else trial.state.name.lower(),
        "score": trial.value,
        "epochs": max(trial.intermediate_values, default=0),
        "seconds": trial.user_attrs.get("seconds"),
        "settings": {
            name: json.loads(value) if isinstance(space[name], Choice) else value
            for name, value in trial.params.items()
        },
    }


def _importance(study: optuna.Study, complete: list[optuna.trial.FrozenTrial]) -> dict[str, float] | None:
    """How much of the score's variance each setting explains (fANOVA, Hutter et al., ICML 2014); None of too few."""
    if len(complete) < 4 or len({t.value for t in complete}) < 2:
        return None
    with _experiments():
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Only one process of this machine at a time is inside."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _experiments() -> Iterator[None]:
    """Optuna's parts that it calls experimental are meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace(" ", "")
