"""`clickherd data …`: the catalogue, the built-in click log, and the profile of a user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(no_args_is_help=True)
err = Console(stderr=True)


@app.command(name="list")
def list_() -> None:
    """The public data sets that `get` knows."""
    from clickherd.data.catalog import list_datasets

    for dataset in list_datasets():
        typer.secho(dataset.name, bold=True)
        typer.echo(f"  {dataset.size}; the label: {dataset.label}\n  {dataset.licence}\n  {dataset.origin}")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name from `clickherd data list`.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
) -> None:
    """Fetch a public data set, or take it from the folder that CLICKHERD_DATA names."""
    from clickherd.data import catalog

    for path in catalog.get(name, out):
        typer.echo(path)


@app.command()
def synth(
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")],
    out: Annotated[Path, typer.Option(help="The file to write: .parquet, .csv, .tsv, plain or .gz.")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same log.")] = 0,
) -> None:
    """Write the built-in click log: Criteo-shaped, with the true click probability of every row."""
    from clickherd.data import synthetic

    synthetic.write(out, rows, seed=seed)
    err.print(f"{rows:,} rows in {out}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def describe(
    data: Annotated[list[str], typer.Argument(help="Files, globs, folders or URLs.")],
    label: Annotated[str | None, typer.Option(help="The label's column, if there is one.")] = None,
    format: Annotated[  # noqa: A002  (the flag's name)
        str, typer.Option(help="auto, csv, tsv, parquet, arrow or criteo.")
    ] = "auto",
) -> None:
    """Which role each column would play, how many values it has, and what is missing."""
    from clickherd.data.config import DataConfig
    from clickherd.data.describe import describe_source
    from clickherd.settings import validated

    settings = {"format": format} | ({"label": label} if label else {})
    config = validated(DataConfig, settings, within="data")
    table = Table("column", "role", "distinct", "missing", "examples", "note")
    for row in describe_source(data, config, need_label=label is not None):
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
