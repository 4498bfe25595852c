"""What tests of reading image sets share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clickherd.creative.dataset import ImageSet, encode
from clickherd.creative.sources import DataConfig


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ImageSet]:
    """`read(source, setting=…)`, in a folder of the test's own; what was announced is in `read.told`."""

    def call(source: Path | str, folder: str = "encoded", seed: int = 0, **settings: Any) -> ImageSet:
        config = DataConfig(source=str(source), size=8, **settings)
        call.told = []
        return encode(config, tmp_path / folder, seed, call.told.append)

    return call
