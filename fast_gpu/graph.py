"""What a function launches on a GPU, replayed as one CUDA graph.

An update of a small network launches hundreds of kernels of a few microseconds each, so the GPU
waits for the host. A graph launches them all with one call.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable

import torch

# calls of the function itself before it is captured: they initialise libraries, optimiser states
# and compiled code, none of which can be captured
WARM_UP = 3

_graphs: weakref.WeakSet[Graph] = weakref.WeakSet()


class Graph:
    """Calls a function, and after a few calls replays what it launched.

    Random draws are new at each call, and the same as without a graph. If the function cannot be
    captured, it is called each time, with a warning.

    Args:
        function: Reads and writes tensors that stay where they are, on the current GPU. What it
            does on the host is not repeated.
        name: What it does, for the warning.
    """

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self._function, self._name = function, name
        # calls left until the capture; None after a failed one
        self._warm_up: int | None = WARM_UP
        self._graph: torch.cuda.CUDAGraph | None = None
        # no other graph's: PyTorch keeps cuBLAS workspaces by stream, and destroying one graph
        # frees those of its stream (pytorch/pytorch issue 193402)
        self._stream = torch.cuda.Stream()
        _graphs.add(self)

    def __call__(self) -> None:
        """Do what the function does."""
        if self._warm_up == 0 and self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return
        # PyTorch requires the calls before a capture to run on a stream of their own
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._function()
        torch.cuda.current_stream().wait_stream(self._stream)
        if self._warm_up:
            self._warm_up -= 1

    def forget(self) -> None:
        """Call the function again, and record it anew after a few calls if it can be captured."""
        if self._warm_up is not None:
            self._graph, self._warm_up = None, WARM_UP

    def _capture(self) -> None:
        """Record the function's launches, without executing them."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # other threads may call CUDA meanwhile
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._function()
        except RuntimeError as problem:
            # a failed capture leaves its stream current
            torch.cuda.set_stream(current)
            # and the generator's state in the capture; other graphs draw from that state
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            for other in _graphs:
                other.forget()
            reason = str(problem).strip().partition("\n")[0]
            warnings.warn(f"{self._name} without CUDA graphs, slower: {reason}", stacklevel=3)
            self._warm_up = None
        else:
            # before PyTorch 2.13 a capture launches kernels too, which reset the random offset:
            # unordered with the replay, they could make it draw the numbers of offset 0
            current.wait_stream(self._stream)
            self._graph = graph
