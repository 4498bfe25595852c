"""The command line: verbs, thin over the Python API. Progress goes to stderr, results to stdout.

Exit codes: 0 done, 1 a fault of ours, 2 the user's input is at fault, 130 interrupted with a checkpoint on disk.
Heavy imports happen inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clickherd import __version__
from clickherd.cli_compress import compress
from clickherd.cli_creative import app as creative_app
from clickherd.cli_data import app as data_app
from clickherd.cli_scale import scale
from clickherd.cli_select import select
from clickherd.cli_shared import AsJson, Given, StopSignal, announce, err, nested, takes_settings, watch
from clickherd.cli_tune import tune
from clickherd.cli_widths import widths
from clickherd.errors import ConfigError, Interrupted, UserError

if TYPE_CHECKING:
    from clickherd.loaded import Run

INTERRUPTED = 130  # as shells have it for Ctrl-C

app = typer.Typer(
    help="Click logs in, a calibrated click model out, trained at huge batches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(creative_app, name="creative", help="Pictures from words, in CLIP's latent space (extra: creative).")
app.add_typer(data_app, name="data", help="Catalogue, built-in click log, profile of your own files.")

Sources = Annotated[
    list[str], typer.Argument(help="Files, globs, folders or URLs: CSV, TSV (gz, zst), Parquet, Arrow.")
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="How to read the rows: data.format, data.separator or data.header."
    ),
]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"clickherd {__version__}")
        raise typer.Exit


@app.command()
@takes_settings
def train(
    given: Given,
    batch_size: Annotated[int | None, typer.Option(help="Rows per update; found by itself when not given.")] = None,
    rule: Annotated[str | None, typer.Option(help="root, none, sqrt, linear, n2-lambda or cowclip.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; it must not exist yet.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue a cut-off run.")] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    as_json: AsJson = False,
) -> None:
    """Train a click model on raw logs."""
    given = given.over(nested({"optim.rule": rule, "train.batch_size": batch_size}))
    if resume is not None and (given or out):
        raise ConfigError("--resume takes its data and settings from the run folder", mend="Leave the rest out.")
    from clickherd import runs

    stop = StopSignal()
    shared: dict[str, Any] = {
        "announce": announce,
        "observer": watch(stop),
        "should_stop": stop,
        "report": report,
    }
    if resume is not None:
        result = runs.resume_run(resume, **shared)
    else:
        config = given.config("train")
        folder = out or Path("runs") / f"{config.model.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        result = runs.train_run(config, folder, **shared)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_result(result)


app.command()(scale)
app.command()(tune)
app.command()(select)
app.command()(compress)
app.command()(widths)


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
    _check_no_source(out, data, trained.config.data.format)
    rows = write_predictions(out, (scores for scores, _ in trained.predictions(data)))
    announce(f"{rows:,} probabilities in {out}")
    _print_unseen({name: count for name, count in trained.encoder.unseen.items() if count})


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    explain: Annotated[bool, typer.Option("--explain", help="Print what drives the predictions, and no page.")] = False,
) -> None:
    """Write the run's report.html again."""
    from clickherd import runs

    if explain:
        found = runs.explain_run(run, announce=announce)
        typer.echo("\n".join(found.lines()) if found else "too few rows, or all are predicted the same")
        return
    typer.echo(runs.report_run(run, announce=announce))


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
    announce(f"{machine.describe()}\n{config.model.name}, products in {precision}; nothing else should run meanwhile")
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
    from clickherd.config import parse_assignments
    from clickherd.loaded import load

    settings = parse_assignments(assignments or [])
    reading = settings.pop("data", {})
    odd = [*settings, *(f"data.{name}" for name in reading if name not in ("format", "separator", "header"))]
    if odd:
        raise ConfigError(
            f"a trained model does not take {odd[0]}",
            mend="Only data.format, data.separator and data.header can be set.",
        )
    return load(run, reading=reading)


def _check_no_source(out: Path, data: list[str], file_format: str) -> None:
    """See that what is written is none of the files that are read."""
    from clickherd.data.locate import locate

    if out.exists() and any(file.filesystem is None and out.samefile(file.path) for file in locate(data, file_format)):
        raise ConfigError(
            "the probabilities would replace the rows that they are for", file=out, mend="Choose another --out."
        )


def _print_error(message: str) -> None:
    err.print(Text.assemble(("error", "bold red"), " ", message), highlight=False, soft_wrap=True)


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
        announce(f"values not seen often enough in training, taken as unknown: {parts}")


def main() -> None:
    """Entry point of the `clickherd` command."""
    try:
        app()
    except UserError as error:
        _print_error(str(error))
        sys.exit(2)
    except Interrupted as stop:
        announce(f"interrupted; continue with: {stop.command}")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's answer to a KeyboardInterrupt, which does not come this far
            _print_error("interrupted; what was trained since the last checkpoint, if anything, is lost")
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _print_error(f"the disk is full: {error}. Free some space and run it again.")
        sys.exit(2)
