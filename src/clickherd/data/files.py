"""Small files written whole or not at all."""

from __future__ import annotations

from pathlib import Path


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write the file beside its place and rename it."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content)
    beside.replace(path)
