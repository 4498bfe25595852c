"""What verbs of the command line share: the options of whatever trains, and how a training run is watched and stopped.

Heavy imports happen inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import inspect
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clickherd.errors import ConfigError

if TYPE_CHECKING:
    from clickherd.config import Config
    from clickherd.progress import RichObserver

err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]


@dataclass(frozen=True)
class Given:
    """What the user gave of a run's settings: flags, `--set` and a recipe."""

    flags: dict[str, Any]
    assignments: list[str]
    recipe: Path | None

    def __bool__(self) -> bool:
        return bool(self.flags or self.assignments or self.recipe)

    def over(self, flags: dict[str, Any]) -> Given:
        """With a verb's own flags beside those that all share; both nested by group."""
        groups = {name: {**self.flags.get(name, {}), **values} for name, values in flags.items()}
        return replace(self, flags={**self.flags, **groups})

    def but(self, group: str) -> Given:
        """Without the flags of a group."""
        return replace(self, flags={name: values for name, values in self.flags.items() if name != group})

    def config(self, verb: str, defaults: Mapping[str, Any] = MappingProxyType({})) -> Config:
        """The validated settings: flags go before the recipe, `--set` before both, the verb's own `defaults` last.

        Raises:
            ConfigError: a setting is at fault, or there are no data.
        """
        from clickherd.config import load_yaml, merge, parse_assignments, resolve

        base = merge(defaults, load_yaml(self.recipe) if self.recipe else {})
        config = resolve(merge(merge(base, self.flags), parse_assignments(self.assignments)), source=self.recipe)
        if not config.source.data:
            raise ConfigError(
                "no data given", mend=f"Name at least one file: clickherd {verb} clicks.csv --label clicked"
            )
        return config


def given(
    data: Annotated[
        list[str] | None, typer.Argument(help="Files, globs, folders or URLs: CSV, TSV (gz, zst), Parquet, Arrow.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column that says whether the row was clicked.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label's value that counts as a click, if not 1.")] = None,
    model: Annotated[str | None, typer.Option(help="deepfm, dcnv2, …; a wrong name lists all.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many passes over the rows.")] = None,
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
    features: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Learn from these columns alone; clickherd select writes it.")
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
) -> Given:
    """The options of every verb that trains."""
    crosses = [tuple(item.split("*")) for item in cross or ()]
    sequences, histories = _pairs(sequence or [], "--sequence", ":"), list(history or ())
    chosen: list[str] = []
    kept_values = dims = None
    if features is not None:
        from clickherd.data.features import load_features

        found = load_features(features)
        kept_values, dims = found.values, found.dims
        chosen = list(dict.fromkeys([*found.features, *(cross or ()), *sequences, *histories]))
        crosses = list(dict.fromkeys([*crosses, *found.crosses]))
        sequences, histories = found.sequences | sequences, list(dict.fromkeys([*histories, *found.histories]))
    flags = {
        "data.label": label,
        "data.positive": positive,
        "data.format": format,
        "data.split": split,
        "data.time_column": time_column,
        "data.features": chosen or None,
        "data.kept_values": kept_values,
        "data.crosses": crosses or None,
        "data.sequences": sequences or None,
        "data.histories": histories or None,
        "data.group": group,
        "data.min_count": min_count,
        "data.roles": _pairs(role or [], "--role") or None,
        "compression.dims": dims.of if dims else None,
        "model.name": model,
        "model.embedding_dim": dims.embedding if dims else None,
        "train.epochs": epochs,
        "train.seed": seed,
        "train.threads": threads,
        "train.device": device,
        "source.data": data or None,
        "source.valid": valid or None,
        "source.test": test or None,
    }
    return Given(nested(flags), set_ or [], recipe)


def takes_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Put the options of `given` in front of the verb's own; the verb gets what they gave as its first argument."""
    shared = inspect.signature(given, eval_str=True).parameters
    own = dict(list(inspect.signature(verb, eval_str=True).parameters.items())[1:])

    @wraps(verb)
    def command(**values: Any) -> None:
        settings = given(**{name: values.pop(name) for name in shared})
        verb(settings, **values)

    parameters = {**shared, **own}
    command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return command


def nested(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags that were given, `group.name` → value, as nested settings."""
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


def announce(message: str) -> None:
    """A message for whoever watches, on stderr."""
    err.print(message, highlight=False, markup=False, soft_wrap=True)


def same_command() -> str:
    """The command under way, as a user would type it."""
    return f"clickherd {shlex.join(sys.argv[1:])}"


class StopSignal:
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
        """Whether training is to stop."""
        return self.asked


def watch(stop: StopSignal, *, lines: bool = True) -> RichObserver:
    """The progress bar; while it shows, batches are trained. Without `lines` nothing of it stays."""
    from clickherd.optim.scaling import Hyperparameters
    from clickherd.progress import RichObserver

    class Watch(RichObserver):
        def start(self, num_epochs: int, rows_per_epoch: int, hyper: Hyperparameters) -> None:
            stop.training = True
            super().start(num_epochs, rows_per_epoch, hyper)

        def finish(self) -> None:
            stop.training = False
            super().finish()

    return Watch(err, lines=lines)


def folder_for(verb: str, config: Config, kind: str | None = None) -> Path:
    """The folder that a verb fills when no --out is given: the same for the same data and `kind`, so that it goes on.

    The kind is the model's name where none is given.
    """
    name = config.source.data[0].rstrip("/").rpartition("/")[2].partition(".")[0]
    stem = re.sub(r"[^\w-]+", "-", name).strip("-") or "data"
    return Path("runs") / f"{verb}-{stem}-{kind or config.model.name}"
