"""Environment steps per second of processor time of every family, on one core.

    python benchmarks/bench_envs.py [--tasks hopper-medium-v2 ...] [--num_envs 10] [--json]

A Markdown table. Uniform random actions in `d4rl_envs.EnvVector`; the time includes the resets
of episodes that ended. The best of `--repeats` stretches counts. Processor time is wall time on an idle core,
and does not count what other programs take. With --json the last line is one object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mujoco
import numpy as np

import d4rl_envs
from tasks import get_task
from utils import UserError

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
    vector = d4rl_envs.make_vector(task, range(num_envs))
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="task ids")
    parser.add_argument("--num_envs", type=int, default=10, help="environments stepped in turn")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a stretch")
    parser.add_argument("--repeats", type=int, default=3, help="stretches; the fastest counts")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
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
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
