"""Weights made ready for acting: rounded to the transformer's type, and packed on the CPU.

In a rollout the same weights multiply a handful of rows at each of a thousand steps. There
oneDNN takes as long to bring a weight into its own layout as for the product itself, so that it
is done once: collecting with one environment takes half the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from decision_transformer.linear import packed


class ActingWeights:
    """What `of` made, kept until the weights change. A copy of a network begins with none."""

    def __init__(self) -> None:
        # where the weights were and which version, and what was made of them
        self._seen: list[tuple[int, int]] = []
        self._ready: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> ActingWeights:
        return ActingWeights()

    def of(self, module: nn.Module, matrices: set[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """All parameters by name, in this type.

        Args:
            module: Whose parameters.
            matrices: Names of those that `linear` multiplies with, and nothing else uses.
            dtype: Type to compute in.
        """
        weights = dict(module.named_parameters())
        seen = [(p.data_ptr(), p._version) for p in weights.values()]
        if seen != self._seen:
            self._ready = {
                name: packed(p.detach().to(dtype)) if name in matrices else p.detach().to(dtype)
                for name, p in weights.items()
            }
            self._seen = seen
        return self._ready

    def clear(self) -> None:
        """Give the memory back: training goes on, and changes the weights."""
        self._seen, self._ready = [], {}
