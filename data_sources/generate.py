"""Make a dataset locally, by the recipe that the published one was made by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np

from d4rl_envs.antmaze import AntMazeEnv
from d4rl_envs.registration import make
from data_sources.behaviour_policy import AntPolicy, HandPolicy
from data_sources.blocks import Block, write_dataset
from data_sources.episodes import Actor, AntWalker, HandActor, RandomActor, episode_rows
from data_sources.maze_recipe import planner_rows
from data_sources.sac_recipe import MAX_TRAINING_STEPS, is_replay, sac_attributes, sac_rows, trained
from offline_data.split import GYM_FAMILIES
from tasks import Task
from utils import UserError


def recipe(task: Task) -> str | None:
    """How the task's dataset can be made here; None where it cannot."""
    if task.family == "maze2d":
        return "planner"
    if task.name.endswith("-random-v2"):
        return "random"
    if task.family in GYM_FAMILIES:
        return "sac"
    if task.family == "antmaze" or task.name.endswith("-expert-v1"):
        return "policy"
    return None


def why_not(task: Task) -> str:
    """What a dataset without a recipe is made of."""
    if task.name.endswith("-human-v1"):
        return "it holds human demonstrations"
    return "it holds a policy cloned from human demonstrations, and these"


def default_steps(task: Task) -> int:
    """Rows of the published dataset, before splitting loses some."""
    return math.ceil(task.published_steps / 100_000) * 100_000


def generate(
    task: Task,
    path: Path,
    *,
    steps: int | None,
    seed: int,
    policy: Path | None = None,
    max_training_steps: int = MAX_TRAINING_STEPS,
) -> None:
    """Write `path` with `steps` rows (by default as many as published), determined by `seed`.

    Args:
        policy: The behaviour policy's file, for recipes that need one.
        max_training_steps: After how many steps a recipe that trains an agent gives up.

    Raises:
        UserError: the task has no recipe, its policy is missing or unfit, or training fails.
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
    if name == "sac":
        training = trained(task, path.parent, seed, max_training_steps)
        steps = training.steps if is_replay(task) else steps
        attributes |= sac_attributes(task, training)
        rows = sac_rows(task, training, steps, seed)
    else:
        rows = _rows(task, steps, seed, policy)
    write_dataset(path, rows, steps, attributes)


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
