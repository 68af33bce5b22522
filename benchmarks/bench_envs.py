"""Measure environment steps per second of CPU time, per family and on one core.

    python benchmarks/bench_envs.py [--tasks hopper-medium-v2 ...] [--num_envs 10] [--json]

Prints a Markdown table. Environments of an `EnvVector` take uniform random actions; the time
includes resets. The fastest of `--repeats` measurements counts. CPU time equals wall time on an
idle core and excludes what other programs use. With --json, the last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from d4rl_envs import UserError, get_task, make_vector
from d4rl_envs.engine import mujoco
from utils import run_command

TASKS = [
    "hopper-medium-v2",
    "halfcheetah-medium-v2",
    "walker2d-medium-v2",
    "ant-medium-v2",
    "maze2d-umaze-v1",
    "antmaze-umaze-v2",
    "pen-human-v1",
    "hammer-human-v1",
    "door-human-v1",
    "relocate-human-v1",
]


def steps_per_second(name: str, num_envs: int, seconds: float, repeats: int) -> float:
    """Environment steps per second of `num_envs` environments of one task."""
    task = get_task(name)
    vector = make_vector(task, range(num_envs))
    vector.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (64, num_envs, task.act_dim))
    best = 0.0
    for _ in range(repeats):
        steps, start = 0, time.process_time()
        while (elapsed := time.process_time() - start) < seconds:
            for action in actions:
                _, _, terminated, truncated = vector.step(action)
                ended = np.flatnonzero(terminated | truncated)
                if len(ended):
                    vector.reset(ended)
            steps += len(actions) * num_envs
        best = max(best, steps / elapsed)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="task ids "
                        "(default: one of each family)")  # fmt: skip
    parser.add_argument("--num_envs", type=int, default=10, help="environments, stepped one after "
                        "another (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds per measurement "
                        "(default: %(default)s)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="measurements per task; the fastest "
                        "counts (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object as the last line")
    args = parser.parse_args()
    if args.num_envs < 1 or args.repeats < 1 or args.seconds <= 0:
        raise UserError("--num_envs, --repeats and --seconds must be positive")
    results = {}
    print("| task | environment steps/s |\n|---|---|")
    for name in args.tasks:
        results[name] = steps_per_second(name, args.num_envs, args.seconds, args.repeats)
        print(f"| {name} | {results[name]:,.0f} |", flush=True)
    if args.json:
        setting = {"mujoco": mujoco.__version__, "num_envs": args.num_envs}
        print(json.dumps({**setting, "steps_per_second": results}))


if __name__ == "__main__":
    run_command(main)
