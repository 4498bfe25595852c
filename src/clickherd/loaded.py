"""A run folder opened: raw rows in, click probabilities out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clickherd import calibration, checkpoint
from clickherd.config import Config, load_yaml, merge, resolve
from clickherd.data.encode import Encoder
from clickherd.data.prepare import encode_stream
from clickherd.data.source import DataLike, open_source
from clickherd.errors import RunError
from clickherd.evaluate import score
from clickherd.network import ClickModel
from clickherd.runtime import seeded


class Run:
    """A trained model as a run folder holds it: raw rows in, click probabilities out."""

    def __init__(self, path: Path, config: Config, encoder: Encoder, model: ClickModel) -> None:
        self.path, self.config, self.encoder, self.model = path, config, encoder, model

    def predict_proba(self, data: DataLike) -> npt.NDArray[np.float64]:
        """Click probabilities of raw rows (files or a frame), shape (N,), in order; no label is needed.

        Values never seen in training count as unknown; `encoder.unseen` tells how many there were, by column.
        """
        return np.concatenate([np.empty(0), *(scores for scores, _ in self.predictions(data))])

    def predictions(self, data: DataLike, *, labels: bool = False) -> Iterator[tuple[npt.NDArray[np.float64], Any]]:
        """(probabilities, encoded batch) for chunks of rows, in bounded memory."""
        names = [column.name for column in self.encoder.schema.columns]
        source = open_source(data, self.config.data, need_label=False, names=names)  # the encoder asks for the label
        self.encoder.unseen.clear()
        for batch in encode_stream(self.encoder, source, labels=labels):
            yield self.model.predict(batch), batch

    def evaluate(self, data: DataLike) -> dict[str, float | None]:
        """All scores of the model on labelled raw rows."""
        chunks = [(scores, b.labels, b.groups) for scores, b in self.predictions(data, labels=True)]
        y_score, y_true, groups = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        return score(y_true, y_score, groups if len(groups) else None)


def load(path: str | Path, *, device: str = "cpu", reading: Mapping[str, Any] | None = None) -> Run:
    """Open a run folder. Strict: settings, encoder, weights and calibration must fit each other.

    Args:
        path: the folder.
        device: where the model computes.
        reading: settings of `data` by which new files are read, such as `{"header": False}`, if not as in training.

    Raises:
        RunError: not a run folder, or one without finished weights.
    """
    folder = Path(path)
    config = load_config(folder, {"data": reading or {}})
    encoder = Encoder.load(folder / "encoder")
    tensors, _ = checkpoint.load(folder / "model.safetensors")
    with seeded(0):  # the weights drawn here are replaced at once
        model = ClickModel(config.model, encoder.layout, device=device, compression=config.compression)
    model.load_tensors(tensors, str(folder / "model.safetensors"))
    model.calibration = calibration.load(folder, config.train.calibration)
    return Run(folder, config, encoder, model)


def load_config(folder: Path, over: Mapping[str, Any] | None = None) -> Config:
    """The settings of a run folder, with those of `over` laid on top."""
    path = folder / "config.yaml"
    if not path.exists():
        raise RunError("not a run folder: it holds no config.yaml", file=folder, mend="Check the path.")
    return resolve(merge(load_yaml(path), over or {}), source=path)
