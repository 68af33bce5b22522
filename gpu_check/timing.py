"""Time and peak memory of an update, without compilation."""

from __future__ import annotations

import torch

from gpu_check.agent import MAIN, Agent, td3_odt
from gpu_check.part import Part


def update(device: torch.device, steps: int, precision: str) -> dict[str, float]:
    agent = Agent(device, td3_odt(steps, precision))
    agent.update(3)
    return agent.measure()


def check(part: Part) -> None:
    precisions = ("bf16", "fp32", "tf32") if part.on_gpu else ("bf16", "fp32")
    every = [(steps, precision) for steps in (20, 5, 1) for precision in precisions]
    for steps, precision in MAIN if part.quick else every:
        part.item(f"K {steps}, {precision}", update, part.device, steps, precision)
