"""Choosing a GPU, on machines that are only pretended."""

import os
import subprocess
import types
import warnings

import pytest
import torch

from utils import UserError, select_device

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). "
    "Please update your GPU driver. (Triggered internally at CUDAFunctions.cpp:119.)"
)


@pytest.fixture
def gpus(monkeypatch):
    """Pretend GPUs with the given free MiB; returns the devices that were used."""
    used: list[torch.device] = []

    def pretend(*free: int, broken: str = "", without_smi: bool = False) -> list[torch.device]:
        def use(*_, device):
            if broken:
                raise RuntimeError(f"{broken}\nlong explanation")
            used.append(device)

        def smi(*_, **__):
            if without_smi:
                raise FileNotFoundError("nvidia-smi")
            # not in PyTorch's order
            lines = [f"GPU-{i}, {mib}" for i, mib in enumerate(free)][::-1]
            return types.SimpleNamespace(stdout="\n".join(lines))

        properties = lambda i: types.SimpleNamespace(uuid=i)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.cuda, "set_device", used.append)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: pytest.fail("makes a context"))
        monkeypatch.setattr(torch, "empty", use)
        monkeypatch.setattr(subprocess, "run", smi)
        return used

    return pretend


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_gpu_with_the_most_free_memory_is_made_current(gpus, device):
    used = gpus(2_000, 70_000, 50_000)
    assert select_device(device) == torch.device("cuda:1")
    assert used == [torch.device("cuda:1")] * 2


def test_runs_started_together_spread_over_equal_gpus(gpus, monkeypatch):
    gpus(70_000, 2_000, 70_500)
    chosen = []
    for process in (10, 11):
        monkeypatch.setattr(os, "getpid", lambda number=process: number)
        chosen.append(str(select_device("auto")))
    assert chosen == ["cuda:0", "cuda:2"]


def test_without_nvidia_smi_the_first_gpu_is_used(gpus):
    gpus(2_000, 70_000, without_smi=True)
    assert select_device("auto") == torch.device("cuda:0")


def test_a_given_gpu_is_used_or_missing(gpus):
    used = gpus(1, 1)
    assert select_device("cuda:1") == select_device("auto", 1) == torch.device("cuda:1")
    assert set(used) == {torch.device("cuda:1")}
    with pytest.raises(UserError, match="--force_device 2: CUDA devices here are 0 to 1"):
        select_device("auto", 2)


def test_a_full_or_broken_gpu_is_one_line(gpus):
    gpus(1, broken="CUDA error: out of memory")
    with pytest.raises(UserError, match=r"cuda:0 is not usable .CUDA error: out of memory.; ") as e:
        select_device("cuda:0")
    assert "\n" not in str(e.value)


def test_an_old_driver_is_the_reason_for_no_gpu(gpus, monkeypatch, caplog):
    gpus()

    def warn() -> bool:
        warnings.warn(TOO_OLD, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    reason = r"no CUDA device \(CUDA init.* is too old \(found version 11040\)\); use --device cpu$"
    with pytest.raises(UserError, match=reason):
        select_device("cuda")
    assert select_device("auto") == torch.device("cpu")
    assert "too old (found version 11040)); using the CPU" in caplog.text


def test_the_cpu_does_not_touch_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("touches CUDA"))
    assert select_device("cpu") == torch.device("cpu")
