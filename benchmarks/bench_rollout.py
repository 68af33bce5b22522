"""Time a step of a rollout: the policy's part and that of the environments.

    python benchmarks/bench_rollout.py --envs 10 --steps 200 --K 20 --context 5 --json

An untrained policy of the published size acts in hopper. An environment whose episode ends starts
another one, so that all of them run to the end, like those of a trained policy. `env_ms` is the
time of one step of all environments, `act_ms` the remaining time of a step.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks import measuring
from build_networks import make_actor
from d4rl_envs.vector import EnvVector
from evaluation import RolloutSettings, rollout
from fast_gpu.acting import Graphs
from utils import run_command


class EndlessEnvs(EnvVector):
    """Environments that restart when an episode ends; `ms` is the time of their steps."""

    ms = 0.0

    def step(
        self, actions: np.ndarray, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        start = time.perf_counter()
        obs, rewards, terminated, truncated = super().step(actions, indices)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            obs[ended] = self.reset(ended if indices is None else indices[ended])
        self.ms += 1000 * (time.perf_counter() - start)
        never = np.zeros(len(rewards), bool)
        return obs, rewards, never, never


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The best of `--repeats` rollouts, after a warm-up."""
    device = measuring.prepare(args)
    task = replace(measuring.TASK, horizon=args.steps)
    actor = make_actor(measuring.td3_settings(args), task).to(device).eval()
    moments = np.zeros(task.obs_dim), np.ones(task.obs_dim)
    graphs: Graphs | None = {} if args.cuda_graphs else None
    settings = RolloutSettings(task, args.context, *moments, cuda_graphs=graphs)
    times = []
    for _ in range(args.repeats + 1):
        envs = EndlessEnvs(task, range(args.envs))
        _, total = measuring.timed(partial(rollout, actor, envs, settings, 3600.0), device)
        times.append(((total - envs.ms) / args.steps, envs.ms / args.steps))
    act_ms, env_ms = (min(column) for column in zip(*times[1:], strict=True))
    return {"act_ms": act_ms, "env_ms": env_ms, "step_ms": act_ms + env_ms}


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--envs", type=int, default=10, help="number of environments")
    parser.add_argument("--steps", type=int, default=200, help="steps of each")
    parser.add_argument("--context", type=int, default=5, help="steps of history for the policy")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions; the fastest counts")
    args = parser.parse_args()
    print(f"{args.envs} environments, context {args.context}, {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    run_command(main)
