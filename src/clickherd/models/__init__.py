"""The models. A new one is one file, and one line in `AnyModelConfig`."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from clickherd.models import (
    autoint,
    dcn,
    dcnv2,
    dcnv2_mix,
    deepfm,
    din,
    edcn,
    fcn,
    fgcnn,
    finalmlp,
    finalnet,
    fm,
    ipnn,
    lr,
    masknet,
    rankmixer,
    wide_deep,
    xdeepfm,
)
from clickherd.models.base import CTRModel, ModelConfig

AnyModelConfig = Annotated[
    lr.Config
    | fm.Config
    | wide_deep.Config
    | deepfm.Config
    | dcn.Config
    | dcnv2.Config
    | dcnv2_mix.Config
    | xdeepfm.Config
    | autoint.Config
    | ipnn.Config
    | fgcnn.Config
    | edcn.Config
    | masknet.Config
    | finalmlp.Config
    | finalnet.Config
    | fcn.Config
    | rankmixer.Config
    | din.Config,
    Field(discriminator="name"),
]

MODELS: dict[str, type[ModelConfig]] = {
    config.model_fields["name"].default: config for config in get_args(get_args(AnyModelConfig)[0])
}

__all__ = ["MODELS", "AnyModelConfig", "CTRModel", "ModelConfig"]
