"""Every setting, typed and validated. YAML in, the resolved YAML out; an unknown name lists the valid ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from clickherd.errors import ConfigError, did_you_mean
from clickherd.models import MODELS, AnyModelConfig
from clickherd.models.deepfm import Config as DeepFMConfig

Role = Literal["label", "numeric", "categorical", "multi", "timestamp", "ignored"]
NumericEncoding = Literal["auto", "log2", "quantile", "minmax", "standard"]
Rule = Literal["none", "sqrt", "linear", "n2-lambda", "cowclip"]
Monitor = Literal["auc", "logloss", "gauc", "ne"]


def _as_text(value: object) -> object:
    """YAML reads `positive: 1` as a number; labels are compared as text."""
    if isinstance(value, bool):
        raise ValueError("YAML reads yes, no, on and off as true and false: put the value in quotes")
    return str(value) if isinstance(value, int | float) else value


class Settings(BaseModel):
    """Base of every group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Settings):
    """How raw rows are read, which role each column plays, and how the rows are split."""

    label: str = Field("label", description="the label's column")
    positive: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        None, description="the value that counts as a click when labels are not 0 and 1"
    )
    format: Literal["auto", "csv", "tsv", "parquet", "arrow", "criteo"] = Field(
        "auto",
        description="auto goes by the file's name; criteo names the 40 columns of Criteo's headerless TSV",
    )
    separator: str | None = Field(None, description="a CSV's separator; found by itself when not given")
    header: bool | None = Field(None, description="whether a CSV's first line names the columns; found when not given")
    null_values: tuple[str, ...] = Field(
        ("", "NULL", "null", "\\N", "NA", "N/A"), description="texts that mean missing"
    )
    roles: dict[str, Role] = Field({}, description="column → role, where the inferred one is not wanted")
    min_count: int = Field(2, ge=1, description="values seen less often in the training rows become 'unknown'")
    hash_buckets: dict[str, int] = Field({}, description="column → number of buckets, instead of a vocabulary")
    numeric: NumericEncoding = Field(
        "auto",
        description="log2: buckets ⌊(ln x)²⌋; quantile: equal-frequency buckets; minmax and standard: real values. "
        "auto is log2 for columns of whole numbers (counts) and quantile for fractions",
    )
    numeric_columns: dict[str, NumericEncoding] = Field({}, description="column → encoding, where it differs")
    quantile_buckets: int = Field(50, ge=2, le=10_000)
    multi_separator: str = Field("|", min_length=1, description="what parts the values of a multi-valued column")
    group: str | None = Field(None, description="column by which GAUC groups rows; a user id is found by itself")
    split: Literal["random", "time"] = "random"
    time_column: str | None = Field(None, description="orders the rows when split=time; a timestamp is found by itself")
    valid_fraction: float = Field(
        0.1, ge=0, lt=1, description="used when no validation file is given; 0: no validation, the last weights count"
    )
    test_fraction: float = Field(0.1, ge=0, lt=1, description="used when neither a validation nor a test file is given")


class OptimConfig(Settings):
    """Hyper-parameters at `base_batch_size`, and the rule that carries them to another batch size.

    The defaults were chosen on MovieLens-1M's validation rows (docs/decisions/0008); CowClip's own are in recipes/.
    """

    rule: Rule = "sqrt"
    base_batch_size: int = Field(65_536, ge=1)
    learning_rate: float = Field(4e-3, gt=0, description="dense weights, at the base batch size")
    embedding_learning_rate: float = Field(2e-2, gt=0, description="embedding rows, at the base batch size")
    l2: float = Field(1e-5, ge=0, description="λ of λΣw² over the embedding rows, at the base batch size")
    clip: float = Field(1.0, gt=0, description="CowClip's r; .inf never clips")
    zeta: float = Field(1e-5, ge=0, description="CowClip's ζ, the floor of the clip threshold")
    init_std: float = Field(1e-2, gt=0, description="standard deviation of the embedding rows at the start")
    warmup_epochs: float = Field(1.0, ge=0, description="the dense rate ramps up linearly over these epochs")
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(1e-7, gt=0, description="Adam's ε, added to √v before bias correction as in Keras")
    regularize: Literal["table", "batch"] = Field(
        "table",
        description="table: L2 and Adam reach every row each step, as published; batch: only the rows touched",
    )


class SourceConfig(Settings):
    """Where the rows come from: files, globs, folders or URLs. With these, a config.yaml alone repeats its run."""

    data: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    fingerprint: str | None = Field(None, description="of the encoded rows; written by a run, checked when it resumes")


class TrainConfig(Settings):
    """The loop."""

    batch_size: int | None = Field(
        None, ge=1, description="rows per update; when not given, as large as leaves enough steps in an epoch"
    )
    micro_batch_size: int = Field(2048, ge=1, description="rows that go through the model at a time")
    epochs: int = Field(20, ge=1)
    monitor: Monitor = "auc"
    patience: int | None = Field(2, ge=1, description="stop after so many epochs without a better validation score")
    seed: int = Field(0, ge=0)
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; all cores when not given. Polars, which reads the rows, has a pool of its own: only "
        "the environment's POLARS_MAX_THREADS sets its size, before Python starts",
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N")
    checkpoint_seconds: float = Field(30.0, gt=0, description="how often a resumable checkpoint is written")


class Config(Settings):
    """All settings of a run."""

    source: SourceConfig = SourceConfig()
    data: DataConfig = DataConfig()
    model: AnyModelConfig = DeepFMConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file, not yet validated."""
    try:
        data = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError("no such recipe", file=path, mend="Check the path, or see recipes/.") from None
    except OSError as error:
        raise ConfigError(f"cannot read the recipe: {error.strerror}", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe is not valid YAML: {error}", file=path) from None
    if not isinstance(data, dict):
        raise ConfigError("a recipe is a mapping of settings", file=path, mend="See recipes/ for examples.")
    return data


def dump_yaml(config: Config) -> str:
    """The resolved settings as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, group by group."""
    out = dict(base)
    for key, value in over.items():
        below = out.get(key)
        out[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return out


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`["optim.l2=1e-5", "model.mlp.hidden_units=[64,64]"]` as nested settings; values are YAML."""
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigError(f"cannot read --set {assignment!r}", mend="Write it as group.name=value.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(value, str):  # YAML 1.1 takes 1e-5 for text
            with contextlib.suppress(ValueError):
                value = float(value)
        for name in reversed(key.split(".")):
            value = {name: value}
        settings = merge(settings, value)
    return settings


def resolve(settings: Mapping[str, Any], *, source: str | Path | None = None) -> Config:
    """Validated settings, the rest at their defaults.

    Raises:
        ConfigError: an unknown name (the valid ones are listed) or a value out of range.
    """
    model = settings.get("model")
    if isinstance(model, str):  # `model: dcn` is short for `model: {name: dcn}`
        model = {"name": model}
        settings = {**settings, "model": model}
    if isinstance(model, Mapping):
        name = model.get("name", "deepfm")
        if str(name) not in MODELS:
            raise ConfigError(f"unknown model {name!r}", file=source, mend=did_you_mean(str(name), MODELS))
        settings = merge(settings, {"model": {"name": name}})
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise _explain(error, source) from None


def _explain(error: ValidationError, source: str | Path | None) -> ConfigError:
    """The first fault in words: which setting, what it got, what it takes."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    if path[0] == "model":  # pydantic puts the model's name next
        del path[1:2]
    where = ".".join(path)
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"unknown setting {where!r}", file=source, mend=did_you_mean(path[-1], _names(path[:-1], first))
        )
    return ConfigError(f"{where} = {first['input']!r}: {first['msg'].lower()}", file=source)


def _names(path: list[str], fault: Mapping[str, Any]) -> list[str]:
    """Names that are valid in the group at `path`."""
    kind: Any = Config
    for part in path:
        if part == "model":
            kind = MODELS[fault["loc"][1]]
            continue
        kind = kind.model_fields[part].annotation
        kind = next((k for k in get_args(kind) if isinstance(k, type)), kind)
    return list(kind.model_fields)
