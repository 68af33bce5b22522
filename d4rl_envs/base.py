"""The base class of all environments: physics steps, resets, rendering, copying."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from d4rl_envs.engine import mujoco, pending_warnings
from d4rl_envs.errors import UserError
from d4rl_envs.rendering import make_renderer


class MujocoEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A D4RL environment: actions in [-1, 1], raw benchmark rewards, its own random generator.

    Subclasses define `reset_state`, `observation` and `advance`. Rollouts call `advance`, which
    computes only the physics and the benchmark's formulas; `step` is Gymnasium's interface to it.

    Attributes:
        model, data: MuJoCo's compiled model and its state.
        qpos, qvel, ctrl, warmstart: Views into `data`.
        diverged: Whether the last step was unstable, so that MuJoCo reset the state; the episode
            then ends.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's name
    # a camera of the model by name, or -1 for the free camera
    camera: ClassVar[str | int] = -1
    image_size: ClassVar[tuple[int, int]] = (480, 480)  # height, width in pixels

    def __init__(
        self, model: mujoco.MjModel, frame_skip: int, obs_dim: int, render_mode: str | None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode {render_mode!r}: unknown; use 'rgb_array' or None")
        self.model, self.data = model, mujoco.MjData(model)
        self.bind_views()
        self.init_qpos, self.init_qvel = self.qpos.copy(), self.qvel.copy()
        self.frame_skip = frame_skip
        self.dt = model.opt.timestep * frame_skip  # s per environment step
        self.diverged = False
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (model.nu,), np.float32)
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": round(1 / self.dt)}
        self._renderer: mujoco.Renderer | None = None

    def bind_views(self) -> None:
        """Set all attributes that are views into `model` or `data`.

        Views are attributes because properties would slow down stepping. Copying or pickling turns
        them into separate arrays, so `__setstate__` calls this method again.
        """
        self.qpos, self.qvel = self.data.qpos, self.data.qvel
        self.ctrl, self.warmstart = self.data.ctrl, self.data.qacc_warmstart

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_renderer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.bind_views()

    def reset_state(self) -> None:
        """Draw the initial state of an episode from `np_random` and set it."""
        raise NotImplementedError

    def observation(self) -> np.ndarray:
        """The current observation (obs_dim,), a new array."""
        raise NotImplementedError

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """One environment step.

        Args:
            action: (act_dim,), finite and within [-1, 1].

        Returns:
            observation (obs_dim,), raw reward, whether the episode terminated.
        """
        raise NotImplementedError

    @property
    def success(self) -> bool | None:
        """Whether the current episode is a success so far; None if the family has no criterion."""
        return None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.diverged = False
        self.reset_state()
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise UserError(f"action of shape {action.shape}: expected {self.action_space.shape}")
        applied = self.applied(action)
        obs, reward, terminated = self.advance(applied)
        return obs, float(reward), bool(terminated), False, self.info(applied)

    def applied(self, action: np.ndarray) -> np.ndarray:
        """The action that `step` passes to `advance`.

        Raises:
            UserError: an action is NaN or infinite.
        """
        return bounded(action)

    def info(self, applied: np.ndarray) -> dict[str, Any]:
        """What `step` returns besides observation and reward, given the applied action."""
        success = self.success
        return {} if success is None else {"success": success}

    def set_state(
        self, qpos: np.ndarray, qvel: np.ndarray, warmstart: np.ndarray | None = None
    ) -> None:
        """Set the state and run a forward pass, as the old engine's set_state did.

        Args:
            qpos, qvel: (nq,) and (nv,); quaternions in qpos are normalised.
            warmstart: (nv,) accelerations from which the constraint solver starts in the next
                step; those of the forward pass by default.
        """
        self.qpos[:], self.qvel[:] = qpos, qvel
        mujoco.mj_normalizeQuat(self.model, self.qpos)
        self.forward()
        if warmstart is not None:
            self.warmstart[:] = warmstart

    def forward(self) -> None:
        """A forward pass that also updates the solver's warm start, as in MuJoCo 2.1.0."""
        mujoco.mj_forward(self.model, self.data)
        self.warmstart[:] = self.data.qacc

    def simulate(self, ctrl: np.ndarray) -> None:
        """`frame_skip` physics steps; Cartesian positions lag by the last one (no forward pass)."""
        self.ctrl[:] = ctrl
        self.integrate()
        self.note_divergence()

    def note_divergence(self) -> None:
        """Set `diverged` from MuJoCo's pending warnings and clear them; call it after each step."""
        if pending_warnings:
            self.diverged = any("unstable" in message for message in pending_warnings)
            pending_warnings.clear()

    def integrate(self) -> None:
        """`frame_skip` physics steps."""
        mujoco.mj_step(self.model, self.data, self.frame_skip)

    def render(self) -> np.ndarray | None:
        """An image (height, width, 3) uint8, or None without render_mode="rgb_array".

        Raises:
            UserError: no OpenGL context can be created.
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = make_renderer(self.model, self.image_size)
        self._renderer.update_scene(self.data, self.camera)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def bounded(actions: np.ndarray) -> np.ndarray:
    """Actions clipped to [-1, 1], as float64.

    Raises:
        UserError: an action is NaN or infinite.
    """
    actions = np.asarray(actions, np.float64)
    if not np.isfinite(actions).all():
        raise UserError(
            "an action is NaN or infinite: the policy has diverged; lower the learning rates"
        )
    return np.minimum(np.maximum(actions, -1.0), 1.0)  # np.clip's wrapper costs twice as much
