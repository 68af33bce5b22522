"""Several environments of one task, stepped one after another in this process.

An environment step takes between 5 and 250 microseconds: for steps this short a plain loop is
faster than subprocesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from envs.base import bounded
from envs.registration import make
from envs.tasks import Task
from utils import UserError


class EnvVector:
    """Array-valued resets and steps of `len(seeds)` independent environments.

    There is no automatic reset: a rollout steps the environments that are still running (by
    `indices`) and resets those it wants.

    Args:
        task: Which environment; also gives the dimensions and the horizon.
        seeds: One per environment; its first reset draws from a generator of this seed, later
            resets go on with that generator.
        render_mode: "rgb_array" for environments that `render`.
    """

    def __init__(self, task: Task, seeds: Sequence[int], render_mode: str | None = None) -> None:
        self.envs = [make(task, render_mode) for _ in seeds]
        self.task = task
        self.num_envs = len(self.envs)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._all = np.arange(self.num_envs)
        for env, seed in zip(self.envs, seeds, strict=True):
            env.np_random, _ = seeding.np_random(int(seed))

    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Start new episodes in these environments (all by default): observations (k, obs_dim)."""
        indices = self._all if indices is None else indices
        self._steps[indices] = 0
        return np.stack([self.envs[i].reset()[0] for i in indices])

    def step(
        self, actions: np.ndarray, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step in each of these environments (all by default).

        Args:
            actions: (k, act_dim), clipped to [-1, 1] here.
            indices: (k,) which environments.

        Returns:
            observations (k, obs_dim) float64, raw rewards (k,), terminated (k,) bool, truncated
            (k,) bool (the horizon is reached; may coincide with terminated).

        Raises:
            UserError: actions of the wrong shape, or not finite.
        """
        indices = self._all if indices is None else indices
        expected = (len(indices), self.task.act_dim)
        if np.shape(actions) != expected:
            raise UserError(f"actions of shape {np.shape(actions)}, where {expected} is needed")
        obs = np.empty((len(indices), self.task.obs_dim))
        rewards = np.empty(len(indices))
        terminated = np.empty(len(indices), bool)
        for row, (i, action) in enumerate(zip(indices.tolist(), bounded(actions), strict=True)):
            obs[row], rewards[row], terminated[row] = self.envs[i].advance(action)
        self._steps[indices] += 1
        return obs, rewards, terminated, self._steps[indices] >= self.task.horizon

    def success(self) -> np.ndarray | None:
        """(num_envs,) bool: whether each current episode is a success so far, by the family's own
        criterion; None for families without one."""
        successes = [env.success for env in self.envs]
        return None if None in successes else np.array(successes, bool)

    def render(self, index: int = 0) -> np.ndarray:
        """An image (height, width, 3) uint8 of one environment.

        Raises:
            UserError: made without render_mode="rgb_array", or no OpenGL is available.
        """
        image = self.envs[index].render()
        if image is None:
            raise UserError('these environments do not render; make them with "rgb_array"')
        return image

    def rng_states(self) -> list[dict[str, Any]]:
        """Each environment's generator as plain data that JSON can hold."""
        return [dict(env.np_random.bit_generator.state) for env in self.envs]

    def set_rng_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on with generators saved by `rng_states`; episodes under way are not restored.

        Raises:
            UserError: another number of environments, or not generator states.
        """
        if len(states) != self.num_envs:
            raise UserError(
                f"{len(states)} saved generators for {self.num_envs} environments; resume with "
                "the number of environments that was saved"
            )
        for env, state in zip(self.envs, states, strict=True):
            try:
                env.np_random.bit_generator.state = state
            except (TypeError, ValueError, KeyError) as error:
                raise UserError(f"a saved environment generator is damaged: {error}") from None

    def close(self) -> None:
        """Free renderers; the environments cannot be used afterwards."""
        for env in self.envs:
            env.close()
