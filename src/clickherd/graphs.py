"""The gradients of a micro-batch as one CUDA graph: its kernels are recorded once and then launched as one.

The optimisers stay outside. They are a few launches, and their rates, which change at every step, stay plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clickherd.network import TensorBatch

WARM_UP = 3  # batches that run as they are before the recording: libraries and Triton set themselves up in them


class Graphed:
    """`compute(batch, batch_size)`, replayed from a graph for batches shaped like the first one.

    Others run as they are: the last batch of an epoch, and all with multi-valued fields or sequences, whose shapes
    differ by batch.
    The result belongs to the graph: the next call overwrites it.
    """

    def __init__(self, compute: Callable[[TensorBatch, int], Tensor]) -> None:
        self._compute = compute
        self._shape: tuple[int, int] | None = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._static: TensorBatch | None = None  # what the graph reads
        self._result: Tensor | None = None

    def __call__(self, batch: TensorBatch, batch_size: int) -> Tensor:
        """The result of `compute`."""
        shape = len(batch.labels), batch_size
        self._shape = self._shape or shape
        if batch.bags or batch.sequences or shape != self._shape:
            return self._compute(batch, batch_size)
        with torch.cuda.device(batch.labels.device):
            if self._calls < WARM_UP:
                self._calls += 1
                return self._warm_up(batch, batch_size)
            if self._graph is None:
                # A copy: the caller may still hold this batch's ids when the graph reads those of another one.
                self._static = TensorBatch(batch.ids.clone(), (), batch.numeric.clone(), batch.labels.clone())
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph):
                    self._result = self._compute(self._static, batch_size)
            assert self._static is not None
            assert self._result is not None
            self._static.ids.copy_(batch.ids)
            self._static.numeric.copy_(batch.numeric)
            self._static.labels.copy_(batch.labels)
            self._graph.replay()
            return self._result

    def __reduce__(self) -> tuple[type[Graphed], tuple[Callable[[TensorBatch, int], Tensor]]]:
        """A copy records anew: what is recorded holds addresses of this one's tensors."""
        return Graphed, (self._compute,)

    def _warm_up(self, batch: TensorBatch, batch_size: int) -> Tensor:
        """On a stream of its own, as recording will be; torch asks for that."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = self._compute(batch, batch_size)
        torch.cuda.current_stream().wait_stream(stream)
        return result
