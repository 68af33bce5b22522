"""y = activation(x W + b) with W stored input x output, as in GPT-2's checkpoints.

On the CPU oneDNN fuses product, bias and ReLU, which takes half the time of the three separate
passes over memory of PyTorch's layer. On other devices, or without oneDNN, this is PyTorch's layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """x (..., in), weight (in, out), bias (out,) -> (..., out), optionally followed by ReLU.

    The weight may be `packed` if no gradient is needed.
    """
    if is_packed(weight):
        return _product(x.reshape(-1, x.shape[-1]), weight, bias, relu).view(*x.shape[:-1], -1)
    if fusable(x) and not torch.is_grad_enabled():
        rows, columns = x.reshape(-1, x.shape[-1]), weight.contiguous().t()
        return _product(rows, columns, bias, relu).view(*x.shape[:-1], -1)
    if fusable(x):
        return _FusedLinear.apply(x, weight, bias, relu)
    y = F.linear(x, weight.t(), bias)
    return F.relu(y) if relu else y


def packed(weight: Tensor) -> Tensor:
    """The weight (in, out) in oneDNN's own layout, or unchanged if oneDNN is not used.

    A packed weight supports neither gradients nor slicing.
    """
    if not fusable(weight):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous())


def is_packed(weight: Tensor) -> bool:
    """Whether a weight is in oneDNN's layout."""
    return weight.is_mkldnn


def _product(rows: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """rows (n, in); weight (out, in), packed or not."""
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, activation, [], "")


def fusable(x: Tensor) -> bool:
    """Whether `linear` uses oneDNN for this tensor."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.enabled or torch.compiler.is_compiling():
        return False
    if x.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32 and torch.backends.mkldnn.is_available()


class _FusedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        # copy slices of a larger weight: oneDNN is slow with their strides
        weight = weight.contiguous()
        y = _product(rows, weight.t(), bias, relu)
        ctx.save_for_backward(rows, weight, y if relu else None)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        rows, weight, y = ctx.saved_tensors
        shape = (*grad.shape[:-1], weight.shape[0])
        grad = grad.reshape(-1, grad.shape[-1])
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        to_x = (grad @ weight.t()).view(shape) if ctx.needs_input_grad[0] else None
        return to_x, rows.t() @ grad, grad.sum(0), None
