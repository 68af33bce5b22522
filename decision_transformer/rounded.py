"""Weights rounded to the compute type, all in one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Rounded(torch.autograd.Function):
    """(dtype, *tensors) -> the tensors in this type, with one launch on a GPU each way."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [x.dtype for x in tensors]
        rounded = [torch.empty_like(x, dtype=dtype) for x in tensors]
        torch._foreach_copy_(rounded, list(tensors))
        return tuple(rounded)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wide = [torch.empty_like(g, dtype=t) for g, t in zip(grads, ctx.dtypes, strict=True)]
        torch._foreach_copy_(wide, list(grads))
        return (None, *wide)
