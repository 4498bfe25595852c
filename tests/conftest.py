"""Shared fixtures: small encoded stores with a signal to learn, and where real data lie, if anywhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from clickherd import cli
from clickherd.data.store import Batch, FieldLayout, Layout, Store, StoreWriter

# Where Triton's kernels run in the tests: on a GPU if there is one, otherwise in its interpreter, on host memory. That
# has to be said before triton is imported.
TRITON_DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if TRITON_DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ("creative_runs",)  # fixtures of tests/creative and test_cli_creative.py

FIELD_SIZES = (40, 25, 12)
NUM_NUMERIC = 2


def random_batch(layout: Layout, num_rows: int, seed: int) -> Batch:
    """Rows whose click depends on pairs of ids, on a number and on a bag's values."""
    rng = np.random.default_rng(seed)
    effects = np.random.default_rng(0).standard_normal((layout.num_ids, 4)) * 0.8
    single = [field for field in layout.fields if not field.multi]
    ids = np.stack([f.offset + rng.zipf(1.5, num_rows) % f.size for f in single], axis=1).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 4, num_rows))]).astype(np.int64)
    bag = layout.fields[-1]
    values = (bag.offset + rng.integers(0, bag.size, offsets[-1])).astype(np.int32)
    numeric = rng.random((num_rows, len(layout.numeric))).astype(np.float32)
    logit = (effects[ids[:, 0]] * effects[ids[:, 1]]).sum(axis=1) + numeric[:, 0]
    logit += np.add.reduceat(effects[values, 0], offsets[:-1]) - 1
    labels = (rng.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return Batch(ids, ((values, offsets),), numeric, labels, (ids[:, 0] % 7).astype(np.uint64))


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """`make_store(rows, seed)`: two single-valued fields, one multi-valued, two numeric columns."""
    offsets = np.cumsum((0, *FIELD_SIZES))
    fields = tuple(
        FieldLayout(f"f{j}", int(offsets[j]), size, multi=j == len(FIELD_SIZES) - 1)
        for j, size in enumerate(FIELD_SIZES)
    )
    layout = Layout(fields, tuple(f"n{k}" for k in range(NUM_NUMERIC)))

    def make(num_rows: int, seed: int = 1) -> Store:
        path = tmp_path / f"store-{num_rows}-{seed}"
        writer = StoreWriter(path, layout, has_groups=True)
        writer.append(random_batch(layout, num_rows, seed))
        writer.close()
        return Store(path)

    return make


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`run("train", …)` → (exit code, stdout, stderr), in a folder and with a cache of the test's own."""
    monkeypatch.setenv("CLICKHERD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers[number])

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clickherd", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


@pytest.fixture
def write_log() -> Callable[[Path, int], None]:
    """`write_log(path, rows)`: a CSV with odd column names, in which users and items have each their own taste."""

    def write(path: Path, num_rows: int) -> None:
        rng, effects = np.random.default_rng(0), np.random.default_rng(9).standard_normal(50)
        user, item = rng.integers(0, 30, num_rows), rng.integers(0, 20, num_rows)
        click = rng.random(num_rows) < 1 / (1 + np.exp(-1.5 * (effects[user] + effects[30 + item])))
        columns = {"Clicked?": click.astype(int), "user id": user, "item": [f"i{i}" for i in item]}
        pl.DataFrame(columns).write_csv(path)

    return write


@pytest.fixture
def odd_clicks(tmp_path: Path, write_log: Callable[[Path, int], None]) -> Path:
    """Such a log of 1,200 rows, clicks.csv in the test's folder."""
    write_log(tmp_path / "clicks.csv", 1200)
    return tmp_path / "clicks.csv"


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The GPU; tests that need one are skipped where there is none."""
    if TRITON_DEVICE.type == "cpu":
        pytest.skip("torch finds no CUDA device")
    return TRITON_DEVICE


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where there is none."""
    folder = os.environ.get("CLICKHERD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CLICKHERD_DATA does not name a folder of real data sets")
    return Path(folder)
