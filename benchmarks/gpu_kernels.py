"""The Triton kernels held to the reference, on a GPU or, in Triton's interpreter, on tensors in host memory."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from clickherd.kernels import AdamStep, Kernels, reference


def check(device: torch.device, num_ids: int, num_rows: int) -> list[str]:
    """What the Triton kernels give otherwise than the reference; nothing is what there should be."""
    from clickherd.kernels import gpu

    told = []
    for wide, clip, touched_only in ((True, 1e-2, False), (False, math.inf, False), (True, 1e-2, True)):
        expected, got = (
            check_results(kernels, device, num_ids, num_rows, wide, clip, touched_only) for kernels in (reference, gpu)
        )
        for name, theirs in expected.items():
            exact = not theirs.is_floating_point()
            size = float(theirs.abs().max())
            try:
                torch.testing.assert_close(
                    got[name], theirs, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-5 * size
                )
            except AssertionError as error:
                told.append(f"{name}, wide={wide}, clip={clip}, touched_only={touched_only}: {error}")
    return told


def check_results(
    kernels: Kernels, device: torch.device, num_ids: int, num_rows: int, wide: bool, clip: float, touched_only: bool
) -> dict[str, Tensor]:
    """All that one implementation makes of fields of three values, of many, and of a multi-valued one."""
    generator = torch.Generator().manual_seed(0)
    width = 10 + wide

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    ids = torch.stack(
        [
            torch.randint(0, size, (num_rows,), generator=generator) + offset
            for offset, size in ((0, 3), (3, num_ids - 3))
        ],
        dim=1,
    )
    sizes = torch.randint(1, 6, (num_rows,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    values = num_ids + torch.randint(0, 100, (int(offsets[-1]),), generator=generator)
    ids, bags = ids.int().to(device), ((values.int().to(device), offsets.to(device)),)
    table = [
        normal(num_ids + 100, width) * 1e-2,
        normal(num_ids + 100, width) * 1e-3,
        normal(num_ids + 100, width) ** 2,
    ]
    grad_rows, grad_wide = normal(num_rows, 3, 10) * 1e-2, normal(num_rows) * 1e-2 if wide else None
    adam = AdamStep(5, 1e-3, 1e-3, clip, 1e-5, 0.9, 0.999, 1e-7, touched_only)

    rows, linear = kernels.gather(table[0], ids, bags, wide)
    grad, counts = torch.zeros_like(table[0]), torch.zeros(len(table[0]), dtype=torch.int32, device=device)
    kernels.scatter_add(grad, counts, ids, bags, grad_rows, grad_wide)
    results = {"rows": rows, "linear": linear, "grad": grad.clone(), "counts": counts.clone()}
    results["tallies"] = kernels.cowclip_adam(*table, grad, counts, wide, adam)
    results |= {f"{name} after the pass": t.clone() for name, t in zip(("w", "m", "v"), table, strict=True)}
    if touched_only:
        return results
    named, current = torch.cat([ids.flatten(), values.int().to(device)]), torch.full_like(counts, 5)
    later = [replace(adam, step=step, clip=math.inf) for step in (6, 7)]
    kernels.catch_up(*table, current, named, later)
    kernels.scatter_add(grad, counts, ids, bags, grad_rows, grad_wide)
    last = replace(adam, step=8)
    results["tallies of the rows"] = kernels.cowclip_adam_rows(*table, grad, counts, current, named, wide, last)
    kernels.catch_up(*table, current, None, [*later, last])
    return results | {"current": current, "w": table[0], "m": table[1], "v": table[2], "grad left": grad}
