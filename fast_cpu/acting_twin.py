"""A copy of a network prepared for acting: weights in the compute type, packed on the CPU.

A rollout multiplies the same weights with a handful of rows at each of a thousand steps. oneDNN
needs as long to reorder a weight into its own layout as for the product itself, so reordering once
per rollout halves the time to collect with one environment.
"""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fast_cpu.linear import packed

Module = TypeVar("Module", bound=nn.Module)


class ActingTwin(Generic[Module]):
    """Caches a copy of a module for acting, rebuilt when the weights change.

    Deep copies start with an empty cache.
    """

    def __init__(self) -> None:
        self._twin: Module | None = None
        self._parameters: list[nn.Parameter] = []
        # address and version of each weight when the twin was built
        self._seen: list[tuple[int, int]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> ActingTwin[Module]:
        return ActingTwin()

    def of(self, module: Module, matrices: set[str], dtype: torch.dtype) -> Module:
        """The copy of a module, with all parameters converted to a type and without gradients.

        Args:
            module: The module, the same at each call.
            matrices: Names of the weights used by `linear` only.
            dtype: Compute type.
        """
        if self._twin is None or self._seen != self._state():
            weights: dict[int, Tensor] = {}
            for name, p in module.named_parameters():
                weight = p.detach().to(dtype)
                weights[id(p)] = packed(weight) if name in matrices else weight
            # deepcopy takes what is in its memo instead of copying
            self._twin = copy.deepcopy(module, dict(weights))
            self._parameters = list(module.parameters())
            self._seen = self._state()
        if self._twin.training != module.training:
            self._twin.train(module.training)
        return self._twin

    def clear(self) -> None:
        """Free the copy, as training is about to change the weights."""
        self._twin, self._parameters, self._seen = None, [], []

    def _state(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), p._version) for p in self._parameters]
