"""`clickherd scale DATA …`: how large a batch the data bear, and by which rule."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from clickherd.cli_shared import AsJson, Given, StopSignal, announce, folder_for, same_command, takes_settings, watch
from clickherd.errors import Interrupted


@takes_settings
def scale(
    given: Given,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Rows per update; repeatable. Up to four by themselves.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="root, none, sqrt, linear, n2-lambda or cowclip; repeatable. All by themselves."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each batch size and rule, with seeds from --seed on.")] = 3,
    margin: Annotated[
        float, typer.Option(min=0, help="How far below the best validation AUC the recommended batch may be.")
    ] = 0.0005,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; runs that it holds are not repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sweep batch sizes and scaling rules; recommend the largest batch that costs no accuracy."""
    config = given.config("scale")
    from clickherd.scale import Grid, recommendation_lines, sweep

    stop = StopSignal()
    folder = out or folder_for("scale", config)
    try:
        result = sweep(
            config,
            Grid(batch_size or (), rule or (), seeds),
            folder,
            margin=margin,
            announce=announce,
            observer=partial(watch, stop, lines=False),
            should_stop=stop,
        )
    except Interrupted as cut:
        raise Interrupted(cut.folder, same_command()) from None
    if as_json:
        typer.echo(json.dumps(result))
        return
    console = Console()
    console.print(_table(result))
    for line in [*recommendation_lines(result), f"table and chart in {folder / 'report.md'}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if result["recommended"]:
        console.print(f"clickherd train --recipe {folder / 'recommended.yaml'}", markup=False, soft_wrap=True)


def _table(result: dict[str, Any]) -> Table:
    """The report's table without logloss, to fit a terminal."""
    from clickherd.report.sweep import HEAD, rows

    kept = [place for place, name in enumerate(HEAD) if "logloss" not in name]
    shown = Table(*(HEAD[place] for place in kept), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows(result):
        shown.add_row(*(row[place] for place in kept))
    return shown
