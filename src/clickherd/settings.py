"""What every group of settings shares: its base class, and a fault in it told in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from clickherd.errors import ConfigError, did_you_mean

Group = TypeVar("Group", bound=BaseModel)


class Settings(BaseModel):
    """Base of every group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validated(
    kind: type[Group], settings: Mapping[str, Any], *, within: str = "", source: str | Path | None = None
) -> Group:
    """The group of settings `kind`, the rest at their defaults. `within` is the name of the group that it is, if any.

    Raises:
        ConfigError: an unknown name (the valid ones are listed) or a value out of range.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise _explained(error, kind, within, source) from None


def _explained(error: ValidationError, kind: type[BaseModel], within: str, source: str | Path | None) -> ConfigError:
    """The first fault in words: which setting, what it got, what it takes."""
    first = error.errors()[0]
    path, group = _place(kind, first["loc"])
    where = ".".join([within, *path] if within else path)
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"unknown setting {where!r}", file=source, mend=did_you_mean(path[-1], list(group.model_fields))
        )
    if first["type"] == "tuple_type":
        given = first["input"]
        return ConfigError(f"{where} = {given!r}: a list is needed", file=source, mend=f"Write {where}=[{given}].")
    message = first["msg"]
    said = message.removeprefix("Value error, ") if first["type"] == "value_error" else message.lower()
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):  # settings that do not go together
        return ConfigError(f"{where}: {said}" if where else said, file=source)
    return ConfigError(f"{where} = {first['input']!r}: {said}", file=source)


def _place(kind: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], type[BaseModel]]:
    """The setting's path as a user writes it, and the group that holds it."""
    path, rest = [], list(loc)
    while rest:
        name = str(rest.pop(0))
        path.append(name)
        field = kind.model_fields.get(name)
        if field is None:
            break
        groups = [k for k in (field.annotation, *get_args(field.annotation)) if _is_group(k)]
        if isinstance(field.discriminator, str) and rest:  # pydantic puts the name of the union's member next
            member = rest.pop(0)
            groups = [k for k in groups if k.model_fields[field.discriminator].default == member]
        if not groups or not rest:
            break
        kind = groups[0]
    return [*path, *map(str, rest)], kind


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
