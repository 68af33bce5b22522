"""A network made ready for acting: weights rounded to its type, and packed on the CPU.

In a rollout the same weights multiply a handful of rows at each of a thousand steps. There
oneDNN takes as long to bring a weight into its own layout as for the product itself, so that it
is done once: collecting with one environment takes half the time.
"""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fast_cpu.linear import packed

Module = TypeVar("Module", bound=nn.Module)


class ActingTwin(Generic[Module]):
    """A copy of a module for acting, made anew when the weights are others.

    A copy of a network begins without one.
    """

    def __init__(self) -> None:
        self._twin: Module | None = None
        self._parameters: list[nn.Parameter] = []
        # where the weights were, and which version, when the twin was made
        self._seen: list[tuple[int, int]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> ActingTwin[Module]:
        return ActingTwin()

    def of(self, module: Module, matrices: set[str], dtype: torch.dtype) -> Module:
        """The module with all parameters in this type, without gradients.

        Args:
            module: The same at each call.
            matrices: Names of the parameters that `linear` multiplies with, and nothing else uses.
            dtype: Type to compute in.
        """
        if self._twin is None or self._seen != self._state():
            weights: dict[int, Tensor] = {}
            for name, p in module.named_parameters():
                weight = p.detach().to(dtype)
                weights[id(p)] = packed(weight) if name in matrices else weight
            # what the copying finds in its memo it takes instead of a copy
            self._twin = copy.deepcopy(module, dict(weights))
            self._parameters = list(module.parameters())
            self._seen = self._state()
        if self._twin.training != module.training:
            self._twin.train(module.training)
        return self._twin

    def clear(self) -> None:
        """Give the memory back: training goes on, and changes the weights."""
        self._twin, self._parameters, self._seen = None, [], []

    def _state(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), p._version) for p in self._parameters]
