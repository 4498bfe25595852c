"""`clickherd widths DATA …`: do rates that suit a narrow model suit a wide one?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from clickherd.cli_shared import AsJson, Given, announce, folder_for, nested, takes_settings
from clickherd.errors import ConfigError


@takes_settings
def widths(
    given: Given,
    times: Annotated[
        list[int] | None,
        typer.Option(min=1, help="A width, as a multiple of the narrow model's; repeatable. 1, 2, 4 and 8 by default."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train at each width.")] = 40,
    batch_size: Annotated[int | None, typer.Option(help="Rows per update; found by itself when not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="The result's folder; an earlier result is replaced.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a step changes as much at every width, with μP and without (coordinate check).

    The narrow model is the one of the other options, or what optim.mup_base names.
    """
    if "epochs" in given.flags.get("train", {}):
        raise ConfigError("--epochs has no meaning for widths", mend="Say --steps, in batches.")
    config = given.over(nested({"train.batch_size": batch_size})).config("widths")
    from clickherd.report.widths import head, rows, told
    from clickherd.widths import Doubling, check_widths

    folder = out or folder_for("widths", config)
    result = check_widths(config, Doubling(times or Doubling.times, steps), folder, announce=announce)
    if as_json:
        typer.echo(json.dumps(result))
        return
    console = Console()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in head(result):
        table.add_column(name, justify="left" if name in ("layer", "") else "right", no_wrap=True)
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    for line in [*told(result), f"table and chart in {folder / 'report.md'}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
