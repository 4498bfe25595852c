"""A creative run: images and captions in, a run folder out.

FOLDER/config.yaml      all settings                     data/         the images and captions, encoded
FOLDER/metrics.json     losses and times of each stage   clip/ prior/ ar_prior/ decoder/ upsampler/
FOLDER/checkpoint/      while a stage is under way       judge/, report.html: from `clickherd creative evaluate`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from clickherd import machine
from clickherd.checkpoint import write_text
from clickherd.creative.clip import Clip, load_clip
from clickherd.creative.config import CreativeConfig, creative_config, dump
from clickherd.creative.dataset import ImageSet, encode
from clickherd.creative.loop import Observer, Stopped, fit
from clickherd.creative.stages import STAGES, Workshop, is_trained, load_clip_of, save_stage
from clickherd.errors import ConfigError, Interrupted, RunError, UserError, did_you_mean
from clickherd.runtime import check_device, precision_on, seeded, use_threads

NEEDS = {"prior": "clip", "ar_prior": "clip", "decoder": "clip"}


def train_creative(
    config: CreativeConfig,
    folder: Path,
    stages: Sequence[str] = (),
    *,
    announce: Callable[[str], None],
    observer: Observer,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train the stages (all when none is named) in a new run folder.

    Returns:
        What metrics.json holds.

    Raises:
        RunError: the folder is there already.
        ConfigError: no such stage, or the device is not there.
        DataError: the images or captions are at fault.
        Interrupted: `should_stop` said so; `resume_creative` goes on.
    """
    if folder.exists():
        raise RunError(
            "the folder already exists",
            file=folder,
            mend=f"Choose another --out, or go on with: clickherd creative train --resume {folder}",
        )
    _checked(stages)
    check_device(config.device, "fp32" if config.precision == "auto" else config.precision)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(
            f"cannot make the folder: {error.strerror}", file=folder, mend="Choose another --out."
        ) from error
    write_text(folder / "config.yaml", dump(config))
    try:
        encode(config.data, folder / "data", config.seed, announce)
    except UserError:
        shutil.rmtree(folder)  # nothing is lost, and the command can be mended and given again
        raise
    return _train(config, folder, stages, announce, observer, should_stop)


def resume_creative(
    folder: Path,
    stages: Sequence[str] = (),
    *,
    announce: Callable[[str], None],
    observer: Observer,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Go on with a run: train those of the stages (all when none is named) that are not trained yet.

    Raises:
        RunError: it is no run folder of this kind.
    """
    _checked(stages)
    config = load_config(folder)
    check_device(config.device, "fp32" if config.precision == "auto" else config.precision)
    return _train(config, folder, stages, announce, observer, should_stop)


def load_config(folder: Path) -> CreativeConfig:
    """The settings of a run folder.

    Raises:
        RunError: it is no run folder of this kind.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise RunError("no config.yaml: this is no run folder", file=folder, mend="clickherd creative train makes one.")
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or "decoder" not in settings:
        raise RunError("this is a run of a click model, not of creatives", file=folder)
    return creative_config(settings, source=file)


def _checked(stages: Sequence[str]) -> None:
    for name in stages:
        if name not in STAGES:
            raise ConfigError(f"unknown stage {name!r}", mend=did_you_mean(name, STAGES))


def _train(
    config: CreativeConfig,
    folder: Path,
    stages: Sequence[str],
    announce: Callable[[str], None],
    observer: Observer,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    use_threads(config.threads)
    device = torch.device(config.device)
    precision = (
        "fp32"
        if config.device == "cpu" and config.precision == "auto"
        else precision_on(config.device, config.precision)
    )
    data = folder / "data"
    # once encoded they are the run's: a stage goes on with what the stages before it saw, wherever the sources are now
    encoded = (data / "facts.json").is_file()
    images = ImageSet.load(data) if encoded else encode(config.data, data, config.seed, announce)
    workshop = Workshop(config, images, device)
    clip: Clip | None = None
    for name in [name for name in STAGES if name in (stages or STAGES)]:
        if is_trained(folder, name) or (name == "upsampler" and not config.upsampler.on):
            continue
        if name != "clip":
            clip = clip or load_clip_of(folder).to(device)
        elif config.clip.path is not None:
            taken = load_clip(Path(config.clip.path))
            taken.tokenize(workshop.images.captions)  # those too long are told before any training
            save_stage(folder, "clip", taken)
            continue
        with seeded(config.seed):  # of the networks' first weights
            stage = workshop.stage(name, clip)
        try:
            record = fit(
                stage,
                folder / "checkpoint",
                config.seed,
                precision=precision,
                observer=observer,
                should_stop=should_stop,
            )
        except Stopped:
            raise Interrupted(folder, _resume_command(folder, stages)) from None
        except BaseException:
            observer.finish(None)
            raise
        save_stage(folder, name, stage.module)
        _note(folder, record)
        (folder / "checkpoint" / f"{name}.safetensors").unlink(missing_ok=True)
    if not list((folder / "checkpoint").glob("*.safetensors")):  # else of a stage that is not among these
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return load_metrics(folder)


def _resume_command(folder: Path, stages: Sequence[str]) -> str:
    return f"clickherd creative train --resume {folder}" + "".join(f" --stage {name}" for name in stages)


def load_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json holds; empty lists where nothing is trained yet."""
    file = folder / "metrics.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"stages": {}}
    return found


def _note(folder: Path, record: dict[str, Any]) -> None:
    metrics = load_metrics(folder)
    metrics["machine"] = machine.describe()
    metrics["run"] = str(folder)
    metrics["stages"][record["stage"]] = {name: value for name, value in record.items() if name != "stage"}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1))
