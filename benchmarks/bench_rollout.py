"""Time a step of a rollout: the policy's part and that of the environments.

    python benchmarks/bench_rollout.py --envs 10 --steps 200 --K 20 --context 5 --json

An untrained policy of the published size acts in hopper. Environments whose episode ends begin
another one, so that all of them run to the end, as those of a trained policy do. `act_ms` is the
time of one step of all environments without the environments' own, which is `env_ms`.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import d4rl_envs
from benchmarks import measuring
from build_networks import make_actor
from evaluation import RolloutSettings, rollout
from fast_cpu.device_tuning import tune_device
from tasks import get_task
from utils import select_device


class TimedEnvs:
    """Environments that never end an episode, and how long they took, in seconds."""

    def __init__(self, vector: d4rl_envs.EnvVector) -> None:
        self.vector, self.num_envs, self.seconds = vector, vector.num_envs, 0.0
        self.faulted = np.zeros(vector.num_envs, bool)

    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        return self.vector.reset(indices)

    def step(
        self, actions: np.ndarray, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        start = time.perf_counter()
        obs, rewards, terminated, truncated = self.vector.step(actions, indices)
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            obs[ended] = self.vector.reset(ended if indices is None else indices[ended])
        self.seconds += time.perf_counter() - start
        never = np.zeros(len(rewards), bool)
        return obs, rewards, never, never

    def success(self) -> None:
        return None


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The best of `--repeats` rollouts after one that does not count."""
    device = select_device(args.device)
    tune_device(device, args.precision)
    torch.manual_seed(0)
    task = replace(get_task("hopper-medium-v2"), horizon=args.steps)
    actor = make_actor(measuring.td3_settings(args), task).to(device).eval()
    moments = np.zeros(task.obs_dim), np.ones(task.obs_dim)
    settings = RolloutSettings(task, args.context, *moments)
    best = {"act_ms": float("inf"), "env_ms": float("inf")}
    for i in range(args.repeats + 1):
        timed = TimedEnvs(d4rl_envs.make_vector(task, range(args.envs)))
        start = time.perf_counter()
        rollout(actor, timed, settings, 3600.0)
        total = time.perf_counter() - start
        if i:
            best["act_ms"] = min(best["act_ms"], 1000 * (total - timed.seconds) / args.steps)
            best["env_ms"] = min(best["env_ms"], 1000 * timed.seconds / args.steps)
    best["step_ms"] = sum(best.values())
    return best


def main() -> None:
    parser = measuring.parser(__doc__)
    measuring.add_sizes(parser)
    parser.add_argument("--envs", type=int, default=10, help="episodes at a time")
    parser.add_argument("--steps", type=int, default=200, help="steps of each")
    parser.add_argument("--context", type=int, default=5, help="steps that the policy sees")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many counts")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"{args.envs} environments, context {args.context}, {args.precision}")
    measuring.report(args, measure(args))


if __name__ == "__main__":
    main()
