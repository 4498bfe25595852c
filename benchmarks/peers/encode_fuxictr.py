"""FuxiCTR's own preprocessing: its FeatureProcessor counts, its build_dataset writes Parquet, by way of Ray.

The wheel calls `polars.scan_csv(dtypes=...)`, an argument that newer polars calls `schema_overrides`: it is renamed
here on the way, nothing else is changed.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import encode
import polars as pl
from fuxictr.preprocess import FeatureProcessor, build_dataset

_scan_csv = pl.scan_csv


def scan_csv(*args: Any, dtypes: Any = None, **kwargs: Any) -> pl.LazyFrame:
    """`polars.scan_csv` with its older argument."""
    return _scan_csv(*args, schema_overrides=dtypes, **kwargs)


pl.scan_csv = scan_csv


def run(log: Path, folder: Path, threads: int) -> dict[str, Any]:
    del threads  # set by environment variables; Ray starts a helper a core of the machine, on the cores it is held to
    logging.basicConfig(level=logging.WARNING)
    folder.mkdir()
    source = folder / "log.csv"  # it goes by the name
    source.symlink_to(log)
    features = [
        {"name": list(encode.NUMERIC), "active": True, "dtype": "float", "type": "numeric", "fill_na": 0},
        {"name": list(encode.CATEGORICAL), "active": True, "dtype": "str", "type": "categorical", "fill_na": ""},
    ]
    label = {"name": encode.LABEL, "dtype": "float"}
    processor = FeatureProcessor(features, label, dataset_id="encoded", data_root=str(folder))
    build_dataset(processor, train_data=str(source), sep="\t", data_format="csv", min_categr_count=1)
    vocabularies = json.loads((folder / "encoded" / "feature_vocab.json").read_text())
    return {"values": sum(len(vocabularies[name]) for name in encode.CATEGORICAL)}


if __name__ == "__main__":
    encode.main(run)
