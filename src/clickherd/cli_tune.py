"""`clickherd tune DATA …`: a search for the settings that suit the data."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from clickherd.cli_shared import (
    AsJson,
    Given,
    StopSignal,
    announce,
    folder_for,
    nested,
    same_command,
    takes_settings,
    watch,
)
from clickherd.errors import ConfigError, Interrupted, did_you_mean


@takes_settings
def tune(
    given: Given,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, those of earlier calls included.")] = 20,
    search: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RANGE", help="low..high, low..high:log or a|b|c, beside the rest; repeatable."),
    ] = None,
    space: Annotated[Path | None, typer.Option(help="YAML of ranges, in place of the model's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per update; found by itself when not given.")] = None,
    rule: Annotated[str | None, typer.Option(help="root, none, sqrt, linear, n2-lambda or cowclip.")] = None,
    pruner: Annotated[str, typer.Option(help="How bad trials are cut short: median, halving or none.")] = "median",
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="A database for the trials, such as postgresql://….")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder; it goes on with what is there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search hyper-parameters; several processes may run the same command on one study."""
    given = given.over(nested({"optim.rule": rule, "train.batch_size": batch_size}))
    config = given.config("tune")
    from clickherd.config import parse_assignments
    from clickherd.search_space import flat, user_space
    from clickherd.tune import Pruner, Search
    from clickherd.tune import tune as run

    if pruner not in get_args(Pruner):
        raise ConfigError(f"unknown pruner {pruner!r}", mend=did_you_mean(pruner, get_args(Pruner)))
    fixed = flat(parse_assignments(given.assignments))
    settings = Search(
        user_space(config, file=space, searches=search or (), fixed=fixed), trials, cast(Pruner, pruner), storage
    )
    stop = StopSignal()
    folder = out or folder_for("tune", config)
    try:
        result = run(
            config,
            settings,
            folder,
            announce=announce,
            observer=partial(watch, stop, lines=False),
            should_stop=stop,
        )
    except Interrupted as cut:
        raise Interrupted(cut.folder, same_command()) from None
    if as_json:
        typer.echo(json.dumps(result))
        return
    _print(result, folder)


def _print(result: dict[str, Any], folder: Path) -> None:
    from clickherd.report.search import SETTINGS, settings, told

    console = Console()
    lines = [*told(result), f"trials and charts in {folder / 'report.md'}"]
    if result["best"]:
        table = Table(*SETTINGS)
        for row in settings(result):
            table.add_row(*row)
        console.print(table)
        lines.append(f"clickherd train --recipe {folder / 'best.yaml'}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
