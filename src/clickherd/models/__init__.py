"""The models. A new one is one file, and one line in `AnyModelConfig`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from clickherd.models import dcn, dcnv2, dcnv2_mix, deepfm, din, fm, lr, wide_deep
from clickherd.models.base import CTRModel, ModelConfig

AnyModelConfig = Annotated[
    lr.Config
    | fm.Config
    | wide_deep.Config
    | deepfm.Config
    | dcn.Config
    | dcnv2.Config
    | dcnv2_mix.Config
    | din.Config,
    Field(discriminator="name"),
]

MODELS: dict[str, type[ModelConfig]] = {
    config.model_fields["name"].default: config for config in get_args(get_args(AnyModelConfig)[0])
}

__all__ = ["MODELS", "AnyModelConfig", "CTRModel", "ModelConfig"]
