"""Dropout with cheap random numbers on the CPU.

PyTorch's dropout takes a tenth of an update on the CPU, mostly for random numbers. This one uses 16
random bits per element from NumPy's SFC64, seeded by PyTorch's generator, and adds the residual in
the same pass over memory. Other devices use PyTorch's kernel.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# elements per random 64-bit word, and values of the 16 bits of each
_PER_WORD, _LEVELS = 4, 65536
# elements per block, so that intermediates stay in the CPU cache
_BLOCK = 2**18


def keep_noise(like: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), independently for each element of a CPU tensor.

    p is rounded to a multiple of 1 / 65536; the scale uses the rounded p.
    """
    drop = min(round(p * _LEVELS), _LEVELS - 1)
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))
    noise = torch.empty(like.shape, dtype=like.dtype)
    for block in noise.view(-1).split(_BLOCK):
        words = generator.integers(
            2**64 - 1, dtype=np.uint64, endpoint=True, size=-(-len(block) // _PER_WORD)
        )
        bits = torch.from_numpy(words.view(np.int16)[: len(block)])
        block.copy_(bits >= drop - _LEVELS // 2).mul_(_LEVELS / (_LEVELS - drop))
    return noise


class Dropout(nn.Module):
    """Dropout with probability p in training, identity in evaluation."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self._draws_here(x):
            return F.dropout(x, self.p, self.training)
        return x * keep_noise(x, self.p)

    def add(self, residual: Tensor, branch: Tensor) -> Tensor:
        """residual + dropout(branch)"""
        if not self._draws_here(branch):
            return residual + F.dropout(branch, self.p, self.training)
        return torch.addcmul(residual, branch, keep_noise(branch, self.p))

    def _draws_here(self, x: Tensor) -> bool:
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        return on_cpu and self.training and self.p > 0

    def extra_repr(self) -> str:
        return f"p={self.p}"
