"""Weights and training state on disk: safetensors with JSON beside the tensors, each file replaced in one move."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from clickherd.errors import RunError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int8: "I8",
}


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts to one file, beside it first and then renamed: never half a file.

    Raises:
        RunError: the disk is full or cannot be written; what stood at `path` still stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    try:
        with beside.open("wb") as file:
            _write(file, tensors, {"facts": json.dumps(facts)})
        os.replace(beside, path)  # noqa: PTH105  (atomic, also over an existing file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunError(f"cannot write: {error}", file=path, mend="Free some space or choose another --out.") from error


def _write(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The safetensors format, one tensor after the other: the library's own `save_file` first copies all of them."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file written by `save`.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118  (not a dict)
    except FileNotFoundError:
        raise RunError("no such file of weights", file=path, mend="Is this a finished run folder?") from None
    except safetensors.SafetensorError as error:
        raise RunError(f"the file of weights is damaged: {error}", file=path) from None


def facts(path: Path) -> dict[str, Any] | None:
    """The facts of a file written by `save` alone; None where there is no such file.

    Raises:
        RunError: it is damaged.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get("facts", "{}")))
    except safetensors.SafetensorError as error:
        raise RunError(f"the file of weights is damaged: {error}", file=path) from None


@contextmanager
def new_folder(folder: Path, mend: str) -> Iterator[Path]:
    """A folder to fill, which is renamed to `folder` at the end: all of it stands there, or nothing.

    Raises:
        RunError: `folder` is there already, or cannot be made; `mend` is the advice.
    """
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        if folder.exists():
            raise FileExistsError
        beside.mkdir(parents=True)
        yield beside
        beside.rename(folder)
    except OSError as error:
        what = "the folder already exists" if folder.exists() else f"cannot make the folder: {error.strerror}"
        raise RunError(what, file=folder, mend=mend) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file beside, then rename."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)  # noqa: PTH105  (atomic, also over an existing file)
