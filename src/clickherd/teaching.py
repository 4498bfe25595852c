"""Learning from what another run predicts, in the place of the labels (distillation).

Hinton, Vinyals & Dean, https://arxiv.org/abs/1503.02531, at temperature 1: the loss is the cross-entropy with the
teacher's probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from clickherd.config import Config
from clickherd.data.prepare import Prepared
from clickherd.data.store import Store
from clickherd.errors import ConfigError
from clickherd.evaluate import evaluate
from clickherd.loaded import load, load_config


def teacher_of(teacher: str) -> Config:
    """The settings of the run that is to be learned from.

    Raises:
        ConfigError: there is none.
    """
    if not (Path(teacher) / "model.safetensors").exists():
        raise ConfigError(f"train.teacher = {teacher}: no finished run folder", mend="Name one, or leave it out.")
    return load_config(Path(teacher))


def check_teacher(teacher: Config, prepared: Prepared) -> None:
    """See that a teacher knows these rows.

    Raises:
        ConfigError: it was trained on others.
    """
    if teacher.source.fingerprint != prepared.path.name:
        raise ConfigError(
            "train.teacher was trained on other rows, or on rows encoded otherwise",
            mend="Train one with the same data and data settings, or leave it out.",
        )


def taught(config: Config, prepared: Prepared, announce: Callable[[str], None]) -> Store:
    """The training rows with a trained model's predictions in the place of their labels."""
    assert config.train.teacher is not None
    check_teacher(teacher_of(config.train.teacher), prepared)
    run = load(config.train.teacher, device=config.train.device)
    run.model.calibration = None
    announce(f"learning from what {config.train.teacher} predicts")
    return prepared.train.labelled(evaluate(run.model, prepared.train).y_score.astype(np.float32))
