"""Training updates as CUDA graphs: batch, losses, optimisers, target networks and logged sums."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from fast_gpu.graph import Graph
from replay_buffer import Sampler
from trajectories import Batch


class GraphedUpdates:
    """Updates on sampled batches, with one graph for each kind of update.

    Rows are drawn before a graph is launched, as the number of rows in the buffer changes.

    Args:
        update: (batch, with_actor) -> None. Launches an update, see `Graph`.
        device: The GPU.
    """

    def __init__(self, update: Callable[[Batch, bool], None], device: torch.device) -> None:
        self._update = update
        self._graphs: dict[bool, Graph] = {}
        self._rows = torch.empty(0, dtype=torch.int64, device=device)
        self._sampler: Sampler | None = None
        self._storage: Hashable = None

    def __call__(self, sampler: Sampler, with_actor: bool) -> None:
        """Sample a batch and update on it."""
        place = sampler.storage(), sampler.batch_size
        if self._storage != place:
            # another buffer, or its arrays have grown and moved
            self.clear()
            self._storage = place
            self._rows = self._rows.new_empty(sampler.batch_size)
        self._sampler = sampler
        sampler.draw(self._rows)
        if with_actor not in self._graphs:
            self._graphs[with_actor] = Graph(lambda: self._launch(with_actor), "training")
        self._graphs[with_actor]()

    def clear(self) -> None:
        """Forget what was recorded, as numbers or tensors that updates use are replaced."""
        for graph in self._graphs.values():
            graph.forget()

    def _launch(self, with_actor: bool) -> None:
        assert self._sampler is not None
        self._update(self._sampler.gather(self._rows), with_actor)
