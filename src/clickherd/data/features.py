"""Sets of features as files: what `clickherd select` writes and `clickherd train --features` takes.

features: [site, app, "user*ad"]   # columns by name; crosses and histories by the name that they have as columns
crosses: [[user, ad]]              # crosses that are to be made for it
values: values.parquet             # the values that keep an id of their own, if not all do
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from clickherd.data.cross import cross_name
from clickherd.errors import ConfigError


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class FeatureSet:
    """Columns that a model is to be trained on, and crosses among them."""

    features: tuple[str, ...] = Field(min_length=1)
    crosses: tuple[tuple[str, ...], ...] = ()
    values: str | None = None  # a file of the values that keep an id of their own, see `kept`; beside this one

    @classmethod
    def of(cls, names: Iterable[str], crosses: Iterable[Sequence[str]], values: str | None = None) -> FeatureSet:
        """The named columns, with those of the crosses that are among them."""
        features = tuple(names)
        return cls(features, tuple(tuple(one) for one in crosses if cross_name(one) in features), values)

    def save(self, path: Path, title: str) -> None:
        """Write the file; `title` is a comment at its head."""
        body: dict[str, Any] = {"features": list(self.features)}
        if self.crosses:
            body["crosses"] = [list(columns) for columns in self.crosses]
        if self.values:
            body["values"] = self.values
        path.write_text(f"# {title}\n" + yaml.safe_dump(body, sort_keys=False, allow_unicode=True), encoding="utf-8")


def load_features(path: str | Path) -> FeatureSet:
    """What a file of features says, the path of the values in full.

    Raises:
        ConfigError: it cannot be read, or says something else.
    """
    mend = "It has to hold `features:` with a list of columns, as clickherd select writes it."
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the features: {error.strerror}", file=path, mend="Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError("the file of features is not valid YAML", file=path, mend=mend) from None
    try:
        found = TypeAdapter(FeatureSet).validate_python(content)
    except ValueError:
        raise ConfigError("no set of features", file=path, mend=mend) from None
    return replace(found, values=str((Path(path).parent / found.values).absolute())) if found.values else found
