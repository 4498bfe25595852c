"""The weights of a trained model that training goes on from, in a run folder until it has.

FOLDER/start.safetensors    the weights, with the epochs and the share of the rates that they are trained on with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clickherd import checkpoint

NAME = "start.safetensors"


@dataclass(frozen=True)
class Start:
    """Weights, and how they are trained on: `epochs` epochs, 0 for none, at `rate` times the rates of the settings."""

    tensors: Mapping[str, Tensor]
    epochs: int
    rate: float

    def save(self, folder: Path) -> None:
        """Write the file."""
        checkpoint.save(folder / NAME, self.tensors, {"epochs": self.epochs, "rate": self.rate})

    @classmethod
    def load(cls, folder: Path) -> Start | None:
        """That of a run folder, if it has one."""
        if not (folder / NAME).exists():
            return None
        tensors, facts = checkpoint.load(folder / NAME)
        return cls(tensors, **facts)

    @staticmethod
    def remove(folder: Path) -> None:
        """Once training is done."""
        (folder / NAME).unlink(missing_ok=True)
