"""Capturing a function as a CUDA graph, on a stand-in for `torch.cuda` that logs what is called."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from fast_gpu.graph import WARM_UP, Graph


class Stream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def cuda(monkeypatch):
    """The stand-in: `log`, the `current` stream, and whether captures `fail`."""
    log: list[str] = []
    state = SimpleNamespace(log=log, current=Stream(log, "default"), fail=False, states=[])
    generator = SimpleNamespace(clone_state=object, graphsafe_set_state=state.states.append)

    @contextmanager
    def capture(graph, stream, capture_error_mode):
        state.current = stream
        log.append("capture")
        yield
        if state.fail:
            # as PyTorch: without restoring the current stream
            raise RuntimeError("operation not permitted when stream is capturing")
        state.current = default

    default = state.current
    replay = SimpleNamespace(replay=lambda: log.append("replay"))
    for name, value in {
        "Stream": lambda: Stream(log, "own"),
        "CUDAGraph": lambda: replay,
        "graph": capture,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda: state.current,
        "set_stream": lambda stream: setattr(state, "current", stream),
        "current_device": lambda: 0,
        "default_generators": [generator],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return state


def test_the_first_replay_waits_for_the_capture(cuda):
    """The capture also launches kernels on its stream that set the random offset."""
    graph = Graph(lambda: None, "a test")
    for _ in range(WARM_UP):
        graph()
    cuda.log.clear()
    graph()
    graph()
    assert cuda.log == ["capture", "default waits for own", "replay", "replay"]


def test_a_failed_capture_restores_the_stream_and_captures_the_other_graphs_again(cuda):
    calls = []
    graph, other = Graph(lambda: calls.append("it"), "a test"), Graph(lambda: None, "another")
    for _ in range(WARM_UP + 1):
        other()
    assert cuda.log[-1] == "replay"
    default, cuda.fail = cuda.current, True
    with pytest.warns(UserWarning, match="^a test without CUDA graphs, slower: operation not"):
        for _ in range(WARM_UP + 1):
            graph()
    assert cuda.current is default
    assert len(cuda.states) == 1
    assert len(calls) == WARM_UP + 2  # once while it was captured
    # later calls run the function; `forget` does not try again
    graph.forget()
    for _ in range(WARM_UP + 1):
        graph()
    assert cuda.log.count("capture") == 2
    cuda.fail = False
    cuda.log.clear()
    for _ in range(WARM_UP + 1):
        other()
    assert cuda.log.count("capture") == 1
    assert cuda.log[-1] == "replay"
