"""How closely the environments follow recordings of the old engine, as a Markdown table.

    python scripts/env_parity_table.py --golden DIR

DIR holds one recording `<task>.npz` per task (tests/golden/envs has 40 steps of each; the form is
described in envs/parity.py). Differences are the largest over a recording's seeds, absolute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import envs
from envs.parity import Differences, episodes, load_arrays, open_loop, single_steps
from envs.tasks import TASKS, Task
from utils import UserError

STEPS = (1, 10, 40, 200)


def scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def pair(observation: float, reward: float) -> str:
    return f"{scientific(observation)}, {scientific(reward)}"


def at_step(differences: Sequence[Differences], step: int) -> str:
    """Observation and reward at one step; a dash where the recordings are shorter."""
    if any(len(d.reward) < step for d in differences):
        return "-"
    observation = max(d.observation[step - 1] for d in differences)
    return pair(observation, max(d.reward[step - 1] for d in differences))


def row(task: Task, path: Path) -> str:
    """One line of the table."""
    env = envs.make(task)
    recorded = list(episodes(load_arrays(path)))
    single = [single_steps(env, episode) for episode in recorded]
    loops = [open_loop(env, episode) for episode in recorded]
    worst = pair(*(np.max([getattr(d, k) for d in single]) for k in ("observation", "reward")))
    wrong_dones = sum(int(d.done.sum()) for d in single)
    cells = [task.name, worst, str(wrong_dones), *(at_step(loops, step) for step in STEPS)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", type=Path, required=True, help="folder of recordings")
    golden = parser.parse_args().golden
    found = [task for task in TASKS.values() if (golden / f"{task.name}.npz").exists()]
    if not found:
        raise UserError(f"--golden {golden}: no recording <task>.npz of any task is there")
    first, *later = (f"step {step}" for step in STEPS)
    header = ["task", "any single step", "wrong dones", f"open loop, {first}", *later]
    print(f"| {' | '.join(header)} |")
    print("|" + "---|" * len(header))
    for task in found:
        print(row(task, golden / f"{task.name}.npz"), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
