"""clickherd's encoding: `prepare`, as `clickherd train` calls it, with every value in the vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encode

from clickherd.data.config import DataConfig
from clickherd.data.prepare import prepare
from clickherd.threads import set_threads


def run(log: Path, folder: Path, threads: int) -> dict[str, Any]:
    set_threads(threads)
    prepared = prepare(log, DataConfig(label=encode.LABEL, min_count=1), cache_dir=folder)
    values = sum(field.size for field in prepared.encoder.layout.fields if field.name in encode.CATEGORICAL)
    return {"values": values}


if __name__ == "__main__":
    encode.main(run)
