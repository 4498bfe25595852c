"""What is done to a trained model's click probabilities so that they come true; `calibrate` learns it.

    temperature   σ(z / T)       Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599, eq. 9
    platt         σ(a z + b)     Platt, Advances in Large Margin Classifiers, 1999, eq. 1
    isotonic      f(p), f increasing, constant beyond the scores seen   Zadrozny & Elkan, KDD 2002

z is the logit of the model's probability p. The first two keep the order of the rows, and so AUC; isotonic makes ties.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from clickherd.checkpoint import write_text
from clickherd.errors import RunError

Floats = npt.NDArray[np.float64]
Method = Literal["none", "temperature", "platt", "isotonic"]
FILE = "calibration.json"


class Logistic(BaseModel):
    """σ(slope · z + intercept); temperature T is 1 / slope, without an intercept."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["temperature", "platt"]
    slope: float = Field(gt=0)
    intercept: float = 0.0

    def apply(self, y_score: Floats) -> Floats:
        """Calibrated probabilities of those in `y_score`, shape (N,)."""
        return sigmoid(self.slope * logit(y_score) + self.intercept)


class Isotonic(BaseModel):
    """A piecewise linear increasing function through (scores[i], probabilities[i])."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["isotonic"]
    scores: tuple[float, ...] = Field(min_length=1)
    probabilities: tuple[Annotated[float, Field(gt=0, lt=1)], ...]

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if len(self.scores) != len(self.probabilities):
            raise ValueError("as many probabilities as scores")
        for line in (self.scores, self.probabilities):
            if any(a > b for a, b in itertools.pairwise(line)):
                raise ValueError("scores and probabilities increase")
        return self

    def apply(self, y_score: Floats) -> Floats:
        """Calibrated probabilities of those in `y_score`, shape (N,)."""
        return np.interp(y_score, self.scores, self.probabilities)


Calibration = Logistic | Isotonic
_ANY: TypeAdapter[Calibration] = TypeAdapter(Annotated[Calibration, Field(discriminator="method")])


def logit(y_score: Floats) -> Floats:
    """ln(p / (1 - p)), finite also for 0 and 1."""
    p = np.clip(y_score, 1e-300, 1 - 2.0**-53)
    z: Floats = np.log(p) - np.log1p(-p)
    return z


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + e⁻ᶻ), without overflow."""
    p: Floats = 1 / (1 + np.exp(np.clip(-logits, -700, 700)))
    return p


def save(folder: Path, calibration: Calibration | None) -> None:
    """Write the calibration into a run folder, if there is one."""
    if calibration is not None:
        write_text(folder / FILE, calibration.model_dump_json() + "\n")


def load(folder: Path, method: Method) -> Calibration | None:
    """The calibration in a run folder; None where its settings ask for none.

    Raises:
        RunError: the file is missing, damaged, of another method than the settings', or there against the settings.
    """
    path = folder / FILE
    if method == "none":
        if path.exists():
            raise RunError("a calibration that the settings (train.calibration = none) do not know", file=path)
        return None
    try:
        found = _ANY.validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"the calibration (train.calibration = {method}) is missing",
            file=path,
            mend="Is this a finished run folder?",
        ) from None
    except (ValidationError, UnicodeDecodeError):
        raise RunError("the calibration is damaged", file=path) from None
    if found.method != method:
        raise RunError(
            f"the calibration is of {found.method}, the settings say train.calibration = {method}", file=path
        )
    return found
