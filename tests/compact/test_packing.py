"""Rounding, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clickherd.compact import packing
from clickherd.compact.config import CompressionConfig
from clickherd.data.store import FieldLayout, Layout
from clickherd.errors import ConfigError


def test_eight_bits_by_hand() -> None:
    """s = max|z| / 127 in half precision, q = round(z / s); a row of zeros has no scale."""
    q, scale = packing.quantise(torch.tensor([[1.27, -0.635, 0.004], [0.0, 0.0, 0.0]]), 8)
    assert scale.dtype == torch.float16
    assert scale[0].item() == pytest.approx(0.01, rel=1e-3)
    assert q.tolist() == [[127, -64, 0], [0, 0, 0]] or q.tolist() == [[127, -63, 0], [0, 0, 0]]
    assert scale[1].item() == 0


def test_four_bits_cut_a_lone_large_number_where_that_costs_less() -> None:
    """A seven and n numbers of 0.6, at s = 1, 0.9, 0.8, 0.7 and 0.6: 0.16n, 0.09n + 0.7², 0.04n + 1.4², 0.01n + 2.1²
    and 2.8² of squared error; the least is the first with n = 3 and the third with n = 60.
    """
    q, scale = packing.quantise(torch.tensor([[7.0] + [0.6] * 3]), 4)
    assert scale.item() == 1.0
    assert q.tolist() == [[7] + [1] * 3]
    q, scale = packing.quantise(torch.tensor([[7.0] + [0.6] * 60]), 4)
    assert scale.item() == pytest.approx(0.8, rel=1e-3)
    assert q.tolist() == [[7] + [1] * 60]


def test_nibbles_lie_low_half_first() -> None:
    layout = Layout((FieldLayout("f", 0, 1),), ())
    config = CompressionConfig(bits={"f": 4})
    packed = packing.empty(layout, config, 3, wide=True, device=torch.device("cpu"))
    packing.pack(packed, torch.tensor([[0.5, 7.0, -7.0, 3.0]]))
    assert packed.scales.tolist() == [1.0]
    assert packed.linear.tolist() == [0.5]
    assert packed.codes.tolist()[:2] == [15 + 16 * 1, 11]  # 7 + 8 and −7 + 8; 3 + 8
    assert packing.row_bytes(3, 4, wide=True) == 2 + 2 + 2


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=1, max_size=5),
    st.sampled_from([4, 8]),
)
def test_no_number_is_off_by_more_than_its_rounding(rows: list[list[float]], bits: int) -> None:
    z = torch.tensor(rows, dtype=torch.float32)
    off = (packing.rounded(z, bits) - z).double()
    most = 127 if bits == 8 else 7
    step = z.abs().amax(dim=1, keepdim=True).double() / most
    bound = step * 0.5 + step * most * 2**-11 + 127 * 2**-25  # half a step, and the scale's own rounding
    if bits == 8:
        assert (off.abs() <= bound).all()
    else:  # numbers may be cut, if that makes the row's error less
        assert (off.square().sum(dim=1) <= 3 * bound.squeeze(1) ** 2 + 1e-12).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dims": {"colour": 2}}, "compression.dims names 'colour'"),
        ({"bits": {"sit": 8}}, "Did you mean 'site'?"),
        ({"dims": {"site": 4}}, "compression.dims.site = 4: an embedding has 4 numbers"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings: dict[str, dict[str, int]], said: str) -> None:
    layout = Layout((FieldLayout("site", 0, 5),), ())
    with pytest.raises(ConfigError) as told:
        CompressionConfig.model_validate(settings).check_fields(layout, 4)
    assert said in str(told.value)


def test_bytes_are_those_of_the_tensors() -> None:
    rng = np.random.default_rng(0)
    for bits in (4, 8, 16, 32):
        for dim in range(5):
            size = int(rng.integers(1, 40))
            config = CompressionConfig.model_validate({"dims": {"f": dim}, "bits": {"f": bits}})
            packed = packing.empty(Layout((FieldLayout("f", 0, size),), ()), config, 5, wide=True, device="cpu")  # type: ignore[arg-type]
            tensors = packing.tensors(packed).values()
            held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            assert 0 <= held - size * packing.row_bytes(dim, bits, wide=True) < packing.ALIGNMENT
