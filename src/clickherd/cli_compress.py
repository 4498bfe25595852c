"""`clickherd compress`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from clickherd.cli_shared import AsJson, StopSignal, announce, watch


def compress(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    ratio: Annotated[float | None, typer.Option(help="How many times smaller; 4 by default.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Of training on with the smaller model; 2 by default, 0 for none.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Of that training, as a share of the run's own rates; 0.03 by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new run folder; RUN-compressed by default.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make a trained model several times smaller: shorter rows, fewer bits, dense layers of low rank."""
    from clickherd.compression.compress import CompressConfig, compress_run
    from clickherd.report.compression import FRONTIER, frontier_rows, told
    from clickherd.settings import validated

    given = {"ratio": ratio, "epochs": epochs, "rate": rate}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = validated(CompressConfig, chosen, within="compress")
    whole = run.resolve()
    folder = out or run.parent / f"{whole.name}-compressed"
    stop = StopSignal()
    result = compress_run(
        run,
        settings,
        folder,
        device=device,
        threads=threads,
        announce=announce,
        observer=watch(stop),
        should_stop=stop,
        report=report,
    )
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in FRONTIER:
        table.add_column(name, justify="right" if name else "left")
    for row in frontier_rows(result["compression"]):
        table.add_row(*row)
    console = Console()
    console.print(table)
    for line in (told(result["compression"]), f"report in {folder / 'compress.md'}", f"results in {folder}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
