"""Dropout whose random numbers are cheap on the CPU.

PyTorch's own dropout takes a tenth of an update there, most of it for random numbers. Here 16
random bits decide on one number, they come from NumPy's SFC64 seeded by PyTorch's generator, and
the sum with a residual is one pass over memory. On other devices PyTorch's kernel is used.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# numbers that a random 64-bit word decides on, and the values of its 16 bits for each
_PER_WORD, _LEVELS = 4, 65536
# numbers made at a time, so that what is between stays in the processor's cache
_BLOCK = 2**18


def keep_noise(like: Tensor, p: float) -> Tensor:
    """0 with probability p, else 1 / (1 - p), independently for each number of a CPU tensor.

    p is rounded to a multiple of 1 / 65536, and the scale is that of the rounded p.
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
    """Dropout with probability p in training, nothing else."""

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
