"""Weights on disk: the safetensors format, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from clickherd import checkpoint
from clickherd.errors import RunError

TENSORS = {
    "table": torch.randn(7, 3),
    "transposed": torch.randn(4, 5).t(),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "counts": torch.arange(6, dtype=torch.int32).reshape(2, 3),
    "steps": torch.tensor([1, 2]),
    "rng": torch.get_rng_state(),
    "empty": torch.empty(0, 4),
}


def test_any_reader_of_safetensors_opens_what_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "run" / "model.safetensors"
    checkpoint.save(path, TENSORS, {"epoch": 3, "name": "α"})
    theirs = safetensors.torch.load_file(path)
    ours, facts = checkpoint.load(path)
    assert facts == {"epoch": 3, "name": "α"}
    assert theirs.keys() == ours.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert theirs[name].dtype == tensor.dtype
        assert torch.equal(theirs[name], tensor)
        assert torch.equal(ours[name], tensor)
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_what_stood_there_still_stands_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {"a": torch.ones(2)}, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(RunError, match="No space left"):
        checkpoint.save(path, {"a": torch.zeros(2)}, {})
    assert torch.equal(checkpoint.load(path)[0]["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match="damaged"):
        checkpoint.load(path)
