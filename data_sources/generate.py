"""Generate a dataset with the recipe of the published one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d4rl_envs.antmaze import AntMazeEnv
from d4rl_envs.engine import mujoco
from d4rl_envs.registration import make
from data_sources.behaviour_policy import AntPolicy, HandPolicy
from data_sources.blocks import Block, write_dataset
from data_sources.episodes import AntBehaviour, episode_rows
from data_sources.maze_recipe import planner_rows
from data_sources.sac_recipe import MAX_TRAINING_STEPS, is_replay, sac_attributes, sac_rows, trained
from offline_data.split import GYM_FAMILIES
from tasks import Task
from utils import UserError


def recipe(task: Task) -> str | None:
    """Name of the recipe for the task's dataset; None if there is none."""
    if not task.published:
        return None
    if task.family == "maze2d":
        return "planner"
    if task.name.endswith("-random-v2"):
        return "random"
    if task.family in GYM_FAMILIES:
        return "sac"
    if task.family == "antmaze" or task.name.endswith("-expert-v1"):
        return "policy"
    return None


def default_steps(task: Task) -> int:
    """Rows of the published file, of which splitting drops some."""
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
    """Write a dataset of `steps` rows (default: as published) to `path`.

    Args:
        policy: File of the behaviour policy, for recipes that need one.
        max_training_steps: Training steps after which a recipe that trains an agent gives up.

    Raises:
        UserError: the task has no recipe, its policy is missing or invalid, training fails, or the
            file cannot be written.
    """
    name = recipe(task)
    if name is None:
        reason = "it needs human demonstrations" if task.published else "there is no recipe for it"
        raise UserError(f"{task.name}: cannot be generated, {reason}; use --source d4rl")
    if name == "policy" and policy is None:
        raise UserError(
            f"{task.name}: --source generate needs a behaviour policy; add --policy FILE"
        )
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
    rng = np.random.default_rng([seed, 1])  # independent of the environment's own generator
    if policy is None:
        return episode_rows(task, env, lambda _: rng.uniform(-1, 1, task.act_dim), steps, seed)
    if isinstance(env, AntMazeEnv):
        ant = AntBehaviour(task, env, AntPolicy(policy, task), rng)
        return episode_rows(task, env, ant.act, steps, seed, ant.begin, ant.done)
    hand = HandPolicy(policy, task)
    return episode_rows(task, env, lambda obs: hand.sample(obs, rng), steps, seed)
