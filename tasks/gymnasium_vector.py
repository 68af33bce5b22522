"""Environments of task files: made by Gymnasium, with actions scaled to [-1, 1]."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding

from d4rl_envs.engine import GL_VARIABLE
from d4rl_envs.errors import UserError
from d4rl_envs.rendering import choose_backend
from d4rl_envs.vector import EnvVector
from tasks.task_file import OwnTask, Spaces


def spaces_of(task: OwnTask, where: str) -> Spaces:
    """The spaces of a task's environment.

    Raises:
        UserError: it cannot be made or reset, or its spaces are not flat, continuous and, for
            actions, bounded.
    """
    env = _make(task, None, where)
    spaces = _checked_spaces(env, where)
    _seed(env, 0, where)
    _close(env)
    return spaces


def _make(task: OwnTask, render_mode: str | None, where: str) -> gymnasium.Env[Any, Any]:
    """The environment, without a time limit."""
    name = task.environment or task.entry_point
    what: Any = task.environment
    if task.entry_point:
        what = EnvSpec("own/Task-v0", entry_point=task.entry_point)
    # not passed as None, because an environment need not have it
    mode = {"render_mode": render_mode} if render_mode else {}
    try:
        env: Any = gymnasium.make(
            what, max_episode_steps=-1, disable_env_checker=True, **mode, **task.kwargs
        )
    except Exception as error:  # an environment may raise anything
        advice = "; its module must be on PYTHONPATH" if isinstance(error, ImportError) else ""
        raise UserError(f"{where}: {name} cannot be made ({_reason(error)}){advice}") from None
    return env


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")


def _seed(env: gymnasium.Env[Any, Any], seed: int, where: str) -> None:
    """Seed all generators, so that the first reset equals `reset(seed=seed)`."""
    try:
        obs, _ = env.reset(seed=seed)
    except Exception as error:
        raise UserError(f"{where}: reset raised {_reason(error)}; fix the environment") from None
    if np.shape(obs) != env.observation_space.shape:
        raise UserError(
            f"{where}: reset returns an observation of shape {np.shape(obs)}, but "
            f"observation_space has {env.observation_space.shape}; fix the environment"
        )
    _set_generator(env, seeding.np_random(seed)[0], where)


def _set_generator(
    env: gymnasium.Env[Any, Any], generator: np.random.Generator, where: str
) -> None:
    try:
        env.unwrapped.np_random = generator
        kept = env.unwrapped.np_random is generator
    except Exception:
        kept = False
    if not kept:
        raise UserError(
            f"{where}: np_random cannot be set to a NumPy generator; use the one of gymnasium.Env"
        )


def _close(env: gymnasium.Env[Any, Any]) -> None:
    with contextlib.suppress(Exception):  # nothing depends on it any more
        env.close()


def _checked_spaces(env: gymnasium.Env[Any, Any], where: str) -> Spaces:
    for name, space in (("observations", env.observation_space), ("actions", env.action_space)):
        flat = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.shape[0]
        if not flat or np.dtype(space.dtype).kind != "f":
            text = " ".join(str(space).split())[:80]
            raise UserError(
                f"{where}: its {name} are {text}; only flat, continuous spaces work: "
                "Box(low, high, (n,), float32)"
            )
    low, high = (np.asarray(x, np.float64) for x in (env.action_space.low, env.action_space.high))  # type: ignore[attr-defined]
    if not np.isfinite([low, high]).all() or (low >= high).any():
        raise UserError(
            f"{where}: its actions are in {env.action_space}; only finite bounds, low below high, "
            "can be scaled from [-1, 1]"
        )
    size = int(env.observation_space.shape[0])  # type: ignore[index]
    return Spaces(size, tuple(low.tolist()), tuple(high.tolist()))


class GymnasiumEnv:
    """An environment with the interface that `EnvVector` uses of `d4rl_envs.base.MujocoEnv`.

    Attributes:
        success: Whether the current episode is a success so far, by "success" or "is_success" of
            the info; None if it has not reported either.
        diverged: Always False.
        dt: Seconds per step in videos.
    """

    diverged = False

    def __init__(self, task: OwnTask, render_mode: str | None) -> None:
        self._where = f"task {task.name}"
        self.env = _make(task, render_mode, self._where)
        if _checked_spaces(self.env, self._where) != task.spaces:
            raise UserError(
                f"{self._where}: the spaces of its environment have changed: observations "
                f"{self.env.observation_space}, actions {self.env.action_space}; start a new run"
            )
        self._low, high = (np.array(end) for end in task.action_bounds)
        self._span = high - self._low
        self._dtype = self.env.action_space.dtype
        self.dt = 1.0 / float(self.env.metadata.get("render_fps") or 20.0)
        self.success: bool | None = None

    @property
    def np_random(self) -> np.random.Generator:
        return self.env.unwrapped.np_random

    @np_random.setter
    def np_random(self, generator: np.random.Generator) -> None:
        _set_generator(self.env, generator, self._where)

    def seed(self, seed: int) -> None:
        """Seed all generators, so that the first reset equals `reset(seed=seed)`."""
        _seed(self.env, seed, self._where)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.success = None
        return self.env.reset()

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """One step; `action` is in [-1, 1]. The environment's own truncation ends the episode."""
        scaled = (self._low + (action + 1.0) / 2.0 * self._span).astype(self._dtype)
        obs, reward, terminated, truncated, info = self.env.step(scaled)
        success = info.get("success", info.get("is_success"))
        if success is not None:
            self.success = bool(self.success) or bool(success)
        return obs, float(reward), bool(terminated or truncated)

    def note_divergence(self) -> None:
        """Nothing to note: MuJoCo's warnings are read by `MujocoEnv` only."""

    def render(self) -> Any:
        if GL_VARIABLE not in os.environ and hasattr(self.env.unwrapped, "mujoco_renderer"):
            # by itself Gymnasium tries GLFW first, which fails without a display
            os.environ[GL_VARIABLE] = choose_backend()
        try:
            return self.env.render()
        except Exception as error:  # a missing package, OpenGL, ...
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"the environment cannot render ({reason})") from None

    def close(self) -> None:
        _close(self.env)


class GymnasiumVector(EnvVector):
    """An `EnvVector` of the environment of a task file."""

    task: OwnTask
    _reports_success = False

    def __init__(self, task: OwnTask, seeds: Sequence[int], render_mode: str | None = None) -> None:
        super().__init__(task, seeds, render_mode)
        for env, seed in zip(self.envs, seeds, strict=True):
            env.seed(int(seed))
        self.engine = f"{task.environment or task.entry_point}, Gymnasium {gymnasium.__version__}"

    def _make(self) -> GymnasiumEnv:
        return GymnasiumEnv(self.task, self._render_mode)

    def success(self) -> np.ndarray | None:
        """(num_envs,) bool: whether each current episode is a success so far.

        None until an environment has reported one way or the other; some only report a success,
        or report in the last step.
        """
        successes = [env.success for env in self.envs]
        self._reports_success |= any(success is not None for success in successes)
        return np.array(successes, bool) if self._reports_success else None

    def rng_states(self) -> list[dict[str, Any]]:
        """As for other tasks, and whether a success was reported."""
        about = {"reports_success": self._reports_success}
        return [state | about for state in super().rng_states()]

    def set_rng_states(self, states: Sequence[dict[str, Any]]) -> None:
        # older checkpoints lack it
        self._reports_success = any(state.get("reports_success") for state in states)
        super().set_rng_states(
            [{k: x for k, x in state.items() if k != "reports_success"} for state in states]
        )
