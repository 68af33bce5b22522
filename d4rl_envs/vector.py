"""Several environments of one task, stepped one after another in this process.

An environment step takes 5 to 250 microseconds; for steps this short, a plain loop is faster than
subprocesses.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding

from d4rl_envs.base import bounded
from d4rl_envs.engine import mujoco
from d4rl_envs.errors import UserError
from d4rl_envs.registration import make
from d4rl_envs.tasks import D4RLTask

UNSTABLE = "the simulation became unstable"
NOT_FINITE = "an observation or a reward is not finite"

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_logger = logging.getLogger(__name__)
# (task, kind of fault) pairs that were logged
_logged: set[tuple[str, str]] = set()


class EnvVector:
    """Batched resets and steps of `len(seeds)` independent environments.

    Environments are not reset automatically: a rollout steps those still running (by `indices`) and
    resets them when it wants to.

    A fault in an environment ends its episode, not the run. Faults are unstable physics,
    observations or rewards that are not finite, and exceptions in a step or reset. The episode ends
    before the faulty step. After an exception, the next reset rebuilds the environment, which keeps
    its generator.

    Args:
        task: Defines the environment, its dimensions and the horizon.
        seeds: One per environment, for the generator from which all its resets draw.
        render_mode: "rgb_array" for environments that `render`.

    Attributes:
        steps: (num_envs,) steps taken in each current episode.
        faulted: (num_envs,) bool, whether a fault ended each current episode.
        faults: Number of faults so far, by kind.
        engine: Physics engine and its version.
    """

    def __init__(
        self, task: D4RLTask, seeds: Sequence[int], render_mode: str | None = None
    ) -> None:
        self._begin(task, len(seeds))
        self._render_mode = render_mode
        self.envs: list[Any] = [self._make() for _ in seeds]
        self._broken = np.zeros(self.num_envs, bool)  # rebuilt by the next reset
        for env, seed in zip(self.envs, seeds, strict=True):
            env.np_random, _ = seeding.np_random(int(seed))
        self.engine = f"MuJoCo {mujoco.__version__}"

    def _make(self) -> Any:
        """A new environment."""
        return make(self.task, self._render_mode)

    def _begin(self, task: D4RLTask, num_envs: int) -> None:
        """Initialise what does not depend on the engine."""
        self.task, self.num_envs = task, num_envs
        self.faulted = np.zeros(self.num_envs, bool)
        self.faults: Counter[str] = Counter()
        self.steps = np.zeros(self.num_envs, np.int64)
        self._all = np.arange(self.num_envs)

    def reset(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Start new episodes in these environments (all by default).

        Returns:
            observations (k, obs_dim); zeros where the reset `faulted`.
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
            (k,) bool (at the horizon; both can be true). Zeros, 0 and True where an environment
            `faulted`.

        Raises:
            UserError: actions have the wrong shape or are not finite.
        """
        indices = self._all if indices is None else indices
        expected = (len(indices), self.task.act_dim)
        if np.shape(actions) != expected:
            raise UserError(f"actions of shape {np.shape(actions)}: expected {expected}")
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
        """Reset environments, write their observations to `obs` and record faults."""
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
        """Step environments, write the results to the last three arrays and record faults."""
        for row, (i, action) in enumerate(zip(indices.tolist(), actions, strict=True)):
            env = self.envs[i]
            try:
                obs[row], rewards[row], terminated[row] = env.advance(action)
            except Exception as error:  # the other environments can continue
                self._note_exception(i, error)
            else:
                if env.diverged:
                    self._note_fault(i, UNSTABLE)

    def _note_values(self, indices: np.ndarray, finite: np.ndarray) -> None:
        """Record a fault where values are not finite, unless there was one already."""
        if not finite.all():
            for i in indices[~finite & ~self.faulted[indices]].tolist():
                self._note_fault(i, NOT_FINITE)

    def _note_exception(self, i: int, error: Exception) -> None:
        if isinstance(error, MemoryError):
            raise error
        self._broken[i] = True
        self.envs[i].note_divergence()  # else its warnings would count for another environment
        self._note_fault(i, type(error).__name__, " ".join(str(error).split()))

    def _note_fault(self, i: int, kind: str, details: str = "") -> None:
        """Count a fault of environment i, which ends its episode; log the first of each kind."""
        self.faulted[i] = True
        self.faults[kind] += 1
        if (self.task.name, kind) not in _logged:
            _logged.add((self.task.name, kind))
            reason = f"{kind}: {details}" if details else kind
            _logger.warning(
                "%s: environment fault (%s); its episode ends before this step and the run "
                "continues; env_faults counts further ones",
                self.task.name, reason,
            )  # fmt: skip

    def _rebuild(self, i: int) -> None:
        """Replace an environment that raised by a new one with the same generator."""
        old = self.envs[i]
        new = self._make()
        new.np_random = old.np_random
        self.envs[i], self._broken[i] = new, False
        with contextlib.suppress(Exception):  # the old one may be in any state
            old.close()

    def success(self) -> np.ndarray | None:
        """(num_envs,) bool: whether each current episode is a success so far.

        None if the family has no success criterion.
        """
        successes = [env.success for env in self.envs]
        return None if None in successes else np.array(successes, bool)

    def render(self, index: int = 0) -> np.ndarray:
        """An image (height, width, 3) uint8 of one environment.

        Raises:
            UserError: `render_mode` was not "rgb_array", or OpenGL does not work.
        """
        image = self.envs[index].render()
        if image is None:
            raise UserError('these environments do not render; pass render_mode="rgb_array"')
        return image

    def rng_states(self) -> list[dict[str, Any]]:
        """State of each environment's generator, JSON-serialisable."""
        return [dict(env.np_random.bit_generator.state) for env in self.envs]

    def set_rng_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore generators saved by `rng_states`; episodes in progress are not restored.

        Raises:
            UserError: the number of environments differs, or a state is invalid.
        """
        self._check_number(states)
        for env, state in zip(self.envs, states, strict=True):
            try:
                env.np_random.bit_generator.state = state
            except (TypeError, ValueError, KeyError) as error:
                raise UserError(f"saved environment generator is damaged ({error})") from None

    def _check_number(self, states: Sequence[Any]) -> None:
        if len(states) != self.num_envs:
            raise UserError(
                f"{len(states)} saved generators for {self.num_envs} environments; use as many "
                "environments as were saved"
            )

    def close(self) -> None:
        """Free the renderers; the environments must not be used afterwards."""
        for env in self.envs:
            env.close()


def _finite(values: np.ndarray) -> np.ndarray:
    """(k,) bool: whether all values of each row (k, width) are finite in float32."""
    return np.asarray((np.abs(values) <= _FLOAT32_MAX).all(axis=1))
