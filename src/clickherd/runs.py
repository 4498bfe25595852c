"""Run folders: from settings and raw rows to a trained model on disk, and from such a folder back to a model.

config.yaml           every setting, resolved; `clickherd train --recipe` takes it to repeat the run
encoder/              schema, vocabularies, numeric transforms: raw rows in, on any machine
model.safetensors     the best weights
calibration.json      what is done to their probabilities, where train.calibration asks for it
metrics.jsonl         one line per epoch
metrics.json          the result, as `--json` prints it
checkpoint/           what `--resume` needs; may be deleted once the run is done
report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clickherd import calibration, checkpoint, machine, mup
from clickherd.calibrate import calibrate, check_calibration
from clickherd.config import Config, dump_yaml
from clickherd.data.prepare import Prepared, prepare, quiet
from clickherd.errors import ConfigError, RunError
from clickherd.evaluate import Scored, evaluate, monitored
from clickherd.kernels.warm_up import warm_up
from clickherd.learner import Learner
from clickherd.loaded import load, load_config
from clickherd.masking import check_mask
from clickherd.network import ClickModel
from clickherd.observer import Observer
from clickherd.reporting import IMPORTANCE_ROWS, write_report
from clickherd.runtime import check_device, precision_here, precision_on, seeded, use_threads
from clickherd.start import Start
from clickherd.surrogate import Drivers, drivers
from clickherd.teaching import check_teacher, taught, teacher_of
from clickherd.train import LearnerOf, Trainer, batch_size_for, is_done
from clickherd.training_state import Progress

TEST_SCORES = ("auc", "logloss", "gauc", "ne", "calibration")

Announce = Callable[[str], None]


def train_run(
    config: Config,
    folder: Path,
    *,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: bool = True,
) -> dict[str, Any]:
    """Encode, train, judge and report in a new run folder; returns the content of metrics.json.

    Raises:
        UserError: settings or data are at fault, or the folder is already there.
        Interrupted: `should_stop` said so; `resume_run` goes on from there.
    """
    check_new(folder)
    config, prepared = ready(config, announce)
    create(folder, config, prepared)
    return finish(config, prepared, folder, announce, observer, should_stop, report)


def check_new(folder: Path) -> None:
    """See that a run folder is not there yet.

    Raises:
        RunError: it is.
    """
    if folder.exists() and not (folder / "config.yaml").exists():
        raise RunError("something that is no run already exists there", file=folder, mend="Choose another --out.")
    if folder.exists():
        raise RunError(
            "the run folder already exists",
            file=folder,
            mend=f"Choose another --out, or continue it with: clickherd train --resume {folder}",
        )


def resume_run(
    folder: Path,
    *,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: bool = True,
) -> dict[str, Any]:
    """Continue a cut-off run to the very weights that it would have reached.

    Raises:
        RunError: no such run, or its data have changed since.
    """
    config = load_config(folder)
    precision = precision_here(config.train.device, config.train.precision)
    if precision != config.train.precision:
        announce("this CPU has no bf16 units: going on in fp32, not to the very weights of a run in one go")
        config = config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})
    check_device(config.train.device, precision)
    use_threads(config.train.threads)
    prepared = same_rows(config, folder, announce)
    result = finish(config, prepared, folder, announce, observer, should_stop, report)
    if (folder / "compress.json").exists():
        from clickherd.compression.compress import complete  # it stands above this module

        complete(folder, prepared)
    return result


def ready(config: Config, announce: Announce) -> tuple[Config, Prepared]:
    """The settings with nothing left to be found, and the encoded rows; the process has its threads.

    Raises:
        UserError: settings or data are at fault, or do not fit each other.
    """
    check_device(config.train.device, config.train.precision)
    threads = use_threads(config.train.threads)
    teacher = None if config.train.teacher is None else teacher_of(config.train.teacher)
    prepared = prepare_sources(config, announce)
    check_mask(config.train.mask, prepared.encoder)
    config.model.check_fields(tuple(field.name for field in prepared.encoder.layout.fields))
    check_calibration(config, prepared.valid)
    if teacher is not None:
        check_teacher(teacher, prepared)
    if (
        config.compression or config.optim.mup_base is not None
    ):  # on no device: it takes no memory, and says what does not fit
        model = ClickModel(config.model, prepared.encoder.layout, device="meta", compression=config.compression)
        if (shares := mup.rates(model, config.optim.mup_base)) is not None:
            announce(mup.told(shares))
    return _settled(config, prepared, threads), prepared


def settings_key(config: Config, *, but: Mapping[str, set[str]] | None = None) -> str:
    """What a training is known by: its settings and rows, not where they lie or how many threads there are.

    `but` names further settings, by group, that are left out of account.
    """
    out: dict[str, Any] = {"source": {"data", "valid", "test"}, "train": {"threads", "checkpoint_seconds"}}
    for group, names in (but or {}).items():
        out[group] = out.get(group, set()) | names
    text = json.dumps(config.model_dump(mode="json", exclude=out), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_folder(folder: Path, marks: Sequence[str]) -> None:
    """See that a folder that several calls fill is not there yet, is empty, or holds one of the `marks` of such a call.

    Raises:
        RunError: it holds other things, or is no folder.
    """
    mend = "Choose another --out."
    if folder.exists() and not folder.is_dir():
        raise RunError("cannot make the folder: a file has its name", file=folder, mend=mend)
    if folder.exists() and any(folder.iterdir()) and not any((folder / mark).exists() for mark in marks):
        raise RunError("the folder holds other things", file=folder, mend=mend)


@contextmanager
def alone_in(folder: Path, lock: str) -> Iterator[None]:
    """Hold a lock in the folder, of a file with that name; it ends with the process.

    Raises:
        RunError: another process holds it, or there can be none.
    """
    try:
        file = (folder / lock).open("w")
    except OSError as error:
        raise RunError(f"cannot write there: {error.strerror}", file=folder, mend="Choose another --out.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mend = "Wait for its end, or choose another --out."
            raise RunError("another command is at work in this folder", file=folder, mend=mend) from None
        except OSError as error:
            mend = "Choose an --out on a disk that has locks."
            raise RunError(f"cannot lock the folder: {error.strerror}", file=folder, mend=mend) from None
        yield


def make_folder(folder: Path) -> None:
    """Make the folder, if it is not there.

    Raises:
        RunError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder: {error.strerror}", file=folder, mend="Choose another --out.") from None


def check_validation(prepared: Prepared, monitor: str) -> None:
    """See that there are validation rows to choose settings by, and that they have the score `monitor`.

    Raises:
        ConfigError: there are no such rows, or none with the other label.
    """
    if prepared.valid is None:
        raise ConfigError(
            "there are no validation rows to choose by", mend="Name some with --valid, or set data.valid_fraction."
        )
    labels = prepared.valid.labels
    if monitor != "logloss" and labels.min() == labels.max():
        raise ConfigError(
            f"all validation rows have the label {labels[0]:.0f}: their {monitor.upper()} is not defined",
            mend="Give --valid other rows, or a larger data.valid_fraction.",
        )


def _settled(config: Config, prepared: Prepared, threads: int) -> Config:
    """The settings with nothing left to be found: batch size, threads, precision, where the rows lie and which ones."""
    train = {
        "batch_size": batch_size_for(config, len(prepared.train)),
        "threads": threads,
        "precision": precision_on(config.train.device, config.train.precision),
        "teacher": None if config.train.teacher is None else str(Path(config.train.teacher).absolute()),
    }
    sources: dict[str, Any] = {
        split: tuple(path if "://" in path else str(Path(path).absolute()) for path in getattr(config.source, split))
        for split in ("data", "valid", "test")
    }
    sources["fingerprint"] = prepared.path.name
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "source": config.source.model_copy(update=sources),
        }
    )


def create(folder: Path, config: Config, prepared: Prepared, start: Start | None = None) -> None:
    """Make the run folder with its settings and encoder, and what training starts from, in one move."""
    with checkpoint.new_folder(folder, mend="Choose another --out.") as beside:
        prepared.encoder.save(beside / "encoder")
        checkpoint.write_text(beside / "config.yaml", dump_yaml(config))
        if start is not None:
            start.save(beside)


def same_rows(config: Config, folder: Path, announce: Announce) -> Prepared:
    """The encoded rows of a run; they must be those that it began with."""
    if not config.source.data:
        raise RunError(
            "CTRClassifier.save wrote this folder: it holds a model, but not where its training rows lie",
            file=folder,
            mend="It can predict and evaluate; to train on, use CTRClassifier.load(...).partial_fit in Python.",
        )
    prepared = prepare_sources(config, announce)
    if prepared.path.name != config.source.fingerprint:
        raise RunError(
            "the data are not those that the run began with",
            file=folder,
            mend=f"Put the original files back, or start anew with --recipe {folder / 'config.yaml'}",
        )
    return prepared


def prepare_sources(config: Config, announce: Announce) -> Prepared:
    """The encoded store of the config's sources."""
    source = config.source
    prepared = prepare(
        list(source.data),
        config.data,
        valid=list(source.valid) or None,
        test=list(source.test) or None,
        seed=config.train.seed,
        announce=announce,
    )
    announce("\n".join(prepared.encoder.schema.lines()))
    return prepared


def finish(
    config: Config,
    prepared: Prepared,
    folder: Path,
    announce: Announce,
    observer: Observer | None,
    should_stop: Callable[[], bool],
    report: bool,
) -> dict[str, Any]:
    """Train, judge and report in a run folder that holds its settings."""
    model, progress = train_prepared(config, prepared, folder, announce, observer, should_stop)
    if progress.stopped:
        announce(f"no better for {config.train.patience} epochs: the weights of epoch {progress.best_epoch} are kept")
    result, judged = judge(config, prepared, model, progress, folder)
    checkpoint.write_text(folder / "metrics.json", json.dumps(result, indent=2) + "\n")
    if report:
        announce("writing report.html")
        write_report(config, prepared, model, progress.history, result, judged, folder)
    return result


def train_prepared(
    config: Config,
    prepared: Prepared,
    folder: Path,
    announce: Announce = quiet,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    learner_of: LearnerOf = Learner,
) -> tuple[ClickModel, Progress]:
    """Train on encoded rows; weights and checkpoints go to `folder`, from whose checkpoint it goes on if there is one.

    Where the folder holds weights to start from, training begins at these, and leaves none that are worse.

    Raises:
        Interrupted: `should_stop` said so; the checkpoint is written.
        DivergedError: the loss became NaN or infinite.
    """
    start = Start.load(folder)
    facts = checkpoint.facts(folder / "checkpoint" / "state.safetensors")
    before = Progress(num_epochs=start.epochs if start else None) if facts is None else Progress(**facts)
    rows = prepared.train
    if config.train.teacher is not None and not is_done(before, config):
        rows = taught(config, prepared, announce)
    with seeded(config.train.seed):
        model = ClickModel(
            config.model,
            prepared.encoder.layout,
            init_std=config.optim.init_std,
            device=config.train.device,
            compression=config.compression,
        )
        trainer = Trainer(
            config,
            model,
            rows,
            prepared.valid,
            folder,
            observer=observer,
            should_stop=should_stop,
            learner_of=learner_of,
            start=start,
        )
        if trainer.restore():
            where = f"resuming after epoch {trainer.progress.epoch}, step {trainer.progress.step}"
            announce("training is finished; judging it again" if trainer.is_done else where)
        if trainer.batch_size > len(prepared.train):
            announce(
                f"the batch holds all {len(prepared.train):,} training rows: one update an epoch, at rates meant for "
                f"{trainer.batch_size:,}. Leave --batch-size out to have one chosen."
            )
        announce(
            f"{config.model.name}: {model.num_parameters:,} weights, {len(prepared.train):,} training rows, "
            f"batch {trainer.batch_size:,}, {trainer.steps_per_epoch:,} steps an epoch"
        )
        if model.device.type == "cpu":
            warm_up(announce)
        progress = trainer.run()
    if config.compression.packs:
        _pack(model, config, prepared, progress, start)
        checkpoint.save(folder / "model.safetensors", model.tensors(), {"epoch": progress.best_epoch})
    Start.remove(folder)
    calibrate(model, config, prepared.valid)
    calibration.save(folder, model.calibration)
    return model, progress


def _pack(model: ClickModel, config: Config, prepared: Prepared, progress: Progress, start: Start | None) -> None:
    """Hold the best weights as the finished model does, or those that training started from, if they are better so."""
    model.pack()
    if start is None or not progress.best_epoch or prepared.valid is None:
        return
    best = monitored(evaluate(model, prepared.valid).scores, config.train.monitor)
    tensors = {name: tensor.clone() for name, tensor in model.tensors().items()}
    model.load_tensors(start.tensors, "the weights to start from")
    model.pack()
    before = monitored(evaluate(model, prepared.valid).scores, config.train.monitor)
    assert best is not None
    assert before is not None
    if before > best:
        progress.best_epoch = 0
    else:
        model.load_tensors(tensors, "the best weights")


def judge(
    config: Config, prepared: Prepared, model: ClickModel, progress: Progress, folder: Path
) -> tuple[dict[str, Any], dict[str, Scored]]:
    """Score the best weights on the held-out rows; returns the content of metrics.json and the scored splits."""
    began = time.perf_counter()
    judged = _score_splits(prepared, model)
    seconds = time.perf_counter() - began
    test = judged["test"].scores if "test" in judged else None
    result = {
        "model": config.model.name,
        "rows": {
            "train": len(prepared.train),
            "valid": len(prepared.valid) if prepared.valid is not None else 0,
            "test": len(prepared.test) if prepared.test is not None else 0,
        },
        "batch_size": config.train.batch_size,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "valid": judged["valid"].scores if "valid" in judged else None,
        "test": {name: test[name] for name in TEST_SCORES} if test is not None else None,
        "seconds": {
            "encode": round(prepared.seconds, 3),
            "train": round(progress.seconds, 3),
            "evaluate": round(seconds, 3),
        },
        "samples_per_second": round(progress.rows / progress.seconds, 1) if progress.seconds else None,
        "peak_rss_mib": round(machine.peak_rss_mib(), 1),
        "run": str(folder),
    }
    return result, judged


def _score_splits(prepared: Prepared, model: ClickModel) -> dict[str, Scored]:
    """The held-out splits that there are, scored."""
    splits = {"valid": prepared.valid, "test": prepared.test}
    return {name: evaluate(model, store) for name, store in splits.items() if store is not None}


def explain_run(folder: Path, announce: Announce = quiet) -> Drivers | None:
    """What drives a finished run's predictions, on a sample of its held-out rows; None where too few tell anything."""
    run = load(folder)
    use_threads(run.config.train.threads)
    prepared = same_rows(run.config, folder, announce)
    stores = (prepared.test, prepared.valid, prepared.train)
    store = next(store for store in stores if store is not None)
    sample = store.sample(IMPORTANCE_ROWS, run.config.train.seed)
    return drivers(run.model.predict, sample, run.encoder, seed=run.config.train.seed)


def report_run(folder: Path, announce: Announce = quiet) -> Path:
    """Write report.html of a finished run again, from its sources."""
    run = load(folder)
    use_threads(run.config.train.threads)
    if run.config.source.data and not (folder / "metrics.json").exists():
        raise RunError("the run is not finished", file=folder, mend=f"Finish it: clickherd train --resume {folder}")
    prepared = same_rows(run.config, folder, announce)
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((folder / "metrics.json").read_text())
    judged = _score_splits(prepared, run.model)
    return write_report(run.config, prepared, run.model, history, result, judged, folder)
