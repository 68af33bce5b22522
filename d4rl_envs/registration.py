"""Gymnasium ids of all tasks, and how an environment is made from a task."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from d4rl_envs.base import MujocoEnv
from d4rl_envs.tasks import TASKS, D4RLTask

# loaded only when an environment is made
ENTRY_POINTS = {
    "hopper": "d4rl_envs.locomotion:HopperEnv",
    "halfcheetah": "d4rl_envs.locomotion:HalfCheetahEnv",
    "walker2d": "d4rl_envs.locomotion:Walker2dEnv",
    "ant": "d4rl_envs.locomotion:AntEnv",
    "maze2d": "d4rl_envs.maze2d:Maze2dEnv",
    "antmaze": "d4rl_envs.antmaze:AntMazeEnv",
    "pen": "d4rl_envs.adroit:PenEnv",
    "hammer": "d4rl_envs.adroit:HammerEnv",
    "door": "d4rl_envs.adroit:DoorEnv",
    "relocate": "d4rl_envs.adroit:RelocateEnv",
}


def _kwargs(task: D4RLTask) -> dict[str, Any]:
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


def make(task: D4RLTask, render_mode: str | None = None) -> MujocoEnv:
    """The bare environment of a task: no horizon, no wrappers (`gymnasium.make` has both)."""
    creator: Any = load_env_creator(ENTRY_POINTS[task.family])
    return creator(**_kwargs(task), render_mode=render_mode)
