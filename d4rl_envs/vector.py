"""Several environments of one task, stepped one after another in this process.

An environment step takes between 5 and 250 microseconds: for steps this short a plain loop is
faster than subprocesses.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium.utils import seeding

from d4rl_envs.base import bounded
from d4rl_envs.errors import UserError
from d4rl_envs.registration import make
from d4rl_envs.tasks import D4RLTask

UNSTABLE = "the simulation became unstable"
NOT_FINITE = "an observation or a reward is not finite"

_LARGEST = float(np.finfo(np.float32).max)  # what can be stored
_logger = logging.getLogger(__name__)
# kinds of faults that were logged, by task
_logged: set[tuple[str, str]] = set()


class EnvVector:
    """Array-valued resets and steps of `len(seeds)` independent environments.

    There is no automatic reset: a rollout steps the environments that are still running (by
    `indices`) and resets those it wants.

    A fault in an environment ends its episode, not the run: a simulation that became unstable, an
    observation or a reward that is not finite, or an exception in a step or a reset. What that step
    brought is worth nothing, so that the episode is what came before it. After an exception the
    environment is built anew at its next reset, and goes on with its generator.

    Args:
        task: Which environment; also gives the dimensions and the horizon.
        seeds: One per environment; its first reset draws from a generator of this seed, later
            resets go on with that generator.
        render_mode: "rgb_array" for environments that `render`.

    Attributes:
        steps: (num_envs,) steps of each current episode.
        faulted: (num_envs,) bool, whether each current episode was ended by a fault.
        faults: How many faults there were, by kind.
        engine: What computes the physics, with its version.
    """

    def __init__(
        self, task: D4RLTask, seeds: Sequence[int], render_mode: str | None = None
    ) -> None:
        self._begin(task, len(seeds))
        self.envs = [make(task, render_mode) for _ in seeds]
        self._render_mode = render_mode
        self._broken = np.zeros(self.num_envs, bool)  # to be built anew
        for env, seed in zip(self.envs, seeds, strict=True):
            env.np_random, _ = seeding.np_random(int(seed))
        self.engine = f"MuJoCo {mujoco.__version__}"

    def _begin(self, task: D4RLTask, num_envs: int) -> None:
        """What does not depend on the engine."""
        self.task, self.num_envs = task, num_envs
        self.faulted = np.zeros(self.num_envs, bool)
        self.faults: Counter[str] = Counter()
        self.steps = np.zeros(self.num_envs, np.int64)
        self._all = np.arange(self.num_envs)

    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Start new episodes in these environments (all by default): observations (k, obs_dim).

        Those of environments that `faulted` already here are 0.
        """
        indices = self._all if indices is None else indices
        self.steps[indices] = 0
        self.faulted[indices] = False
        obs = np.zeros((len(indices), self.task.obs_dim))
        self._restart(indices, obs)
        self._note_values(indices, _finite(obs))
        obs[self.faulted[indices]] = 0.0
        return obs

    def step(
        self, actions: np.ndarray, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step in each of these environments (all by default).

        Args:
            actions: (k, act_dim), clipped to [-1, 1] here.
            indices: (k,) which environments.

        Returns:
            observations (k, obs_dim) float64, raw rewards (k,), terminated (k,) bool, truncated
            (k,) bool (the horizon is reached; may coincide with terminated). Where an environment
            `faulted`: zeros, 0, True.

        Raises:
            UserError: actions of the wrong shape, or not finite.
        """
        indices = self._all if indices is None else indices
        expected = (len(indices), self.task.act_dim)
        if np.shape(actions) != expected:
            raise UserError(f"actions of shape {np.shape(actions)}, where {expected} is needed")
        obs = np.zeros((len(indices), self.task.obs_dim))
        rewards = np.zeros(len(indices))
        terminated = np.zeros(len(indices), bool)
        self._advance(indices, bounded(actions), obs, rewards, terminated)
        self.steps[indices] += 1
        self._note_values(indices, _finite(obs) & _finite(rewards[:, None]))
        faulted = self.faulted[indices]
        if faulted.any():
            obs[faulted], rewards[faulted], terminated[faulted] = 0.0, 0.0, True
        return obs, rewards, terminated, self.steps[indices] >= self.task.horizon

    def _restart(self, indices: np.ndarray, obs: np.ndarray) -> None:
        """Reset environments into `obs`; faults are noted."""
        for row, i in enumerate(indices.tolist()):
            try:
                if self._broken[i]:
                    self._rebuild(i)
                obs[row] = self.envs[i].reset()[0]
            except Exception as error:
                self._note_exception(i, error)

    def _advance(
        self,
        indices: np.ndarray,
        actions: np.ndarray,
        obs: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        """Step environments by actions in [-1, 1] into the last three arrays; faults are noted."""
        for row, (i, action) in enumerate(zip(indices.tolist(), actions, strict=True)):
            env = self.envs[i]
            try:
                obs[row], rewards[row], terminated[row] = env.advance(action)
            except Exception as error:  # whatever it is, the other environments can go on
                self._note_exception(i, error)
            else:
                if env.diverged:
                    self._note_fault(i, UNSTABLE)

    def _note_values(self, indices: np.ndarray, finite: np.ndarray) -> None:
        """Note the environments whose values are not finite, unless they faulted before."""
        if not finite.all():
            for i in indices[~finite & ~self.faulted[indices]].tolist():
                self._note_fault(i, NOT_FINITE)

    def _note_exception(self, i: int, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error
        self._broken[i] = True
        self.envs[i].note_divergence()  # so that no other environment's step gets the blame
        self._note_fault(i, type(error).__name__, " ".join(str(error).split()))

    def _note_fault(self, i: int, kind: str, details: str = "") -> None:
        """End the episode of environment i by a fault; the first of its kind is logged."""
        self.faulted[i] = True
        self.faults[kind] += 1
        if (self.task.name, kind) not in _logged:
            _logged.add((self.task.name, kind))
            reason = f"{kind}: {details}" if details else kind
            _logger.warning(
                "%s: fault in an environment (%s); its episode ends before that step, and the run "
                "goes on; further ones are counted in env_faults",
                self.task.name, reason,
            )  # fmt: skip

    def _rebuild(self, i: int) -> None:
        """A new environment in place of one that raised, with its generator."""
        old = self.envs[i]
        new = make(self.task, self._render_mode)
        new.np_random = old.np_random
        self.envs[i], self._broken[i] = new, False
        with contextlib.suppress(Exception):  # what is thrown away may be in any state
            old.close()

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
        self._check_number(states)
        for env, state in zip(self.envs, states, strict=True):
            try:
                env.np_random.bit_generator.state = state
            except (TypeError, ValueError, KeyError) as error:
                raise UserError(f"a saved environment generator is damaged: {error}") from None

    def _check_number(self, states: Sequence[Any]) -> None:
        if len(states) != self.num_envs:
            raise UserError(
                f"{len(states)} saved generators for {self.num_envs} environments; resume with "
                "the number of environments that was saved"
            )

    def close(self) -> None:
        """Free renderers; the environments cannot be used afterwards."""
        for env in self.envs:
            env.close()


def _finite(values: np.ndarray) -> np.ndarray:
    """(k,) bool: rows (k, width) whose values are all finite, in float32 too."""
    return np.asarray((np.abs(values) <= _LARGEST).all(axis=1))
