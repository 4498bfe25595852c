"""One tiny creative run, trained once and shared: a few steps a stage, so its pictures show nothing in particular."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # diffusers and transformers load for the tests that need them
    from clickherd.creative.config import CreativeConfig
    from clickherd.creative.dataset import ImageSet
    from clickherd.creative.studio import Studio

_TOWER = {"width": 16, "layers": 1, "heads": 2}
TINY: dict[str, Any] = {
    "data": {"number": 200, "size": 16},
    "clip": {"steps": 4, "batch_size": 16, "embedding_dim": 16, "image": _TOWER, "text": _TOWER},
    "prior": {**_TOWER, "steps": 3, "batch_size": 16},
    "ar_prior": {**_TOWER, "steps": 3, "batch_size": 16, "buckets": 8},
    "decoder": {"steps": 4, "batch_size": 8, "channels": (8, 16), "context_dim": 8, "head_dim": 8},
    "upsampler": {"steps": 3, "batch_size": 8, "channels": (8, 16)},
    "judge": {"width": 16, "size": 16, "steps": 10, "batch_size": 16},
    "sample": {"prior_steps": 5, "decoder_steps": 5, "upsampler_steps": 5, "invert_steps": 10},
    "threads": 1,
}


class Silent:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start(self, stage: str, steps: int, done: int) -> None:
        self.told.append((stage, steps, done))

    def step(self, done: int, loss: Any) -> None:
        self.told.append((done, float(loss)))

    def finish(self, record: dict[str, Any] | None) -> None:
        self.told.append((record,))


@pytest.fixture
def observer() -> Silent:
    return Silent()


@pytest.fixture(scope="session")
def tiny() -> Callable[..., CreativeConfig]:
    """`tiny({"data": {"size": 32}}, …)`: the settings of the shared run with others over them."""

    from clickherd.config import merge
    from clickherd.creative.config import creative_config

    def make(*over: dict[str, Any]) -> CreativeConfig:
        settings = TINY
        for more in over:
            settings = merge(settings, more)
        return creative_config(settings)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., CreativeConfig]) -> Path:
    """The shared run folder; nothing may be written into it."""
    from clickherd.creative.train import train_creative

    folder = tmp_path_factory.mktemp("creative") / "run"
    train_creative(tiny(), folder, announce=lambda _: None, observer=Silent())
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the shared run, to be spoilt."""
    shutil.copytree(trained, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture(scope="session")
def studio(trained: Path) -> Studio:
    from clickherd.creative.studio import load

    return load(trained)


@pytest.fixture
def run_of(tmp_path: Path, tiny: Callable[..., CreativeConfig], observer: Any) -> Callable[..., Path]:
    """`run_of(source, setting=…)`: a run of CLIP and decoder on a user's own images."""
    from clickherd.creative.train import train_creative

    def make(source: Path, **data: Any) -> Path:
        given = {"source": str(source), "valid_fraction": 0.25, **data}
        short = {"steps": 1}
        config = tiny({"data": given, "clip": short, "decoder": short, "judge": {"steps": 3}})
        train_creative(config, tmp_path / "run", ["clip", "decoder"], announce=lambda _: None, observer=observer)
        return tmp_path / "run"

    return make


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ImageSet]:
    """`read(source, setting=…)`, in a folder of the test's own; what was announced is in `read.told`."""
    from clickherd.creative.dataset import encode
    from clickherd.creative.sources import DataConfig

    def call(source: Path | str, folder: str = "encoded", seed: int = 0, **settings: Any) -> ImageSet:
        config = DataConfig(source=str(source), size=8, **settings)
        call.told = []
        return encode(config, tmp_path / folder, seed, call.told.append)

    return call
