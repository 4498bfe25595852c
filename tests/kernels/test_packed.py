"""Rows in few bits: every implementation gives what the table that they unpack to gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clickherd.compact import packing
from clickherd.compact.config import CompressionConfig
from clickherd.compact.decoder import Decoder
from clickherd.data.store import FieldLayout, Layout
from clickherd.kernels import Kernels, PackedRows, cpu, reference
from conftest import TRITON_DEVICE

try:
    from clickherd.kernels import gpu
except ModuleNotFoundError:  # triton is built for Linux alone
    gpu = None  # type: ignore[assignment]
TWINS = [
    pytest.param(cpu, torch.device("cpu"), id="cpu"),
    pytest.param(reference, torch.device("cpu"), id="reference"),
    pytest.param(gpu, TRITON_DEVICE, id="gpu", marks=pytest.mark.skipif(gpu is None, reason="triton is missing")),
]


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """A table, its packed twin, and rows that look into both; fields of all lengths and bits, some multi-valued."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, wide = draw(st.integers(1, 9)), draw(st.booleans())
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    num_multi, num_rows = draw(st.integers(0, len(sizes))), draw(st.integers(0, 20))
    names = [f"f{k}" for k in range(len(sizes))]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    fields = tuple(
        FieldLayout(name, int(offsets[k]), sizes[k], k >= len(sizes) - num_multi) for k, name in enumerate(names)
    )
    layout = Layout(fields, ())
    config = CompressionConfig(
        dims={name: draw(st.integers(0, width - 1)) for name in names if draw(st.booleans())},
        bits={name: draw(st.sampled_from([4, 8, 16, 32])) for name in names},
    )
    decoder = None
    if config.dims:
        decoder = Decoder([config.dims.get(name) for name in names], width)
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter)
    columns = (decoder.row_width if decoder else width) + wide
    weight = torch.from_numpy(rng.standard_normal((int(offsets[-1]), columns)).astype(np.float32))
    packed = packing.empty(layout, config, width, wide=wide, device=torch.device("cpu"))
    packing.pack(packed, weight)
    packing.set_decoder(packed, decoder)
    single = fields[: len(fields) - num_multi]
    ids = np.zeros((num_rows, len(single)), np.int32)
    for k, field in enumerate(single):
        ids[:, k] = field.offset + rng.integers(0, field.size, num_rows)
    bags = []
    for field in fields[len(single) :]:
        starts = np.concatenate([[0], np.cumsum(rng.integers(1, 4, num_rows))]).astype(np.int64)
        values = (field.offset + rng.integers(0, field.size, starts[-1])).astype(np.int32)
        bags.append((torch.from_numpy(values), torch.from_numpy(starts)))
    rows = torch.from_numpy(ids), tuple(bags)
    return {"weight": weight, "packed": packed, "decoder": decoder, "rows": rows, "wide": wide}


@pytest.mark.parametrize(("twin", "device"), TWINS)
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_packed_rows_are_those_that_they_unpack_to(
    twin: Kernels, device: torch.device, problem: dict[str, Any]
) -> None:
    packed, (ids, bags) = problem["packed"], problem["rows"]
    table = torch.zeros_like(problem["weight"])
    packing.unpack(packed, table)
    expected, wide = reference.gather(table, ids, bags, problem["wide"])
    if problem["decoder"] is not None:
        expected = problem["decoder"](expected).detach()
    there = moved(packed, device)
    there_bags = tuple((values.to(device), starts.to(device)) for values, starts in bags)
    rows, linear = twin.gather_packed(there, range(len(packed.fields)), ids.to(device), there_bags)
    torch.testing.assert_close(rows.cpu(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear.cpu(), wide, rtol=1e-5, atol=1e-5)


@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_what_was_rounded_once_stays_as_it_is(problem: dict[str, Any]) -> None:
    packed = problem["packed"]
    table = torch.zeros_like(problem["weight"])
    packing.unpack(packed, table)
    codes, scales = packed.codes.clone(), packed.scales.clone()
    packing.pack(packed, table)
    again = torch.zeros_like(table)
    packing.unpack(packed, again)
    torch.testing.assert_close(again, table, rtol=1e-3, atol=1e-6)
    eight = [field for field in packed.fields if field.bits == 8 and field.dim]
    for field in eight:  # the same whole numbers and scales; at 4 bits a cut may be another that is as good
        span = slice(field.start, field.start + field.size * field.row_bytes)
        assert torch.equal(packed.codes[span], codes[span])
        of_field = slice(field.scale, field.scale + field.size)
        assert torch.equal(packed.scales[of_field], scales[of_field])


def moved(packed: PackedRows, device: torch.device) -> PackedRows:
    """On the device."""
    tensors = (packed.codes, packed.scales, packed.linear, packed.basis, packed.mean)
    codes, scales, linear, basis, mean = (tensor.to(device) for tensor in tensors)
    return PackedRows(codes, scales, linear, packed.fields, packed.width, basis, mean)
