"""A creative run: images and captions in, a run folder out.

FOLDER/config.yaml      all settings                     data/         the images and captions, encoded
FOLDER/metrics.json     losses and times of each stage   clip/ prior/ ar_prior/ decoder/ upsampler/
FOLDER/checkpoint/      while a stage is under way       judge/, report.html: from `clickherd creative evaluate`
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from clickherd import machine
from clickherd.checkpoint import write_text
from clickherd.creative.clip import Clip, context_for, lengths_of, load_clip, quoted
from clickherd.creative.config import CreativeConfig, creative_config, dump
from clickherd.creative.dataset import ImageSet, encode
from clickherd.creative.judging import MEND, learnable
from clickherd.creative.loop import Observer, Stopped, Unwatched, fit
from clickherd.creative.sources import TRAIN
from clickherd.creative.stages import PCA_FILE, STAGES, Workshop, is_trained, load_clip_of, save_pca, save_stage
from clickherd.errors import ConfigError, DataError, Interrupted, RunError, UserError, did_you_mean
from clickherd.runtime import has_bf16_units, precision_here, precision_on, seeded, use_threads


def train_creative(
    config: CreativeConfig,
    folder: str | Path,
    stages: Sequence[str] = (),
    *,
    announce: Callable[[str], None] = lambda _: None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train the stages (all when none is named) in a new run folder.

    Returns:
        What metrics.json holds.

    Raises:
        RunError: the folder is there already, or that of a given CLIP holds none.
        ConfigError: no such stage, one that needs a CLIP which there is not, or the device is not there.
        DataError: the images or captions are at fault.
        Interrupted: `should_stop` said so; `resume_creative` goes on.
    """
    folder = Path(folder)
    if folder.exists():
        raise RunError(
            "the folder already exists",
            file=folder,
            mend=f"Choose another --out, or go on with: clickherd creative train --resume {folder}",
        )
    _checked(stages, config)
    lacking = [name for name in stages if name not in ("clip", "upsampler")]  # an upsampler sees pixels alone
    if lacking and "clip" not in stages and config.clip.path is None:
        raise ConfigError(
            f"stage {lacking[0]} of a new run needs a CLIP", mend="Add --stage clip, or give a trained one with --clip."
        )
    check_machine(config)
    if config.clip.path is not None:
        path = Path(config.clip.path).absolute()
        clip = load_clip(path)  # what is wrong with it is told before anything is made
        if clip.size != config.decoder_size:
            announce(f"this CLIP sees {clip.size} px: images of {config.decoder_size} px are resized for it")
        config = config.model_copy(update={"clip": config.clip.model_copy(update={"path": str(path)})})
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(
            f"cannot make the folder: {error.strerror}", file=folder, mend="Choose another --out."
        ) from error
    write_text(folder / "config.yaml", dump(config))
    try:
        images = encode(config.data, folder / "data", config.seed, announce)
        _check_captions(images, config)
    except UserError:
        shutil.rmtree(folder)  # nothing is lost, and the command can be mended and given again
        raise
    labels, faults = learnable(images)
    if faults:
        missed = "leave out what it cannot learn" if labels else "not tell how often pictures show what was asked for"
        announce(f"`evaluate` will {missed}: {'; '.join(faults)} ({MEND})")
    return _train(config, folder, stages, announce, observer or Unwatched(), should_stop)


def resume_creative(
    folder: str | Path,
    stages: Sequence[str] = (),
    *,
    device: str | None = None,
    threads: int | None = None,
    announce: Callable[[str], None] = lambda _: None,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Go on with a run: train those of the stages (all when none is named) that are not trained yet.

    `device` and `threads` are those of the run unless given.

    Raises:
        RunError: it is no run folder of this kind.
        ConfigError: no such stage or device.
    """
    folder = Path(folder)
    config = load_config(folder)
    _checked(stages, config)
    on = device or config.device
    here = {"device": on, "threads": threads or config.threads, "precision": precision_here(on, config.precision)}
    config = creative_config({**config.model_dump(), **here})
    check_machine(config)
    for name in stages:
        if is_trained(folder, name):
            announce(f"stage {name} is trained already; remove {folder / name} to train it again")
    return _train(config, folder, stages, announce, observer or Unwatched(), should_stop)


def load_config(folder: Path) -> CreativeConfig:
    """The settings of a run folder.

    Raises:
        RunError: it is no run folder of this kind.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise RunError("no config.yaml: this is no run folder", file=folder, mend="clickherd creative train makes one.")
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"the settings are not valid YAML: {error}", file=file) from None
    if not isinstance(settings, dict) or "decoder" not in settings:
        raise RunError("this is a run of a click model, not of creatives", file=folder)
    return creative_config(settings, source=file)


def _check_captions(images: ImageSet, config: CreativeConfig) -> None:
    """See that every caption fits into CLIP's context, before anything is trained.

    Raises:
        DataError: one does not; its image is named.
    """
    if config.clip.path is not None:
        taken = load_clip(Path(config.clip.path))
        tokenizer, context, mend = taken.tokenizer, taken.context_length, "Shorten it."
    else:
        tokenizer, context = context_for(config.clip, [images.captions[row] for row in images.rows(TRAIN)])
        mend = f"Shorten it, or train with a larger clip.context_length than {context}."
    lengths = lengths_of(tokenizer, images.captions)
    for name, caption in zip(images.names, images.captions, strict=True):
        if lengths[caption] > context:
            raise DataError(
                f"the caption {quoted(caption)} has {lengths[caption] - 2} tokens, "
                f"and CLIP reads {context - 2} at most",
                file=name,
                mend=mend,
            )


def check_machine(config: CreativeConfig) -> None:
    """See that the device is there, and has units for the precision.

    Raises:
        ConfigError: it is not, or has not.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch finds no CUDA device", mend="Use --device cpu.")
    if config.device == "cpu" and config.precision == "bf16" and not has_bf16_units():
        raise ConfigError(
            "precision = 'bf16', but this CPU has no bf16 units: it would only be slower",
            mend="Use --set precision=fp32.",
        )


def _checked(stages: Sequence[str], config: CreativeConfig) -> None:
    for name in stages:
        if name not in STAGES:
            raise ConfigError(f"unknown stage {name!r}", mend=did_you_mean(name, STAGES))
    if "upsampler" in stages and not config.upsampler.on:
        raise ConfigError(
            "this run has no upsampler: upsampler.on is false", mend="Train with --set upsampler.on=true."
        )


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

    @cache
    def trained_clip() -> Clip:
        return load_clip_of(folder).to(device)

    if config.clip.path is not None and not is_trained(folder, "clip"):
        save_stage(folder, "clip", load_clip(Path(config.clip.path)))
    for name in untrained(folder, config, stages):
        with seeded(config.seed):  # of the networks' first weights
            stage = workshop.stage(name, trained_clip)
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
    if is_trained(folder, "clip") and not (folder / "clip" / PCA_FILE).exists():
        save_pca(folder, workshop, trained_clip())
    if not list((folder / "checkpoint").glob("*.safetensors")):  # else of a stage that is not among these
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return load_metrics(folder)


def untrained(folder: Path, config: CreativeConfig, stages: Sequence[str] = ()) -> list[str]:
    """Which of the stages (all that the run has when none is named) are not trained yet, in their order."""
    has = [name for name in STAGES if name != "upsampler" or config.upsampler.on]
    return [name for name in has if (not stages or name in stages) and not is_trained(folder, name)]


def _resume_command(folder: Path, stages: Sequence[str]) -> str:
    return shlex.join(
        ["clickherd", "creative", "train", "--resume", str(folder), *(f"--stage={name}" for name in stages)]
    )


def load_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json holds, or will hold while nothing is trained yet."""
    file = folder / "metrics.json"
    if file.exists():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    return {"run": str(folder), "machine": machine.describe(), "stages": {}}


def _note(folder: Path, record: dict[str, Any]) -> None:
    metrics = load_metrics(folder)
    metrics["stages"][record["stage"]] = {name: value for name, value in record.items() if name != "stage"}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1))
