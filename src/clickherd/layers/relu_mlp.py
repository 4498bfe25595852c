"""Linear → ReLU, repeated: the time of a training step is spent here.

The same arithmetic as a chain of `nn.Linear` and `nn.ReLU`, with less memory moved: bias and ReLU are applied within
the matrix product (oneDNN, cuBLAS), the ReLU's gradient in place, and nothing but the activations is kept for the way
back.
Under `torch.autocast` the products are taken in bfloat16, with sums and weights in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clickherd.kernels import kernels_for

_HAS_ONEDNN: bool = torch._C._has_mkldnn
_HAS_BF16: bool = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # needs AVX-512
_layers = SimpleNamespace(in_one=True)
ALIGNMENT = 8  # columns: a GPU's fast matrix products take rows of whole 16 bytes


def linear(x_BN: Tensor, weight_MN: Tensor, bias_M: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """x·Wᵀ + b by oneDNN or cuBLAS, with a ReLU if asked for; without either torch takes its own product."""
    if x_BN.is_cuda and relu and bias_M is not None:
        return torch._addmm_activation(bias_M, x_BN, weight_MN.t())
    if x_BN.is_cuda or not (_HAS_BF16 if x_BN.dtype == torch.bfloat16 else _HAS_ONEDNN):
        product = nn.functional.linear(x_BN, weight_MN, bias_M)
        return product.relu_() if relu else product
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_BN, weight_MN, bias_M, "relu" if relu else "none", [], "")
    return out


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Layers are called one by one within the block, so that their hooks are."""
    _layers.in_one = False
    try:
        yield
    finally:
        _layers.in_one = True


def applies_to(x_BN: Tensor) -> bool:
    """Whether `relu_mlp` can take the place of the single layers; it is left out of what is exported."""
    if not _layers.in_one or torch.compiler.is_exporting():  # asked first: `len` would fix the number of rows
        return False
    return x_BN.device.type in {"cpu", "cuda"} and x_BN.dtype == torch.float32 and len(x_BN) > 0


def relu_mlp(x_BN: Tensor, linears: Sequence[nn.Linear], relus: Sequence[bool]) -> Tensor:
    """Linear layers with a ReLU behind those that `relus` says have one. Shape (B, N) in, (B, M) out."""
    device = x_BN.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BN.dtype
    weights = [parameter for linear in linears for parameter in (linear.weight, linear.bias)]
    out_BM: Tensor = _ReluMLP.apply(x_BN, dtype, tuple(relus), *weights)  # type: ignore[no-untyped-call]
    return out_BM


class _ReluMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BN: Tensor, dtype: torch.dtype, relus: tuple[bool, ...], *parameters: Tensor) -> Tensor:
        cast = [parameter.to(dtype) for parameter in parameters]
        padding = -x_BN.shape[1] % ALIGNMENT if x_BN.is_cuda else 0
        if padding:
            cast[0] = nn.functional.pad(cast[0], (0, padding))
        activations = [_padded(x_BN, padding, dtype)]
        for i, relu in enumerate(relus):
            activations.append(linear(activations[-1], cast[2 * i], cast[2 * i + 1], relu=relu))
        ctx.relus = relus
        kept = activations if relus[-1] else activations[:-1]
        ctx.save_for_backward(*kept, *cast[::2])
        ctx.num_inputs = x_BN.shape[1]
        return activations[-1].float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        saved, relus = ctx.saved_tensors, ctx.relus
        num_layers = len(relus)
        activations, weights = saved[: len(saved) - num_layers], saved[len(saved) - num_layers :]
        relu_backward = kernels_for(activations[0].device).relu_backward
        grad = grad_outputs[0].to(activations[0].dtype, copy=relus[-1]).contiguous()
        grad_bias = relu_backward(grad, activations[-1]) if relus[-1] else grad.sum(0, dtype=torch.float32)
        gradients: list[Tensor | None] = []
        for i in reversed(range(num_layers)):
            grad_weight = torch.mm(grad.t(), activations[i]).float()
            gradients += [grad_bias, grad_weight if i else grad_weight[:, : ctx.num_inputs]]
            if i == 0 and not ctx.needs_input_grad[0]:
                break
            grad = linear(grad, weights[i].t())
            if i:
                below = relus[i - 1]
                grad_bias = relu_backward(grad, activations[i]) if below else grad.sum(0, dtype=torch.float32)
        grad_x = grad[:, : ctx.num_inputs].float() if ctx.needs_input_grad[0] else None
        return grad_x, None, None, *reversed(gradients)


def _padded(x_BN: Tensor, padding: int, dtype: torch.dtype) -> Tensor:
    """The inputs in the dtype, with so many columns of zeros behind them."""
    if not padding:
        return x_BN.to(dtype)
    num_rows, width = x_BN.shape
    out = x_BN.new_empty(num_rows, width + padding, dtype=dtype)
    out[:, :width] = x_BN
    out[:, width:] = 0
    return out
