"""What parts of a network give for rows, while the model predicts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clickherd.data.store import Batch
from clickherd.layers import relu_mlp
from clickherd.network import ClickModel
from clickherd.runtime import threads_kept
from clickherd.threads import set_threads


@torch.no_grad()
def outputs_of(model: ClickModel, batch: Batch, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The outputs of each of the network's `modules` for the rows, in their order: shape (B, N) each, or (B,)."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    with _hooks(modules, outputs), relu_mlp.layer_by_layer(), threads_kept():
        set_threads(1)
        model.predict(batch)
    return {name: torch.cat(parts) for name, parts in outputs.items()}


@contextmanager
def _hooks(modules: Mapping[str, nn.Module], outputs: Mapping[str, list[Tensor]]) -> Iterator[None]:
    def keep(name: str, out: Tensor) -> None:
        outputs[name].append(out.flatten(0, -2) if out.dim() > 2 else out)

    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)) for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
