"""Times one of FuxiCTR's own models, for `benchmarks/zoo_speed.py`, which writes the job.

    python benchmarks/peers/fit_fuxictr.py JOB.json

in FuxiCTR's environment. No L2, Adam at 1e-3, no metrics while training.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import measure
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from train_fuxictr import COMMON, answer, feature_map, model_class

EMBEDDING_DIM = 10


def timed(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Of the second fit."""
    seed_everything(job["seed"])
    described = feature_map(job["vocabulary"], EMBEDDING_DIM, folder)
    (folder / described.dataset_id).mkdir()
    named = {"model_id": "zoo-speed", "model_root": str(folder), "embedding_dim": EMBEDDING_DIM, "learning_rate": 1e-3}
    model = model_class(Path(job["checkout"]), job["model"])(described, **(COMMON | named | job["settings"]))
    seconds, count = 0.0, 0
    for part in ("warm", "train"):
        rows, valid = RankDataLoader(
            described,
            stage="train",
            train_data=f"{job['rows']}/{part}.npz",
            valid_data=f"{job['rows']}/valid.npz",
            batch_size=job["batch_size"],
            shuffle=True,
            data_format="npz",
        )
        model._eval_steps = None  # else it keeps the steps between validations of the fit before
        measure.forget_peak()
        began = time.perf_counter()
        model.fit(rows, epochs=1, validation_data=valid)
        seconds, count = time.perf_counter() - began, rows.num_samples
    tables = sum(weight.numel() for name, weight in model.named_parameters() if ".embedding_layers." in name)
    weights = sum(weight.numel() for weight in model.parameters()) - tables
    found = {"seconds": round(seconds, 3), "rows_per_second": round(count / seconds, 1)}
    return found | {"peak_rss_mib": round(measure.peak_rss_mib(), 1), "weights": weights}


if __name__ == "__main__":
    answer(timed)
