"""`clickherd select DATA …`: what each column tells about clicks, which to train on, which values are worth a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
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
from clickherd.settings import Settings

if TYPE_CHECKING:
    from clickherd.config import Config

Chosen = Mapping[str, float | None]
Outcome = tuple[dict[str, Any], Table, list[str]]
Group = TypeVar("Group", bound=Settings)
METHODS = ("outrank", "gates", "optfs", "optembed")


@takes_settings
def select(
    given: Given,
    method: Annotated[
        str,
        typer.Option(
            help="outrank counts and ranks columns; gates learns which are worth having; optfs learns which values are "
            "worth an embedding row; optembed that, and how many numbers the rows of each column are worth."
        ),
    ] = "outrank",
    keep: Annotated[int | None, typer.Option(min=1, help="outrank, gates: keep so many columns, the best.")] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            min=0, help="outrank: look at every two of so many columns, the best by themselves; 64 by default."
        ),
    ] = None,
    penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The more, the less is kept; in nats over all training rows. gates: what a column has to be worth, 5 "
            "by default; optfs: a value, 0.2; optembed: how hard a column's threshold is pushed up from zero, 2.",
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="gates: so many gates a column; 8 by default.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="optembed: of the whole table's numbers; 0.5 by default."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="gates, optfs, optembed: rows per update.")] = None,
    out: Annotated[Path | None, typer.Option(help="The result's folder; an earlier result is replaced.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank the columns by what they tell about clicks; or find the values that a model can do without."""
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}", mend=did_you_mean(method, METHODS))
    of_search = {"--penalty": penalty, "--batch-size": batch_size, "--layers": layers, "--budget": budget}
    others: dict[str, dict[str, Any]] = {
        "outrank": of_search | _of_training(given),
        "gates": {"--pairs": pairs, "--budget": budget},
        "optfs": {"--keep": keep, "--pairs": pairs, "--layers": layers, "--budget": budget},
        "optembed": {"--keep": keep, "--pairs": pairs, "--layers": layers},
    }
    for flag, value in others[method].items():
        if value is not None:
            raise ConfigError(f"{flag} has no meaning for {method}", mend="Leave it out, or choose another --method.")
    given = given.over(nested({"train.batch_size": batch_size})).but("compression")  # dims of --features
    config = given.config("select")
    folder = out or folder_for("select", config, method)
    if method == "outrank":
        result, table, lines = _rank(config, keep, 64 if pairs is None else pairs, folder)
    elif method == "optfs":
        result, table, lines = _select_values(given, {"penalty": penalty}, folder)
    elif method == "optembed":
        result, table, lines = _select_sizes(given, {"penalty": penalty, "share": budget}, folder)
    else:
        result, table, lines = _select_fields(given, {"penalty": penalty, "layers": layers}, keep, folder)
    if as_json:
        typer.echo(json.dumps(result))
        return
    console = Console()
    console.print(table)
    for line in [
        *lines,
        f"report in {folder / 'report.md'}",
        f"clickherd train … --features {folder / 'features.yaml'}",
    ]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _of_training(given: Given) -> dict[str, Any]:
    """Shared options that say how a model is trained, by their flags."""
    model, train = given.flags.get("model", {}), given.flags.get("train", {})
    return {"--model": model.get("name"), "--epochs": train.get("epochs"), "--device": train.get("device")}


def _rank(config: Config, keep: int | None, pairs: int, folder: Path) -> Outcome:
    from clickherd.report.selection import HEAD, rows, told
    from clickherd.selection.ranking import Ranking, rank_features

    result = rank_features(config, Ranking(keep, pairs), folder, announce=announce)
    return result, _table(HEAD, rows(result)), told(result)


def _select_values(given: Given, chosen: Chosen, folder: Path) -> Outcome:
    from clickherd.report.selection import VALUES, told_values, value_rows
    from clickherd.selection.optfs import OptFSConfig
    from clickherd.selection.values import EPOCHS, select_values

    result = _searched(given, EPOCHS, _settings(OptFSConfig, chosen), folder, select_values)
    return result, _table(VALUES, value_rows(result)), [told_values(result)]


def _select_sizes(given: Given, chosen: Chosen, folder: Path) -> Outcome:
    from clickherd.report.selection import SIZES, size_rows, told_sizes
    from clickherd.selection.optembed import OptEmbedConfig
    from clickherd.selection.sizes import EPOCHS, select_sizes

    result = _searched(given, EPOCHS, _settings(OptEmbedConfig, chosen), folder, select_sizes)
    return result, _table(SIZES, size_rows(result)), told_sizes(result)


def _select_fields(given: Given, chosen: Chosen, keep: int | None, folder: Path) -> Outcome:
    from clickherd.report.selection import FIELDS, field_rows, told
    from clickherd.selection.fields import EPOCHS, select_fields
    from clickherd.selection.gating import FieldGatesConfig

    settings = _settings(FieldGatesConfig, chosen)
    result = _searched(given, EPOCHS, settings, folder, partial(select_fields, keep=keep))
    return result, _table(FIELDS, field_rows(result)), told(result)


def _settings(kind: type[Group], chosen: Chosen) -> Group:
    return kind.model_validate({name: value for name, value in chosen.items() if value is not None})


def _searched(
    given: Given, epochs: int, settings: Settings, folder: Path, method: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    """The result of a search with gates, which can be cut off."""
    config, stop = given.config("select", {"train": {"epochs": epochs}}), StopSignal()
    try:
        return method(config, settings, folder, announce=announce, observer=watch(stop), should_stop=stop)
    except Interrupted as cut:
        raise Interrupted(cut.folder, same_command()) from None


def _table(head: Iterable[str], body: Iterator[list[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in head:
        table.add_column(name, justify="left" if name in ("column", "remarks") else "right")
    for row in body:
        table.add_row(*map(escape, row))
    return table
