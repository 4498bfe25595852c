"""Rows in few bits: each row of the table has a scale s of its own and holds whole numbers q, its numbers being q·s.

Post-training quantisation, symmetric and row by row, as in Guan et al., https://arxiv.org/abs/1911.02079, sections 2
and 3: 8 bits with s = max|z| / 127; at 4 bits the largest numbers of a row may be cut off where that makes its squared
error less ("greedy search" there, over a few cuts here).

Shapes: V ids of a field, K numbers of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clickherd.compact.config import FULL, CompressionConfig
from clickherd.data.store import Layout
from clickherd.kernels import PackedField, PackedRows, code_bytes

if TYPE_CHECKING:
    from clickherd.compact.decoder import Decoder

CUTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of a row's largest number, at 4 bits
ALIGNMENT = 4  # bytes: where the rows of a field begin


def quantise(z_VK: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Whole numbers q (V, K) int8 and scales (V,) float16, for 8 or 4 bits."""
    most = 127 if bits == 8 else 7
    largest_V = z_VK.abs().amax(dim=1) if z_VK.shape[1] else z_VK.new_zeros(len(z_VK))
    best, best_q, best_scale = None, None, None
    for cut in CUTS if bits == 4 else CUTS[:1]:
        scale_V = (largest_V * cut / most).half()
        divisor_V1 = torch.where(scale_V > 0, scale_V, torch.ones_like(scale_V)).float().unsqueeze(1)
        q_VK = (z_VK / divisor_V1).round().clamp(-most, most) * (scale_V > 0).unsqueeze(1)
        error_V = (q_VK * scale_V.float().unsqueeze(1) - z_VK).square().sum(dim=1)
        if best is None or best_q is None or best_scale is None:
            best, best_q, best_scale = error_V, q_VK, scale_V
        else:
            less = error_V < best
            best, best_scale = torch.where(less, error_V, best), torch.where(less, scale_V, best_scale)
            best_q = torch.where(less.unsqueeze(1), q_VK, best_q)
    assert best_q is not None
    assert best_scale is not None
    return best_q.to(torch.int8), best_scale


def rounded(z_VK: Tensor, bits: int) -> Tensor:
    """The rows as they are after a way there and back."""
    if bits == FULL:
        return z_VK
    if bits == 16:
        return z_VK.half().float()
    q_VK, scale_V = quantise(z_VK, bits)
    return q_VK.float() * scale_V.float().unsqueeze(1)


def row_bytes(dim: int, bits: int, *, wide: bool) -> int:
    """Bytes that an id takes: its numbers, the scale of fewer than 16 bits, the linear weight."""
    return code_bytes(dim, bits) + (2 if bits < 16 and dim else 0) + (2 if wide else 0)


def empty(layout: Layout, config: CompressionConfig, width: int, *, wide: bool, device: torch.device) -> PackedRows:
    """Room for the rows of all fields, all zero."""
    fields: list[PackedField] = []
    own: dict[str, PackedField] = {}
    end = scales = 0
    for field in layout.fields:
        if field.target is None:
            dim, bits = config.dims.get(field.name, width), config.bits_of(field.name)
            own[field.name] = PackedField(
                field.offset, field.size, end, dim, bits, scales if bits < 16 else -1, field.name in config.dims
            )
            end += -(-field.size * code_bytes(dim, bits) // ALIGNMENT) * ALIGNMENT
            scales += field.size if bits < 16 and dim else 0
        fields.append(own[field.target or field.name])
    return PackedRows(
        torch.zeros(end, dtype=torch.uint8, device=device),
        torch.zeros(scales, dtype=torch.float16, device=device),
        torch.zeros(layout.num_ids if wide else 0, dtype=torch.float16, device=device),
        tuple(fields),
        width,
        torch.zeros(len(fields), width, width, device=device),
        torch.zeros(len(fields), width, device=device),
    )


def pack(packed: PackedRows, weight_VW: Tensor) -> None:
    """Take over the rows of a table."""
    first = int(len(packed.linear) > 0)
    if first:
        packed.linear.copy_(weight_VW[:, 0])
    for field in dict.fromkeys(packed.fields):
        z_VK = weight_VW[field.offset : field.offset + field.size, first : first + field.dim].contiguous()
        if not field.dim:
            continue
        if field.bits >= 16:
            codes = (z_VK.half() if field.bits == 16 else z_VK).view(torch.uint8)
        else:
            q_VK, scale_V = quantise(z_VK, field.bits)
            packed.scales[field.scale : field.scale + field.size] = scale_V
            codes = q_VK.view(torch.uint8) if field.bits == 8 else _nibbles(q_VK)
        packed.codes[field.start : field.start + codes.numel()] = codes.reshape(-1)


def _nibbles(q_VK: Tensor) -> Tensor:
    """Two numbers of −7 to 7 a byte, the first in its low half."""
    q_VK = q_VK + 8
    if q_VK.shape[1] % 2:
        q_VK = torch.nn.functional.pad(q_VK, (0, 1))
    return (q_VK[:, ::2] | q_VK[:, 1::2] << 4).view(torch.uint8)


def fill(packed: PackedRows, codes_VK: Tensor, scales_V: Tensor, linear_V: Tensor) -> None:
    """Take over rows that are in 8 bits already."""
    packed.linear.copy_(linear_V)
    for field in dict.fromkeys(packed.fields):
        rows = slice(field.offset, field.offset + field.size)
        codes = codes_VK[rows].contiguous().view(torch.uint8).reshape(-1)
        packed.codes[field.start : field.start + codes.numel()] = codes
        if field.dim:
            packed.scales[field.scale : field.scale + field.size] = scales_V[rows]


def unpack(packed: PackedRows, weight_VW: Tensor) -> None:
    """The inverse of `pack`, but for what was rounded."""
    first = int(len(packed.linear) > 0)
    if first:
        weight_VW[:, 0] = packed.linear
    for field in dict.fromkeys(packed.fields):
        local = torch.arange(field.size, device=weight_VW.device)
        weight_VW[field.offset : field.offset + field.size, first : first + field.dim] = packed.numbers(field, local)
        weight_VW[field.offset : field.offset + field.size, first + field.dim :] = 0


def set_decoder(packed: PackedRows, decoder: Decoder | None) -> None:
    """Take over the matrices that make embeddings of short rows."""
    if decoder is not None:
        bases_RKD = decoder.bases().detach()
        for own, place in enumerate(decoder.positions):
            packed.basis[place, : bases_RKD.shape[1]] = bases_RKD[own]
            packed.mean[place] = decoder.mean_RD[own].detach()


def tensors(packed: PackedRows) -> Mapping[str, Tensor]:
    """What a file of weights holds of the rows."""
    return {"packed.codes": packed.codes, "packed.scales": packed.scales, "packed.linear": packed.linear}
