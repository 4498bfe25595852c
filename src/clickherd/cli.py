"""The command line: verbs, thin over the Python API. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 1 a fault of ours, 2 the user's input is at fault, 130 interrupted with a checkpoint on disk.
Heavy imports happen inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clickherd import __version__
from clickherd.cli_data import app as data_app
from clickherd.errors import ConfigError, Interrupted, UserError

if TYPE_CHECKING:
    from clickherd.runs import Run

INTERRUPTED = 130  # as shells have it for Ctrl-C

app = typer.Typer(
    help="Click logs in, a calibrated click model out, trained at huge batches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data", help="Catalogue, built-in click log, profile of your own files.")

err = Console(stderr=True)

Sources = Annotated[
    list[str], typer.Argument(help="Files, globs, folders or URLs: CSV, TSV (gz, zst), Parquet, Arrow.")
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="How to read the rows: data.format, data.separator or data.header."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"clickherd {__version__}")
        raise typer.Exit


@app.command()
def train(
    data: Annotated[
        list[str] | None, typer.Argument(help="Files, globs, folders or URLs: CSV, TSV (gz, zst), Parquet, Arrow.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column that says whether the row was clicked.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label's value that counts as a click, if not 1.")] = None,
    model: Annotated[str | None, typer.Option(help="deepfm, dcnv2, …; a wrong name lists all.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per update; found by itself when not given.")] = None,
    rule: Annotated[str | None, typer.Option(help="none, sqrt, linear, n2-lambda or cowclip.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many passes over the rows.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; it must not exist yet.")] = None,
    valid: Annotated[list[str] | None, typer.Option(help="Validation rows: a file, glob, folder or URL.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test rows: a file, glob, folder or URL.")] = None,
    split: Annotated[str | None, typer.Option(help="random or time, when no such files are given.")] = None,
    time_column: Annotated[
        str | None, typer.Option(help="Column that orders the rows, for --split time and --history.")
    ] = None,
    format: Annotated[  # noqa: A002  (the flag's name)
        str | None, typer.Option(help="auto, csv, tsv, parquet, arrow or criteo.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=ROLE", help="numeric, categorical, multi, timestamp or ignored; repeatable."),
    ] = None,
    cross: Annotated[
        list[str] | None,
        typer.Option(metavar="A*B", help="Combinations of the values of A and B as a column; repeatable."),
    ] = None,
    sequence: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN:TARGET", help="A list of the TARGET's values, in order; repeatable."),
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'ITEM by USER'",
            help="The same user's earlier items as a sequence, by --time-column; with 'ITEM by USER where CLICKED' "
            "those clicked; repeatable.",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column by which GAUC groups rows, such as a user id.")] = None,
    min_count: Annotated[int | None, typer.Option(help="Rarer values become 'unknown'.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML of settings; flags go before it.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as optim.l2=1e-5.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: the same weights.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue a cut-off run.")] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a click model on raw logs."""
    settings = _settings(
        {
            "data.label": label,
            "data.positive": positive,
            "data.format": format,
            "data.split": split,
            "data.time_column": time_column,
            "data.crosses": [item.split("*") for item in cross] if cross else None,
            "data.sequences": _pairs(sequence or [], "--sequence", ":") or None,
            "data.histories": history or None,
            "data.group": group,
            "data.min_count": min_count,
            "data.roles": _pairs(role or [], "--role") or None,
            "model.name": model,
            "optim.rule": rule,
            "train.batch_size": batch_size,
            "train.epochs": epochs,
            "train.seed": seed,
            "train.threads": threads,
            "train.device": device,
            "source.data": data or None,
            "source.valid": valid or None,
            "source.test": test or None,
        }
    )
    if resume is not None and (settings or recipe or set_ or out):
        raise ConfigError("--resume takes its data and settings from the run folder", mend="Leave the rest out.")
    from clickherd import runs
    from clickherd.config import load_yaml, merge, parse_assignments, resolve
    from clickherd.optim.scaling import Hyperparameters
    from clickherd.progress import RichObserver

    stop = _StopSignal()

    class Watch(RichObserver):
        """The progress bar; while it shows, batches are trained."""

        def start(self, num_epochs: int, rows_per_epoch: int, hyper: Hyperparameters) -> None:
            stop.training = True
            super().start(num_epochs, rows_per_epoch, hyper)

        def finish(self) -> None:
            stop.training = False
            super().finish()

    shared: dict[str, Any] = {
        "announce": _announce,
        "observer": Watch(err),
        "should_stop": stop,
        "report": report,
    }
    if resume is not None:
        result = runs.resume_run(resume, **shared)
    else:
        base = load_yaml(recipe) if recipe else {}
        config = resolve(merge(merge(base, settings), parse_assignments(set_ or [])), source=recipe)
        if not config.source.data:
            raise ConfigError(
                "no data given", mend="Name at least one file: clickherd train clicks.csv --label clicked"
            )
        folder = out or Path("runs") / f"{config.model.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        result = runs.train_run(config, folder, **shared)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_result(result)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Sources,
    set_: Reading = None,
    as_json: AsJson = False,
) -> None:
    """Score a trained model on labelled rows."""
    trained = _load(run, set_)
    scores = trained.evaluate(data)
    unseen = {name: count for name, count in trained.encoder.unseen.items() if count}
    if as_json:
        typer.echo(json.dumps({**scores, "unseen": unseen}))
        return
    table = Table("score", "value")
    for name, value in scores.items():
        table.add_row(name, "–" if value is None else f"{value:.5f}")
    Console().print(table)
    _print_unseen(unseen)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    data: Sources,
    out: Annotated[Path, typer.Option(help="Where the probabilities go: .csv or .parquet, one row per input row.")],
    set_: Reading = None,
) -> None:
    """Write the click probability of every row."""
    from clickherd.predictions import write_predictions

    trained = _load(run, set_)
    rows = write_predictions(out, (scores for scores, _ in trained.predictions(data)))
    _announce(f"{rows:,} probabilities in {out}")
    _print_unseen({name: count for name, count in trained.encoder.unseen.items() if count})


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A finished run folder.")]) -> None:
    """Write the run's report.html again."""
    from clickherd import runs

    typer.echo(runs.report_run(run, announce=_announce))


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="The network.")] = "deepfm",
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Rows per update; repeatable. 1,024 to 131,072 when not given.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of an epoch, at least two batches.")] = 262_144,
    ids: Annotated[int, typer.Option(min=1, help="Values of all fields together.")] = 1_000_000,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as train.precision=bf16.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How fast this machine trains, beside what its matrix products allow."""
    from clickherd import machine
    from clickherd.bench import bench as measure
    from clickherd.config import merge, parse_assignments, resolve
    from clickherd.runtime import precision_on

    config = resolve(merge({"model": {"name": model}}, parse_assignments(set_ or [])))
    batch_sizes = batch_size or [1024, 8192, 65_536, 131_072]
    precision = precision_on("cpu", config.train.precision)
    _announce(f"{machine.describe()}\n{config.model.name}, products in {precision}; nothing else should run meanwhile")
    table = Table("batch", "rows/s", "products alone", "share", "peak MiB")
    records = []
    for record in measure(config, rows=rows, ids=ids, batch_sizes=batch_sizes):
        records.append(record)
        table.add_row(
            f"{record['batch_size']:,}",
            f"{record['rows_per_second']:,.0f}",
            "–" if record["share"] is None else f"{record['products_rows_per_second']:,.0f}",
            "–" if record["share"] is None else f"{record['share']:.0%}",
            f"{record['peak_rss_mib']:,.0f}",
        )
    if as_json:
        typer.echo(json.dumps({"machine": machine.describe(), "results": records}))
    else:
        Console().print(table)


def _load(run: Path, assignments: list[str] | None) -> Run:
    """The run, which reads new files as the settings say; nothing else about it can be set."""
    from clickherd import runs
    from clickherd.config import parse_assignments

    settings = parse_assignments(assignments or [])
    reading = settings.pop("data", {})
    odd = [*settings, *(f"data.{name}" for name in reading if name not in ("format", "separator", "header"))]
    if odd:
        raise ConfigError(
            f"a trained model does not take {odd[0]}",
            mend="Only data.format, data.separator and data.header can be set.",
        )
    return runs.load(run, reading=reading)


def _announce(message: str) -> None:
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def _print_error(message: str) -> None:
    err.print(Text.assemble(("error", "bold red"), " ", message), highlight=False, soft_wrap=True)


class _StopSignal:
    """While batches are trained, the first Ctrl-C or SIGTERM asks to stop at the next one; the second ends at once."""

    def __init__(self) -> None:
        self.asked = self.training = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.asked or not self.training:
            raise KeyboardInterrupt
        self.asked = True
        err.print("stopping after this batch (again to stop at once)")

    def __call__(self) -> bool:
        return self.asked


def _settings(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given, as nested settings."""
    settings: dict[str, Any] = {}
    for key, value in flags.items():
        if value is not None:
            group, _, name = key.partition(".")
            settings.setdefault(group, {})[name] = value
    return settings


def _pairs(items: list[str], flag: str, sign: str = "=") -> dict[str, str]:
    pairs = {}
    for item in items:
        column, found, value = item.rpartition(sign)
        if not found:
            raise ConfigError(f"cannot read {flag} {item!r}", mend=f"Write it as COLUMN{sign}VALUE.")
        pairs[column] = value
    return pairs


def _print_result(result: dict[str, Any]) -> None:
    table = Table("", "AUC", "logloss", "GAUC", "NE", "calibration")
    for split in ("valid", "test"):
        if result[split]:
            values = [result[split][name] for name in ("auc", "logloss", "gauc", "ne", "calibration")]
            table.add_row(split, *("–" if v is None else f"{v:.4f}" for v in values))
    console = Console()
    console.print(table)
    console.print(f"results in {result['run']}", highlight=False, markup=False, soft_wrap=True)


def _print_unseen(unseen: dict[str, int]) -> None:
    if unseen:
        parts = ", ".join(f"{name} {count:,}" for name, count in sorted(unseen.items(), key=lambda item: -item[1]))
        _announce(f"values not seen often enough in training, taken as unknown: {parts}")


def main() -> None:
    """Entry point of the `clickherd` command."""
    try:
        app()
    except UserError as error:
        _print_error(str(error))
        sys.exit(2)
    except Interrupted as stop:
        _announce(f"interrupted; continue with: clickherd train --resume {stop.folder}")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's answer to a KeyboardInterrupt, which does not come this far
            _print_error("interrupted; what had been trained since the last checkpoint is lost")
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _print_error(f"the disk is full: {error}. Free some space and run it again.")
        sys.exit(2)
