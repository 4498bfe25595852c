"""`clickherd select DATA …`: what each column tells about clicks, and which to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from clickherd.cli_shared import AsJson, Given, announce, folder_for, takes_settings


@takes_settings
def select(
    given: Given,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep so many columns, the best; all above the noise when not given.")
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=0, help="Look at every two of so many columns, the best by themselves; 0: at none.")
    ] = 64,
    out: Annotated[Path | None, typer.Option(help="The result's folder; an earlier result is replaced.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank the columns by what they tell about clicks; report drift, gaps and identifiers."""
    config = given.config("select")
    from clickherd.report.selection import told
    from clickherd.selection.ranking import Ranking, rank_features

    folder = out or folder_for("select", config, "outrank")
    result = rank_features(config, Ranking(keep, pairs), folder, announce=announce)
    if as_json:
        typer.echo(json.dumps(result))
        return
    console = Console()
    console.print(_table(result))
    for line in [*told(result), f"table and chart in {folder / 'report.md'}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"clickherd train … --features {folder / 'features.yaml'}", highlight=False, markup=False, soft_wrap=True
    )


def _table(result: dict[str, Any]) -> Table:
    from clickherd.report.selection import HEAD, rows

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in HEAD:
        table.add_column(name, justify="left" if name in ("column", "remarks") else "right")
    for row in rows(result):
        table.add_row(*row)
    return table
