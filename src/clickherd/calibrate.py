"""Learn a calibration from validation rows: true labels against what the trained model gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd.calibration import Calibration, Floats, Isotonic, Logistic, Method, logit, sigmoid
from clickherd.config import Config
from clickherd.data.store import Store
from clickherd.errors import ConfigError
from clickherd.evaluate import evaluate
from clickherd.network import ClickModel

SLOPES, INTERCEPTS = (1e-3, 1e3), (-50.0, 50.0)  # where the rows say nothing, as when a cut tells both labels apart


def check_calibration(config: Config, valid: Store | None) -> None:
    """See that there are rows to learn a calibration from, if one is asked for, before anything is trained.

    Raises:
        ConfigError: there are no validation rows, or all of them have one label.
    """
    if config.train.calibration == "none":
        return
    if valid is None:
        raise ConfigError(
            f"train.calibration = {config.train.calibration}, but there are no validation rows to learn it from",
            mend="Give validation rows, or a data.valid_fraction above 0 (CTRClassifier: and 1,000 rows or more).",
        )
    if valid.labels.min() == valid.labels.max():
        raise ConfigError(
            f"train.calibration = {config.train.calibration}, but all validation rows have the label "
            f"{valid.labels[0]:.0f}",
            mend="Give other validation rows.",
        )


def calibrate(model: ClickModel, config: Config, valid: Store | None) -> None:
    """Have `model` give calibrated probabilities from here on, if the settings ask for it."""
    if config.train.calibration != "none":
        assert valid is not None
        model.calibration = None
        scored = evaluate(model, valid)
        model.calibration = fit(config.train.calibration, scored.y_true, scored.y_score)


def fit(method: Method, y_true: npt.NDArray[Any], y_score: Floats) -> Calibration | None:
    """The calibration that makes the labels `y_true`, shape (N,), likeliest; for isotonic, of least squared error."""
    if method == "none":
        return None
    labels = np.asarray(y_true, np.float64)
    if method != "isotonic":
        return _logistic(method == "platt", labels, logit(y_score))
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(labels) + 2)  # a block of one label only is not proof that the other cannot come
    steps = IsotonicRegression(y_min=least, y_max=1 - least).fit(y_score, labels)
    return Isotonic(
        method="isotonic", scores=tuple(steps.X_thresholds_.tolist()), probabilities=tuple(steps.y_thresholds_.tolist())
    )


def _logistic(platt: bool, labels: Floats, logits: Floats) -> Logistic:
    """The logistic regression of the labels on the logits, with an intercept for Platt; the slope stays positive."""
    from scipy.optimize import minimize

    X = np.stack([logits, np.ones_like(logits)], axis=1)[:, : 1 + platt]

    def loss(w: Floats) -> tuple[float, Floats]:
        z = X @ w
        gradient: Floats = X.T @ (sigmoid(z) - labels) / len(labels)
        return float(np.mean(np.logaddexp(0, z) - labels * z)), gradient

    bounds = [SLOPES, INTERCEPTS][: 1 + platt]
    found = minimize(loss, [1.0, 0.0][: 1 + platt], jac=True, bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-9})
    slope, intercept = [*found.x.tolist(), 0.0][:2]
    return Logistic(method="platt" if platt else "temperature", slope=slope, intercept=intercept)
