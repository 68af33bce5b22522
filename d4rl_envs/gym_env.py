"""The environments as D4RL gives them to programs that use the old package gym (0.22 to 0.26).

Importing this module registers every task with gym. `python -m d4rl_envs` lets programs that
import d4rl find it, see `clients/d4rl.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gym
import numpy as np
from gym.utils import seeding

from d4rl_envs import datasets
from d4rl_envs.errors import UserError
from d4rl_envs.maze2d import Maze2dEnv
from d4rl_envs.registration import make
from d4rl_envs.tasks import TASKS, get_task

# gym 0.26 expects five values from `step`, and an info from `reset`
FIVE_VALUES = tuple(map(int, gym.__version__.split(".")[:2])) >= (0, 26)
# names that NumPy has removed: gym 0.25 and 0.26 use the first one, old programs the others
_REMOVED = {
    "bool8": np.bool_, "bool": bool, "int": int, "float": float, "complex": complex,
    "object": object, "str": str, "float_": np.float64, "Inf": np.inf,
}  # fmt: skip


class OfflineEnv(gym.Env):
    """A task with D4RL's attributes and methods.

    Args:
        name: D4RL id.

    Attributes:
        env: The environment of this package.
        ref_min_score, ref_max_score, dataset_url: As in D4RL.
    """

    metadata: dict[str, Any] = {"render.modes": ["rgb_array"], "render_modes": ["rgb_array"]}  # noqa: RUF012 - gym's name

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        self.task = get_task(name)
        self.env: Any = make(self.task, render_mode)
        self.ref_min_score, self.ref_max_score = self.task.ref_min_score, self.task.ref_max_score
        self.dataset_url = self.task.url
        self.metadata = self.env.metadata | self.metadata
        spaces: list[Any] = [self.env.observation_space, self.env.action_space]
        self.observation_space, self.action_space = (
            gym.spaces.Box(space.low, space.high, dtype=space.dtype) for space in spaces
        )

    def __getattr__(self, name: str) -> Any:
        """Attributes of the environment ("get_target", "set_env_state", ...)."""
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def render_mode(self) -> str | None:
        return self.env.render_mode

    @render_mode.setter
    def render_mode(self, mode: str | None) -> None:
        self.env.render_mode = mode

    @property
    def wrapped_env(self) -> gym.Env:
        """In D4RL, the environment inside the wrapper that scales actions."""
        return self

    @property
    def _target(self) -> np.ndarray:
        """maze2d's goal."""
        if not isinstance(self.env, Maze2dEnv):
            raise AttributeError("_target")
        return self.env.get_target()

    def state_vector(self) -> np.ndarray:
        """All positions and velocities."""
        return np.concatenate((self.env.qpos, self.env.qvel))

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seed resets. Equal seeds give D4RL's episodes (with gym 0.22 or later)."""
        self.env.np_random, seed = seeding.np_random(seed)
        return [seed]

    def reset(
        self,
        *,
        seed: int | None = None,
        return_info: bool = False,
        options: dict[str, Any] | None = None,
    ) -> Any:
        """The first observation, with an info dictionary in gym 0.26 or if requested."""
        obs, info = self.env.reset(seed=seed, options=options)
        return (obs, info) if FIVE_VALUES or return_info else obs

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        """Observation, reward, done and info; in gym 0.26 terminated and truncated for done."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        info.pop("success", None)  # not in D4RL
        return (obs, reward, terminated, *([truncated] if FIVE_VALUES else []), info)

    def render(self, mode: str = "rgb_array", **_: Any) -> np.ndarray | None:
        if mode != "rgb_array":
            raise UserError(f"render mode {mode!r}: not available; use 'rgb_array'")
        self.env.render_mode = mode
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def get_normalized_score(self, score: float) -> float:
        """0 for a random policy's return, 1 for an expert's."""
        return self.task.normalized_score(score) / 100.0

    @property
    def dataset_filepath(self) -> str:
        return str(datasets.local_path(self.task))

    def get_dataset(self, h5path: str | Path | None = None) -> dict[str, np.ndarray]:
        """All arrays of the dataset, see `datasets.load`."""
        return datasets.load(self.task.name, h5path)


def register_all() -> None:
    """Register all tasks with gym, replacing other packages' environments of the same id."""
    for task in TASKS.values():
        gym.register(
            task.name,
            entry_point=OfflineEnv,
            max_episode_steps=task.horizon,
            kwargs={"name": task.name},
        )


def repair_numpy() -> None:
    """Give old programs the names that NumPy has removed, and let gym copy its generators."""
    for name, value in _REMOVED.items():
        if name not in vars(np):
            setattr(np, name, value)
    if seeding.RandomNumberGenerator is not np.random.Generator:  # a subclass before gym 0.26
        seeding.RandomNumberGenerator.__reduce__ = lambda self: (type(self), (self.bit_generator,))


repair_numpy()
register_all()
