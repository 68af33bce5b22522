"""The golden tests of the test suite, with every tensor on the device and without TF32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partialmethod
from typing import Any

import pytest
import torch

from fast_cpu.device_tuning import tune_device
from gpu_check.part import ROOT, Part
from replay_buffer import ReplayBuffer
from trainer import Trainer


class OnDevice:
    """A pytest plugin: what a test makes is on the device, and its outcome is recorded."""

    def __init__(self, part: Part) -> None:
        self._part = part

    @pytest.fixture(autouse=True)
    def tensors_on_the_device(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        device, make = self._part.device, Trainer.__init__
        from_numpy, to_numpy = torch.from_numpy, torch.Tensor.__array__
        tune_device(device, "fp32")
        monkeypatch.setattr(torch, "from_numpy", lambda array: from_numpy(array).to(device))
        # NumPy arrays are indexed by masks and compared with results
        monkeypatch.setattr(torch.Tensor, "__array__", lambda x, *_, **__: to_numpy(x.cpu()))

        def trainer(self: Trainer, settings: Any, task: Any, _: torch.device) -> None:
            make(self, settings, task, device)

        monkeypatch.setattr(Trainer, "__init__", trainer)
        buffer = partialmethod(ReplayBuffer.__init__, device=device)
        monkeypatch.setattr(ReplayBuffer, "__init__", buffer)
        with device:
            yield

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            error = report.longreprtext.strip().splitlines() if report.failed else []
            reasons = [line[1:].strip() for line in error if line.startswith("E")]
            name = report.nodeid.partition("::")[2]
            self._part.record(name, report.duration, {}, "; ".join(reasons[:6] or error[-1:]))


def check(part: Part) -> None:
    texts = {str(path): path.read_text() for path in sorted((ROOT / "tests").glob("test_*.py"))}
    # of tensors, not of environments
    compares = re.compile(r"^import torch$.*^def test_\w+_equals?_golden", re.M | re.S)
    files = [path for path, text in texts.items() if compares.search(text)]
    options = ["-q", "-k", "equal_golden or equals_golden", "-p", "no:cacheprovider", *files]
    code = pytest.main(options, plugins=[OnDevice(part)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code!r}")
