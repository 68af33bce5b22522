"""Updates with `--compile 1`: equal to those without, and their times."""

from __future__ import annotations

import time
from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch import Tensor

import trainer
from decision_transformer import Actor
from fast_cpu.device_tuning import check_device
from fast_cpu.dropout import Dropout
from gpu_check.agent import MAIN, SMALL, WARM, Agent, td3_odt
from gpu_check.part import Part

UPDATES = 8
# distance between two results as a share of their distance from the start
TOLERANCE = 1e-3


def trace_only(*actors: Actor) -> None:
    """Trace the same graphs, but run them as they are: compiling for a CPU takes minutes."""
    for actor in actors:
        actor.compile(backend="aot_eager", fullgraph=True)


def trained(device: torch.device, compiled: int) -> tuple[Tensor, Tensor]:
    """The actor's weights before and after updates with the same noise, without dropout."""
    more = f"{SMALL} --dropout 0 --warmup_steps {UPDATES} --compile {compiled}"
    agent = Agent(device, td3_odt(5, "fp32", more))
    nets = agent.trainer.nets
    for module in [*nets.actor.modules(), *nets.actor_target.modules()]:
        if isinstance(module, Dropout):  # no setting for the embeddings' dropout
            module.p = 0.0

    def weights() -> Tensor:
        return torch.cat([p.detach().flatten() for p in nets.actor.parameters()])

    before = weights()
    torch.manual_seed(1)
    agent.update(UPDATES)
    return before, weights()


def equal(device: torch.device) -> dict[str, float]:
    """Check that compiling changes nothing beyond rounding."""
    before, plain = trained(device, 0)
    _, compiled = trained(device, 1)
    distance = ((compiled - plain).norm() / (plain - before).norm()).item()
    if not distance < TOLERANCE:
        raise RuntimeError(f"weights differ by {distance:.2g} of their change")
    return {"distance": distance}


def timed(device: torch.device, steps: int, precision: str) -> dict[str, float]:
    """Figures of `Agent.measure`, and seconds to compile and to start another phase."""
    torch.compiler.reset()  # the number of variants per process is limited
    start = time.perf_counter()
    agent = Agent(device, td3_odt(steps, precision, "--compile 1"))
    agent.update(WARM)
    agent.wait()
    ready = time.perf_counter()
    # the new target network uses what was compiled for the old one
    agent.start_phase()
    agent.update(WARM)
    agent.wait()
    times = {"compile_s": ready - start, "new_phase_s": time.perf_counter() - ready}
    return agent.measure() | times


def check(part: Part) -> None:
    if part.on_gpu:
        check_device(part.device, "fp32", compiled=True)
    with nullcontext() if part.on_gpu else patch.object(trainer, "compile_policies", trace_only):
        part.item("same weights", equal, part.device)
        for steps, precision in MAIN[: 1 if part.quick else None]:
            part.item(f"K {steps}, {precision}", timed, part.device, steps, precision)
