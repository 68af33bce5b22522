"""Time and peak memory of an update, and the time of a step of acting."""

from __future__ import annotations

import argparse

import torch

from benchmarks import bench_rollout
from gpu_check.agent import EAGER, MAIN, SMALL, WARM, Agent, td3_odt
from gpu_check.part import Part

# environments and context length
ACTING = ((1, 5), (10, 5), (1, 1), (10, 1))


def update(device: torch.device, steps: int, precision: str, more: str = "") -> dict[str, float]:
    """Figures of `Agent.measure`."""
    agent = Agent(device, td3_odt(steps, precision, more))
    agent.update(WARM)
    return agent.measure()


def act(device: torch.device, envs: int, context: int, precision: str) -> dict[str, float]:
    """A step of acting, without and with CUDA graphs, apart from the environments' own."""
    small = device.type != "cuda"
    flags = argparse.Namespace(
        device=device, precision=precision, threads=0, envs=envs, context=context, K=20,
        steps=5 if small else 200, repeats=1 if small else 3,
        embed_dim=32 if small else 512, n_layer=4, n_head=4,
    )  # fmt: skip
    figures = {}
    for name, graphs in (("eager", 0), ("graph", 1)):
        found = bench_rollout.measure(argparse.Namespace(**vars(flags), cuda_graphs=graphs))
        figures[f"{name}_ms"] = found["act_ms"]
    return figures


def check(part: Part) -> None:
    precisions = ("bf16", "fp32", "tf32") if part.on_gpu else ("bf16", "fp32")
    every = [(steps, precision) for steps in (20, 5, 1) for precision in precisions]
    for steps, precision in MAIN if part.quick else every:
        part.item(f"K {steps}, {precision}", update, part.device, steps, precision)
    if part.on_gpu:
        for steps, precision in MAIN if part.quick else every:
            name = f"K {steps}, {precision}, without graphs"
            part.item(name, update, part.device, steps, precision, EAGER)
    small = "--embed_dim 128 --n_layer 2 --n_head 2" if part.on_gpu else SMALL
    part.item("K 1, fp32, width 128, 2 layers", update, part.device, 1, "fp32", small)
    for envs, context in ACTING[: 1 if part.quick else None]:
        name = f"acting in {envs}, context {context}, fp32"
        part.item(name, act, part.device, envs, context, "fp32")
