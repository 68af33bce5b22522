"""Gymnasium ids of all tasks, and a task's bare environment."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from d4rl_envs.tasks import TASKS, D4RLTask

if TYPE_CHECKING:
    from d4rl_envs.base import MujocoEnv

_logger = logging.getLogger(__name__)

# strings, because these modules load MuJoCo
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
    if task.family == "maze2d":
        return {"layout": task.layout, "dense": task.dense}
    if task.family == "antmaze":
        return {"layout": task.layout, "fixed_goal": task.name.endswith("-v0")}
    return {}


def register_all() -> None:
    """Register all tasks, so that `gymnasium.make("hopper-medium-v2")` works.

    Ids that another package has registered keep its environments; a warning lists them.
    """
    foreign = []
    for task in TASKS.values():
        spec = gymnasium.registry.get(task.name)
        if spec is None:
            gymnasium.register(
                task.name,
                entry_point=ENTRY_POINTS[task.family],
                max_episode_steps=task.horizon,
                kwargs=_kwargs(task),
            )
        elif spec.entry_point != ENTRY_POINTS[task.family]:
            foreign.append(task.name)
    if foreign:
        _logger.warning(
            "%s: registered by another package, so gymnasium.make returns its environment; "
            "import d4rl_envs first, or use d4rl_envs.make(d4rl_envs.get_task(ID))",
            ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if foreign[3:] else ""),
        )


def make(task: D4RLTask, render_mode: str | None = None) -> MujocoEnv:
    """A bare environment, without the time limit and the wrappers of `gymnasium.make`."""
    creator: Any = load_env_creator(ENTRY_POINTS[task.family])
    return creator(**_kwargs(task), render_mode=render_mode)
