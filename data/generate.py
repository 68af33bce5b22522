"""Make a dataset locally, by the recipe that the published one was made by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np

from behaviour_policy import AntPolicy, HandPolicy
from blocks import Block, write_dataset
from envs.antmaze import AntMazeEnv
from envs.registration import make
from envs.tasks import Task
from episodes import Actor, AntWalker, HandActor, RandomActor, episode_rows
from maze_recipe import planner_rows
from utils import UserError


def recipe(task: Task) -> str | None:
    """How the task's dataset can be made here; None where it cannot."""
    if task.family == "maze2d":
        return "planner"
    if task.name.endswith("-random-v2"):
        return "random"
    if task.family == "antmaze" or task.name.endswith("-expert-v1"):
        return "policy"
    return None


def why_not(task: Task) -> str:
    """What a dataset without a recipe is made of."""
    if task.name.endswith("-human-v1"):
        return "it holds human demonstrations"
    if task.name.endswith("-cloned-v1"):
        return "it holds a policy cloned from human demonstrations, and these"
    return "it takes the SAC agent that was trained for it"


def default_steps(task: Task) -> int:
    """Rows of the published dataset, before splitting loses some."""
    return math.ceil(task.published_steps / 100_000) * 100_000


def generate(
    task: Task, path: Path, *, steps: int | None, seed: int, policy: Path | None = None
) -> None:
    """Write `path` with `steps` rows (by default as many as published), determined by `seed`.

    Args:
        policy: The behaviour policy's file, for recipes that need one.

    Raises:
        UserError: the task has no recipe, or its policy is missing or unfit.
    """
    name = recipe(task)
    if name is None:
        raise UserError(f"{task.name}: cannot be generated, {why_not(task)}; use --source d4rl")
    if name == "policy" and policy is None:
        raise UserError(f"{task.name}: --source generate needs its behaviour policy, --policy FILE")
    if name != "policy" and policy is not None:
        raise UserError(f"{task.name}: its recipe uses no policy; leave out --policy")
    steps = steps or default_steps(task)
    attributes = {
        "task": task.name,
        "recipe": name,
        "seed": seed,
        "mujoco_version": mujoco.__version__,
        "numpy_version": np.__version__,
    }
    if policy is not None:
        attributes["policy"] = policy.name
    write_dataset(path, _rows(task, steps, seed, policy), steps, attributes)


def _rows(task: Task, steps: int, seed: int, policy: Path | None) -> Iterator[Block]:
    if task.family == "maze2d":
        return planner_rows(task, steps, seed)
    env = make(task)
    rng = np.random.default_rng([seed, 1])  # not the stream of the environment's own generator
    actor: Actor = RandomActor(task, rng)
    if policy is not None and isinstance(env, AntMazeEnv):
        actor = AntWalker(task, env, AntPolicy(policy, task), rng)
    elif policy is not None:
        actor = HandActor(HandPolicy(policy, task), rng)
    return episode_rows(task, env, actor, steps, seed)
