"""The models: one explicit table of name → Config. A new model is one file and one line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clickherd.models import deepfm
from clickherd.models.base import CTRModel, ModelConfig

AnyModelConfig = Annotated[
    deepfm.Config,
    Field(discriminator="name"),
]

MODELS: dict[str, type[ModelConfig]] = {
    "deepfm": deepfm.Config,
}

__all__ = ["MODELS", "AnyModelConfig", "CTRModel", "ModelConfig"]
