"""Gymnasium ids of all tasks, and how an environment is made from a task."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from envs.base import MujocoEnv
from envs.tasks import TASKS, Task

# loaded only when an environment is made
ENTRY_POINTS = {
    "hopper": "envs.locomotion:HopperEnv",
    "halfcheetah": "envs.locomotion:HalfCheetahEnv",
    "walker2d": "envs.locomotion:Walker2dEnv",
    "ant": "envs.locomotion:AntEnv",
    "maze2d": "envs.maze2d:Maze2dEnv",
    "antmaze": "envs.antmaze:AntMazeEnv",
    "pen": "envs.adroit:PenEnv",
    "hammer": "envs.adroit:HammerEnv",
    "door": "envs.adroit:DoorEnv",
    "relocate": "envs.adroit:RelocateEnv",
}


def _kwargs(task: Task) -> dict[str, Any]:
    return {"layout": task.layout} if task.layout else {}


def register_all() -> None:
    """Make `gymnasium.make("hopper-medium-v2")` and the like work."""
    for task in TASKS.values():
        if task.family in ENTRY_POINTS and task.name not in gymnasium.registry:
            gymnasium.register(
                task.name,
                entry_point=ENTRY_POINTS[task.family],
                max_episode_steps=task.horizon,
                kwargs=_kwargs(task),
            )


def make(task: Task, render_mode: str | None = None) -> MujocoEnv:
    """The bare environment of a task: no horizon, no wrappers (`gymnasium.make` has both)."""
    creator: Any = load_env_creator(ENTRY_POINTS[task.family])
    return creator(**_kwargs(task), render_mode=render_mode)
