"""What the interpreter cannot tell of the Triton kernels: that they compile for a GPU, which needs none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from clickherd.errors import ConfigError
from clickherd.kernels import kernels_for

COMPILE_ALL = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from clickherd.kernels import gpu

INTEGERS = {"owners": "*i64", "offsets": "*i64"} | dict.fromkeys(
    ("counts", "current", "ids", "tallies", "values", "reached", "count", "num_taken"), "*i32")
FLOATS = {"rate", "l2", "clip", "floor", "beta1", "rest1", "beta2", "rest2", "epsilon"}
TABLES = {"weight", "exp_avg", "exp_avg_sq", "grad", "rows", "linear", "grad_rows", "grad_wide", "steps", "out",
          "sums"}
BLOCKS = {"BLOCK_B": gpu.ROWS, "BLOCK_N": gpu.LOOKUPS, "BLOCK_V": gpu.TABLE_ROWS, "BLOCK_W": 16,
          "NUM_TALLIES": gpu.TALLIES, "WIDTH": 11, "BLOCK": 64}

ONES = {"num_single": 1, "num_fields": 1, "width": 1}  # Triton takes whole numbers that are 1 for constants


def type_of(name):
    if name == "rows" and name not in TABLES:
        return "*i32"  # ids of them, where other kernels have the rows themselves
    return INTEGERS.get(name) or ("fp32" if name in FLOATS else "*fp32" if name in TABLES else "i32")


def check(kernel, constants):
    signature = {p.name: "constexpr" if p.name in constants else type_of(p.name) for p in kernel.params}
    values = {(p.num,): constants[p.name] for p in kernel.params if p.name in constants}
    compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32))


for kernel in (gpu._gather, gpu._gather_bag, gpu._scatter_add, gpu._claim, gpu._update, gpu._catch_up,
               gpu._relu_backward):
    TABLES = TABLES - {"rows"} if kernel in (gpu._claim, gpu._update, gpu._catch_up) else TABLES | {"rows"}
    switches = [p.name for p in kernel.params if p.is_constexpr and p.name not in BLOCKS]
    check(kernel, BLOCKS | dict.fromkeys(switches, 0))
    check(kernel, BLOCKS | dict.fromkeys(switches, 1))
    check(kernel, BLOCKS | dict.fromkeys(switches, 1) | ONES)
print("compiled")
"""


def test_every_branch_compiles_for_a_gpu(tmp_path: os.PathLike[str]) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE_ALL], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "compiled", done.stderr


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clickherd.kernels.gpu", raising=False)
    monkeypatch.delattr("clickherd.kernels.gpu", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ConfigError, match="triton"):
        kernels_for(torch.device("cuda"))
