"""What an update consists of on the GPU: kernels, launches, and how long it is busy."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from gpu_check.agent import MAIN, WARM, Agent, td3_odt
from gpu_check.part import Part

UPDATES = 5
SHOWN = 10


def profile(device: torch.device, steps: int, precision: str) -> dict[str, Any]:
    """Figures per actor update with its critic updates; on the CPU, of its operators."""
    on_gpu = device.type == "cuda"
    agent = Agent(device, td3_odt(steps, precision))
    agent.update(WARM)
    with profiler(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as recorded:
        agent.update(UPDATES)
        agent.wait()
    kind, time = (DeviceType.CUDA, "device") if on_gpu else (DeviceType.CPU, "cpu")
    rows = recorded.key_averages()
    # an optimiser's annotation spans kernels that have rows of their own
    kernels = [row for row in rows if row.device_type == kind and not row.is_user_annotation]
    ms = {row: getattr(row, f"self_{time}_time_total") / 1000 / UPDATES for row in kernels}
    top = sorted(kernels, key=ms.__getitem__, reverse=True)[:SHOWN]
    return {
        "busy_ms": sum(ms.values()),
        "kernels": sum(row.count for row in kernels) / UPDATES,
        "launches": sum(row.count for row in rows if "Launch" in row.key) / UPDATES,
        "top": [f"{ms[row]:.3f} ms {row.key[:100]}" for row in top],
    }


def check(part: Part) -> None:
    for steps, precision in MAIN:
        part.item(f"K {steps}, {precision}", profile, part.device, steps, precision)
