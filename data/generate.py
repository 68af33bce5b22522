"""Make a dataset locally, by the recipe that the published one was made by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np

from blocks import Block, block_sizes, empty_block, write_dataset
from envs.registration import make
from envs.tasks import Task
from maze_recipe import planner_rows
from utils import UserError


def recipe(task: Task) -> str | None:
    """How the task's dataset can be made here; None where it cannot."""
    if task.family == "maze2d":
        return "planner"
    return "random" if task.name.endswith("-random-v2") else None


def why_not(task: Task) -> str:
    """What making the dataset of a task without a recipe would take."""
    if "human" in task.name or "cloned" in task.name:
        return "it holds human demonstrations or a policy cloned from them"
    return "it takes the agent that was trained for it"


def default_steps(task: Task) -> int:
    """Rows of the published dataset, before splitting loses some."""
    return math.ceil(task.published_steps / 100_000) * 100_000


def generate(task: Task, path: Path, *, steps: int | None, seed: int) -> None:
    """Write `path` with `steps` rows (by default as many as published), determined by `seed`.

    Raises:
        UserError: the task has no recipe.
    """
    name = recipe(task)
    if name is None:
        raise UserError(f"{task.name}: cannot be generated, {why_not(task)}; use --source d4rl")
    steps = steps or default_steps(task)
    blocks = (
        planner_rows(task, steps, seed) if name == "planner" else random_rows(task, steps, seed)
    )
    attributes = {
        "task": task.name,
        "recipe": name,
        "seed": seed,
        "mujoco_version": mujoco.__version__,
        "numpy_version": np.__version__,
    }
    write_dataset(path, blocks, steps, attributes)


def random_rows(task: Task, steps: int, seed: int) -> Iterator[Block]:
    """Episodes of uniformly random actions."""
    rng = np.random.default_rng([seed, 1])  # not the stream of the environment's own generator
    env = make(task)
    obs, _ = env.reset(seed=seed)
    elapsed = 0
    for size in block_sizes(steps):
        block = empty_block(task, size)
        block["actions"][:] = rng.uniform(-1.0, 1.0, block["actions"].shape)
        actions = block["actions"].astype(np.float64)  # as stored
        for row in range(size):
            block["observations"][row] = obs
            obs, block["rewards"][row], terminated = env.advance(actions[row])
            block["next_observations"][row] = obs
            elapsed += 1
            block["terminals"][row] = terminated
            block["timeouts"][row] = elapsed == task.horizon and not terminated
            if terminated or elapsed == task.horizon:
                obs, _ = env.reset()
                elapsed = 0
        yield block
