"""One of FuxiCTR's own models, trained as its experiment scripts train it, with early stopping on validation rows.

    python benchmarks/peers/train_fuxictr.py JOB.json

in FuxiCTR's environment. The models are not in its wheel: `checkout` names a clone of its repository. Written for
`benchmarks/zoo.py`, which makes the job and reads the scores that this prints as one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything

LABEL = "label"
COMMON = {
    "loss": "binary_crossentropy",
    "metrics": ["logloss", "AUC"],
    "task": "binary_classification",
    "optimizer": "adam",
    "monitor": "AUC",
    "monitor_mode": "max",
    "early_stop_patience": 2,
    "verbose": 0,
    "gpu": -1,
}


def main() -> None:
    answer(trained)


def answer(work: Callable[[dict[str, Any], Path], dict[str, Any]]) -> None:
    """Do the job that the command line names, with a folder to write to, and print what comes of it as JSON."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(work(job, Path(folder))))


def trained(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Scores of the weights of the best validation epoch."""
    seed_everything(job["seed"])
    rows = Path(job["rows"])
    described = feature_map(job["vocabulary"], job["settings"]["embedding_dim"], folder, job["lengths"])
    (folder / described.dataset_id).mkdir()
    settings = COMMON | job["settings"] | {"model_id": "zoo", "model_root": str(folder)}
    model = model_class(Path(job["checkout"]), job["model"])(described, **settings)
    loading = {"data_format": "npz", "batch_size": settings["batch_size"], "num_workers": 1}
    train, valid = RankDataLoader(
        described,
        stage="train",
        train_data=str(rows / "train.npz"),
        valid_data=str(rows / "valid.npz"),
        shuffle=True,
        **loading,
    )
    began = time.perf_counter()
    model.fit(train, validation_data=valid, epochs=settings["epochs"])
    seconds = time.perf_counter() - began
    test = RankDataLoader(described, stage="test", test_data=str(rows / "test.npz"), shuffle=False, **loading)
    scores = {"valid": model.evaluate(valid), "test": model.evaluate(test)}
    return {
        **{split: {"auc": found["AUC"], "logloss": found["logloss"]} for split, found in scores.items()},
        "epochs": model._epoch_index + 1,
        "seconds": seconds,
        "weights": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


def model_class(checkout: Path, name: str) -> type[Any]:
    """A class of FuxiCTR's model zoo."""
    place = checkout / "model_zoo" / name
    sys.path.insert(0, str(place if (place / "src").is_dir() else place / f"{name}_torch"))
    found: type[Any] = getattr(importlib.import_module("src"), name)
    return found


def feature_map(
    vocabulary: dict[str, int], embedding_dim: int, folder: Path, lengths: Mapping[str, int] = MappingProxyType({})
) -> FeatureMap:
    """What FuxiCTR's preprocessing would have written: 0 is padding, the last index of a column the unknown value.

    Columns with a length hold lists, whose embeddings are averaged.
    """
    described = FeatureMap("zoo", str(folder))
    for name, size in vocabulary.items():
        spec = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size}
        if name in lengths:
            average = "layers.MaskedAveragePooling()"
            spec |= {"type": "sequence", "max_len": lengths[name], "feature_encoder": average}
        described.features[name] = spec
    described.labels = [LABEL]
    described.num_fields = described.get_num_fields()
    described.total_features = sum(vocabulary.values())
    described.default_emb_dim = embedding_dim
    described.set_column_index()
    return described


if __name__ == "__main__":
    main()
