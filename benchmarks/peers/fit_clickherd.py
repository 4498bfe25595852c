"""Times one of clickherd's models, for `benchmarks/zoo_speed.py`, which writes the job.

python benchmarks/peers/fit_clickherd.py JOB.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
from run_clickherd import layout

from clickherd.config import resolve
from clickherd.data.store import Batch, Store, StoreWriter
from clickherd.network import ClickModel
from clickherd.runtime import seeded, use_threads
from clickherd.train import Trainer


def main() -> None:
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    use_threads(job["threads"])
    described = layout(measure.Fields(job["vocabulary"], ()))
    train = {"batch_size": job["batch_size"], "epochs": 1, "precision": "fp32"}
    own = {"seed": job["seed"], "threads": job["threads"]}
    config = resolve({"model": {"name": job["model"], **job["settings"]}, "train": train | own})
    with seeded(job["seed"]), tempfile.TemporaryDirectory() as folder:
        model = ClickModel(config.model, described, init_std=config.optim.init_std)
        seconds, rows = 0.0, 0
        for part in ("warm", "train"):
            place = Path(folder) / part
            with StoreWriter(place / "store", described) as writer:
                writer.append(read(Path(job["rows"]) / f"{part}.npz", list(job["vocabulary"]), described))
            store = Store(place / "store")
            measure.forget_peak()
            seconds, rows = Trainer(config, model, store, None, place).run().seconds, store.num_rows
    found = {"seconds": round(seconds, 3), "rows_per_second": round(rows / seconds, 1)}
    of_net = sum(weight.numel() for weight in model.net.parameters())
    print(json.dumps(found | {"peak_rss_mib": round(measure.peak_rss_mib(), 1), "weights": of_net}))


def read(file: Path, names: list[str], described: Any) -> Batch:
    """The rows, their ids counted through all fields."""
    with np.load(file) as columns:
        offsets = [field.offset for field in described.fields]
        ids = np.stack([columns[name] + offset for name, offset in zip(names, offsets, strict=True)], axis=1)
        labels = columns["label"].astype(np.float32)
    return Batch(ids.astype(np.int32), (), np.empty((len(labels), 0), np.float32), labels, np.empty(0, np.uint64))


if __name__ == "__main__":
    main()
