"""Creatives: text in, pictures out, in CLIP's latent space (unCLIP; Ramesh et al. 2022, https://arxiv.org/abs/2204.06125).

pip install clickherd[creative]

train_creative(creative_config({"data": {"source": "products"}}), "runs/products")
studio = clickherd.creative.load("runs/products")
studio.generate("a red mug on the left, white background").save("mugs")
"""

import os
from typing import TYPE_CHECKING, Any

# A short spin (microseconds) before a waiting thread sleeps: these networks consist of many small operations, and two
# free cores train a decoder 1.2 times as fast with it. More of it is ruinous on a busy machine (docs/log.md). It has to
# be said before torch loads its OpenMP runtime.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__all__ = ["Pictures", "Studio", "creative_config", "evaluate", "load", "resume_creative", "train_creative"]

if TYPE_CHECKING:
    from clickherd.creative.config import creative_config
    from clickherd.creative.evaluation import evaluate
    from clickherd.creative.pictures import Pictures
    from clickherd.creative.studio import Studio, load
    from clickherd.creative.train import resume_creative, train_creative

_HOMES = {
    "Pictures": "pictures",
    "Studio": "studio",
    "creative_config": "config",
    "evaluate": "evaluation",
    "load": "studio",
    "resume_creative": "train",
    "train_creative": "train",
}


def __getattr__(name: str) -> Any:
    """Public names load when used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
