"""Updates and acting as CUDA graphs: equal to those without.

On the CPU the same code runs twice, without graphs.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench_rollout import EndlessEnvs
from build_networks import make_actor
from evaluation import RolloutSettings, exploring_action, mean_action, rollout
from fast_gpu.acting import Graphs
from fast_gpu.graph import WARM_UP, Graph
from gpu_check.agent import EAGER, SMALL, Agent
from gpu_check.part import Part
from gpu_check.resume import difference
from gpu_check.runs import QUICK, RUNS, trains_as_graphs
from tasks import get_task

UPDATES = 12
STEPS, ENVS, CONTEXT = 40, 3, 5
# largest difference of an action: padding changes the order of sums
ACTION_TOLERANCE = 1e-3
# largest relative difference of a tensor of the training state
UPDATE_TOLERANCE = 1e-5


def states_differ(device: torch.device, flags: str) -> dict[str, Any]:
    """Check that a trainer has the same state after the same updates, with dropout and noise."""
    states = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*without CUDA graphs")
        for more in ("", EAGER):
            agent = Agent(device, f"{SMALL} {flags} {more}")
            torch.manual_seed(1)
            agent.update(UPDATES)
            states.append(agent.trainer.state_dict())
    distance, where = difference(*states)
    if not distance < UPDATE_TOLERANCE:
        raise RuntimeError(f"{where} differs by {distance:.2g}")
    return {"distance": distance}


def actions_differ(device: torch.device, flags: str, explore: bool) -> dict[str, float]:
    """Check that a policy acts in the same way, twice in a row."""
    agent = Agent(device, f"{SMALL} {flags}")
    task = replace(get_task("hopper-medium-v2"), horizon=STEPS)
    actor = make_actor(agent.settings, task).to(device).eval()
    choose = partial(exploring_action, noise=agent.trainer.noise, std=0.1)
    moments = np.zeros(task.obs_dim), np.ones(task.obs_dim)
    found = []
    graphs: Graphs | None
    for graphs in (None, {}):
        settings = RolloutSettings(task, CONTEXT, *moments, cuda_graphs=graphs)
        torch.manual_seed(2)
        for _ in range(2):
            envs = EndlessEnvs(task, range(ENVS))
            episodes = rollout(actor, envs, settings, 3600.0, choose if explore else mean_action)
        found.append(np.stack([e.trajectory.actions for e in episodes]))
    distance = float(np.abs(found[0] - found[1]).max())
    if not distance < ACTION_TOLERANCE:
        raise RuntimeError(f"actions differ by {distance:.2g}")
    return {"distance": distance}


def not_capturable(device: torch.device) -> dict[str, Any]:
    """Check that a function that cannot be captured runs, with a warning and the same draws."""
    found = []
    for graphed in (False, True):
        torch.manual_seed(3)
        draws = torch.zeros((), dtype=torch.float64, device=device)

        def draw(draws: Tensor = draws) -> None:
            draws.add_(torch.rand(5, device=device).sum())
            draws.item()

        call = Graph(draw, "a test") if graphed else draw
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(WARM_UP + 3):
                call()
        found.append(draws.item())
    if found[0] != found[1] or not caught:
        raise RuntimeError(f"draws sum to {found}, {len(caught)} warnings")
    return {"warning": str(caught[0].message)}


def check(part: Part) -> None:
    chosen = QUICK if part.quick else [name for name in RUNS if trains_as_graphs(name)]
    for name in chosen:
        if trains_as_graphs(name):
            part.item(f"updates, {name}", states_differ, part.device, RUNS[name])
    for name in ("TD3+ODT", "ODT", "TD3+ODT, K = 1", "TD3+ODT, bf16", "IQL, MLP"):
        flags = RUNS[name]
        part.item(f"acting, {name}", actions_differ, part.device, flags, False)
    part.item("acting, exploring", actions_differ, part.device, RUNS["TD3+ODT"], True)
    if part.on_gpu:
        part.item("what cannot be captured", not_capturable, part.device)
