"""All settings of a run, typed and validated. YAML in, the resolved YAML out; an unknown name lists the valid ones."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field

from clickherd.calibration import Method
from clickherd.compact.config import CompressionConfig
from clickherd.data.config import DataConfig
from clickherd.errors import ConfigError, did_you_mean
from clickherd.models import MODELS, AnyModelConfig
from clickherd.models.deepfm import Config as DeepFMConfig
from clickherd.optim.config import OptimConfig
from clickherd.settings import Settings, validated

Monitor = Literal["auc", "logloss", "gauc", "ne"]


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError("it is cpu, cuda or cuda:N")
    return name


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
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="rows that go through the model at a time; when not given, up to 1,024 on a CPU, to fit its cache, "
        "and on a GPU the whole batch, or as much of it as a quarter of the free memory holds",
    )
    epochs: int = Field(20, ge=1)
    mask: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {},
        description="column → share of its values that training takes for unknown, drawn anew for every batch, so that "
        "the model learns what to make of values it will never have seen",
    )
    teacher: str | None = Field(
        None,
        description="a run folder of the same rows, whose predictions of them training learns from in the place of the "
        "labels (distillation); scores are by the labels",
    )
    monitor: Monitor = "auc"
    patience: int | None = Field(2, ge=1, description="stop after so many epochs without a better validation score")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto",
        description="of the dense part's matrix products while training: tf32 (GPUs only) rounds their factors to 11 "
        "bits, bf16 to 8; sums and weights stay fp32; bf16 needs a CPU or GPU with units for it; auto is bf16 where "
        "there are such units, fp32 elsewhere",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads; all cores when not given. Polars, which reads the rows, has a pool of its own: only "
        "the environment's POLARS_MAX_THREADS sets its size, before Python starts",
    )
    device: Annotated[str, AfterValidator(_device)] = Field("cpu", description="cpu, cuda or cuda:N")
    cuda_graphs: bool = Field(
        True, description="on a GPU, record a batch's kernels once and launch them as one from then on"
    )
    calibration: Method = Field(
        "none",
        description="of the best weights' probabilities, learned on the validation rows and kept with the run: none, "
        "temperature, platt or isotonic",
    )
    checkpoint_seconds: float = Field(30.0, gt=0, description="how often a resumable checkpoint is written")


class Config(Settings):
    """All settings of a run."""

    source: SourceConfig = SourceConfig()
    data: DataConfig = DataConfig()
    model: AnyModelConfig = DeepFMConfig()
    compression: CompressionConfig = CompressionConfig()
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
        settings = merge(settings, nest(key, parse_value(text)))
    return settings


def parse_value(text: str) -> Any:
    """A setting's value as a user types it: YAML, but 1e-5 is a number too, which YAML 1.1 takes for text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return value


def nest(key: str, value: Any) -> dict[str, Any]:
    """`"optim.l2", 0` as `{"optim": {"l2": 0}}`."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


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
    return validated(Config, settings, source=source)
