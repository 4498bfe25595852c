"""What `clickherd tune` searches: the defaults of every model and of the optimiser, and a user's own ranges.

A range is written low..high, in whole numbers or not, `:log` for even steps by factor; choices stand between bars:

    optim.learning_rate=1e-4..1e-2:log
    model.embedding_dim=4..32
    model.mlp.hidden_units=[64,64]|[400,400,400]
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from clickherd.config import Config, load_yaml, merge, nest, parse_value, resolve
from clickherd.errors import ConfigError
from clickherd.settings import Settings, validated


class Range(Settings):
    """Numbers from `low` to `high`, both included; whole ones if both are whole."""

    low: int | float
    high: int | float
    log: bool = Field(False, description="even steps by factor")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError("the low end of a range lies below the high one")
        if self.log and self.low <= 0:
            raise ValueError("a range of even steps by factor lies above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is of whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}{':log' if self.log else ''}"


class Choice(Settings):
    """One of some values, of any kind."""

    choices: tuple[Any, ...] = Field(min_length=1)

    def ends(self) -> tuple[Any, ...]:
        """Values that must be allowed for all to be."""
        return self.choices

    def __str__(self) -> str:
        return " | ".join(map(str, self.choices))


@dataclass(frozen=True)
class Around:
    """From the recipe's value divided by `factor` to its product with it, evenly by factor."""

    factor: float
    at_zero: Range  # where the recipe says 0

    def of(self, value: float) -> Range:
        """The range around `value`."""
        return Range(low=value / self.factor, high=value * self.factor, log=True) if value > 0 else self.at_zero


Space = dict[str, Range | Choice]
Default = Range | Choice | Around

# The rates and λ are stated at the recipe's base batch size, so their ranges follow the recipe.
OPTIM: dict[str, Default] = {
    "optim.learning_rate": Around(10, Range(low=1e-4, high=1e-2, log=True)),
    "optim.embedding_learning_rate": Around(10, Range(low=1e-3, high=1e-1, log=True)),
    "optim.l2": Around(100, Range(low=1e-7, high=1e-4, log=True)),
}
EMBEDDING: dict[str, Default] = {"model.embedding_dim": Range(low=4, high=32, log=True)}
MLP: dict[str, Default] = {
    "model.mlp.hidden_units": Choice(choices=([64, 64], [128, 128], [256, 256], [400, 400, 400])),
    "model.mlp.dropout": Range(low=0.0, high=0.5),
}
CROSS: dict[str, Default] = {
    "model.num_cross_layers": Range(low=1, high=5),
    "model.cross_l2": Around(100, Range(low=1e-7, high=1e-3, log=True)),
}
STRUCTURE: dict[str, Default] = {"model.structure": Choice(choices=("parallel", "stacked"))}
MIXTURE: dict[str, Default] = {
    "model.rank": Range(low=8, high=64, log=True),
    "model.num_experts": Range(low=1, high=8),
}
MODELS: dict[str, dict[str, Default]] = {
    "lr": {},
    "fm": EMBEDDING,
    "wide_deep": EMBEDDING | MLP,
    "deepfm": EMBEDDING | MLP,
    "dcn": EMBEDDING | MLP | CROSS,
    "dcnv2": EMBEDDING | MLP | CROSS | STRUCTURE,
    "dcnv2_mix": EMBEDDING | MLP | CROSS | STRUCTURE | MIXTURE,
}
OTHERS = EMBEDDING | MLP  # of a model that is not named above: what of it the model has

NOT_SEARCHED = {
    "data": "the rows are encoded once for all trials",
    "source": "all trials have the same rows",
    "model.name": "each model has settings of its own; tune them one after the other",
    "train.epochs": "all trials have the same budget",
    "train.seed": "a seed is not better than another",
    "train.monitor": "it is the score that the search goes by",
    "train.patience": "all trials have the same budget",
}


def default_space(config: Config, fixed: Collection[str] = ()) -> Space:
    """What is searched for the config's model, but for the settings named in `fixed`."""
    named = MODELS.get(config.model.name)
    space: Space = {}
    for name, default in (OPTIM | (OTHERS if named is None else named)).items():
        entry = default.of(_value(config, name)) if isinstance(default, Around) else default
        if name == "model.embedding_dim" and config.compression.dims:  # which are those of this width
            continue
        if name not in fixed and (named is not None or name.startswith("optim.") or _takes(config, name, entry)):
            space[name] = entry
    return space


def user_space(
    config: Config, *, file: Path | None = None, searches: Iterable[str] = (), fixed: Collection[str] = ()
) -> Space:
    """The space of a search: the file's, or the default one, with the `searches` (`NAME=RANGE`) laid over it.

    Raises:
        ConfigError: a setting is unknown, is in `fixed` too, cannot be searched, or would have a value that it cannot
            take.
    """
    space = load_space(file) if file else default_space(config, fixed)
    for text in searches:
        name, equals, written = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"cannot read --search {text!r}", mend=f"Write it as NAME={FORMS}.")
        space[name] = parse(written, name)
    for name in space:
        if name in fixed:
            raise ConfigError(f"{name} is both set and searched", mend="Leave one of the two out.")
        for part, why in NOT_SEARCHED.items():
            if name == part or name.startswith(f"{part}."):
                raise ConfigError(f"{name} is not searched: {why}", mend="Use --set for it.")
        space[name] = _of_kind(space[name], _value(config, name))
        for value in space[name].ends():
            resolve(merge(config.model_dump(), nest(name, value)), source=file)
    if not space:
        raise ConfigError("there is nothing to search", mend=f"Say what: --search NAME={FORMS}.")
    return space


FORMS = "low..high, low..high:log or a|b|c"


def parse(text: str, name: str) -> Range | Choice:
    """`low..high`, `low..high:log` or `a|b|c`; `name` is the setting that it is for."""
    if "|" in text:
        return Choice(choices=tuple(parse_value(part) for part in text.split("|")))
    found = re.fullmatch(r"\s*(.+?)\s*\.\.\s*(.+?)\s*(:\s*log)?\s*", text)
    ends = [parse_value(end) for end in found.groups()[:2]] if found else []
    if found is None or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ConfigError(
            f"cannot read the range {text!r} of {name}", mend=f"Write {FORMS}; one value alone goes with --set."
        )
    return validated(Range, {"low": ends[0], "high": ends[1], "log": found[3] is not None}, within=name)


def load_space(path: Path) -> Space:
    """The space in a YAML file: settings, dotted or nested: a range as text or {low, high, log}, a list of choices.

    Raises:
        ConfigError: the file cannot be read, or an entry is none of these.
    """
    space: Space = {}

    def add(name: str, entry: Any) -> None:
        if isinstance(entry, str):
            space[name] = parse(entry, name)
        elif isinstance(entry, list):
            space[name] = validated(Choice, {"choices": entry}, within=name, source=path)
        elif isinstance(entry, Mapping) and "choices" in entry:
            space[name] = validated(Choice, entry, within=name, source=path)
        elif isinstance(entry, Mapping) and ("low" in entry or "high" in entry):
            ends = {key: parse_value(value) if isinstance(value, str) else value for key, value in entry.items()}
            space[name] = validated(Range, ends, within=name, source=path)
        elif isinstance(entry, Mapping):
            for key, inner in entry.items():
                add(f"{name}.{key}", inner)
        else:
            raise ConfigError(
                f"{name} = {entry!r} is no range", file=path, mend=f"Write {FORMS}, or a list of choices."
            )

    for name, entry in load_yaml(path).items():
        add(str(name), entry)
    return space


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{above}{key}"
        out |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return out


def dump_space(space: Space) -> str:
    """The space as YAML that `--space` takes."""
    entries = {
        name: list(entry.choices) if isinstance(entry, Choice) else entry.model_dump() for name, entry in space.items()
    }
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _of_kind(entry: Range | Choice, value: Any) -> Range | Choice:
    """The range in the kind of number that the setting's `value` is: 0..1 of a rate is not of whole numbers."""
    if isinstance(entry, Choice) or isinstance(value, bool) or not isinstance(value, int | float):
        return entry
    ends = (entry.low, entry.high)
    if isinstance(value, int) and all(float(end).is_integer() for end in ends):
        return Range(low=int(entry.low), high=int(entry.high), log=entry.log)
    return Range(low=float(entry.low), high=float(entry.high), log=entry.log)


def _takes(config: Config, name: str, entry: Range | Choice) -> bool:
    """Whether the config's model has the setting and may have all of these values."""
    try:
        for value in entry.ends():
            resolve(merge(config.model_dump(), nest(name, value)))
    except ConfigError:
        return False
    return True


def _value(config: Config, name: str) -> Any:
    """The setting's value, None where the config has no such setting."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part, None)
    return value
