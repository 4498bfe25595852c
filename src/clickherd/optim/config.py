"""The settings of the optimisers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from clickherd.settings import Settings

Rule = Literal["none", "sqrt", "linear", "n2-lambda", "cowclip", "root"]


class OptimConfig(Settings):
    """Hyper-parameters at `base_batch_size`, and the rule that carries them to another batch size.

    The defaults were chosen on MovieLens-1M's validation rows (docs/decisions/0013); CowClip's own are in recipes/.
    """

    rule: Rule = "root"
    base_batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="dense weights, at the base batch size")
    embedding_learning_rate: float = Field(8e-3, gt=0, description="embedding rows, at the base batch size")
    l2: float = Field(1e-5, ge=0, description="λ of λΣw² over the embedding rows, at the base batch size")
    clip: float = Field(1.0, gt=0, description="CowClip's r; .inf never clips")
    zeta: float = Field(1e-5, ge=0, description="CowClip's ζ, the floor of the clip threshold")
    init_std: float = Field(1e-2, gt=0, description="standard deviation of the embedding rows at the start")
    initial_bias: Literal["base-rate", "zero"] = Field(
        "base-rate", description="the output's bias starts at the log-odds of the training rows' clicks, or at zero"
    )
    warmup_epochs: float = Field(1.0, ge=0, description="the dense rate ramps up linearly over these epochs")
    plateau_factor: float = Field(
        1.0, gt=0, le=1, description="both rates are multiplied by it after an epoch that scored no better"
    )
    averaging: float | None = Field(
        4.0,
        ge=0,
        description="η of the polynomial-decay average of the weights, which is what is scored and kept, and leans on "
        "about the last 1/(η+1) of the training; null: the weights as they are at an epoch's end",
    )
    mup_base: dict[str, Any] | None = Field(
        None,
        description="settings of a narrow model where they differ from `model`'s, such as {mlp: {hidden_units: [64, "
        "64]}}: the rates are those tuned with it, and carried to the widths of `model` (μP)",
    )
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(1e-7, gt=0, description="Adam's ε, added to √v before bias correction as in Keras")
    regularize: Literal["table", "batch"] = Field(
        "table",
        description="table: L2 and Adam reach every row each step, as published; batch: only the rows touched",
    )
