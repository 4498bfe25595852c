"""Sets of features as files: what `clickherd select` writes and `clickherd train --features` takes.

features: [site, app, "user*ad"]   # columns by name; crosses and histories by the name that they have as columns
crosses: [[user, ad]]              # that are to be made for it, like `sequences` and `histories`
values: values.parquet             # the values that keep an id of their own, if not all do
dims:                              # how many numbers the rows of a column have
  embedding: 10                    # as a whole
  of: {site: 3}                    # those that have fewer
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import yaml
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from clickherd.data.config import DataConfig
from clickherd.data.cross import cross_name
from clickherd.data.files import replace_file
from clickherd.errors import ConfigError


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Dims:
    """How many numbers an embedding has, and the rows of columns that have fewer."""

    embedding: int = Field(ge=1)
    of: dict[str, int] = Field(min_length=1)


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class FeatureSet:
    """Columns that a model is to be trained on, and what has to be made for them."""

    features: tuple[str, ...] = Field(min_length=1)
    crosses: tuple[tuple[str, ...], ...] = ()
    sequences: dict[str, str] = Field(default_factory=dict)
    histories: tuple[str, ...] = ()
    values: str | None = None  # a file of the values that keep an id of their own, see `kept`; beside this one

    dims: Dims | None = None  # of rows that are no whole embeddings

    @classmethod
    def of(
        cls, names: Iterable[str], config: DataConfig, values: str | None = None, dims: Dims | None = None
    ) -> FeatureSet:
        """The named columns, the targets of sequences among them, and what the settings make of both."""
        named = list(names)
        targets = [config.targets[name] for name in named if name in config.targets]
        features = tuple(dict.fromkeys([*named, *targets]))
        return cls(
            features,
            tuple(one for one in config.crosses if cross_name(one) in features),
            {name: target for name, target in config.sequences.items() if name in features},
            tuple(name for name in config.histories if name in features),
            values,
            dims,
        )

    def save(self, path: Path, title: str) -> None:
        """Write the file; `title` is a comment at its head."""
        body = {name: value for name, value in TypeAdapter(FeatureSet).dump_python(self, mode="json").items() if value}
        text = f"# {title}\n" + yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
        replace_file(path, text.encode())


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
