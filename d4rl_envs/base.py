"""The MuJoCo environment that every family builds on: stepping, resets, rendering."""

from __future__ import annotations

import logging
import re
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from d4rl_envs.errors import UserError
from d4rl_envs.rendering import make_renderer

TESTED_ENGINE = "3.2.6"

_logger = logging.getLogger(__name__)
# filled by MuJoCo's warning callback while a step runs; emptied by the environment that stepped
_warnings: list[str] = []
# messages that were logged, without their numbers
_logged: set[str] = set()


def _on_mujoco_warning(message: str) -> None:
    """Log each kind once, instead of letting MuJoCo append all to MUJOCO_LOG.TXT in the folder."""
    kind = re.sub(r"[-+.\w]*\d[-+.\w]*", "", message)
    if kind not in _logged:
        _logged.add(kind)
        _logger.warning("MuJoCo: %s", message)
    _warnings.append(message)


mujoco.set_mju_user_warning(_on_mujoco_warning)


def check_engine(version: str) -> None:
    """Warn of a MuJoCo release that was not compared with the old engine."""
    if version != TESTED_ENGINE:
        _logger.warning(
            "MuJoCo %s: only %s was found to move as the benchmark's engine did; "
            "pip install mujoco==%s",
            version,
            TESTED_ENGINE,
            TESTED_ENGINE,
        )


check_engine(mujoco.__version__)


class MujocoEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A D4RL environment: actions in [-1, 1], raw benchmark rewards, resets from its own generator.

    A family gives `reset_state`, `observation` and `advance`. Rollouts call `advance`, which does
    no more than the physics and the benchmark's formulas; `step` adds what Gymnasium's interface
    asks for.

    Attributes:
        model, data: MuJoCo's compiled model and its state.
        qpos, qvel, ctrl, warmstart: Views into `data`.
        diverged: Whether the last step's state became so unstable that MuJoCo reset it; the
            episode then ends.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's name
    # how the picture is taken: a camera of the model, or a free one
    camera: ClassVar[str | int] = -1
    image_size: ClassVar[tuple[int, int]] = (480, 480)  # height, width in pixels

    def __init__(
        self, model: mujoco.MjModel, frame_skip: int, obs_dim: int, render_mode: str | None
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render_mode {render_mode!r}: unknown; use 'rgb_array' or None")
        self.model = model
        self.data = mujoco.MjData(model)
        self.qpos, self.qvel = self.data.qpos, self.data.qvel
        self.ctrl, self.warmstart = self.data.ctrl, self.data.qacc_warmstart
        self.init_qpos, self.init_qvel = self.qpos.copy(), self.qvel.copy()
        self.frame_skip = frame_skip
        self.dt = model.opt.timestep * frame_skip  # s per environment step
        self.diverged = False
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (model.nu,), np.float32)
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": round(1 / self.dt)}
        self._renderer: mujoco.Renderer | None = None

    def reset_state(self) -> None:
        """Draw the start of an episode from `np_random` and set it."""
        raise NotImplementedError

    def observation(self) -> np.ndarray:
        """The current observation (obs_dim,), a new array."""
        raise NotImplementedError

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """One environment step.

        Args:
            action: (act_dim,) float64, finite and within [-1, 1].

        Returns:
            observation (obs_dim,), raw reward, whether the episode terminated.
        """
        raise NotImplementedError

    @property
    def success(self) -> bool | None:
        """Whether the current episode is a success so far; None for families without one."""
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
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape:
            raise UserError(
                f"action of shape {action.shape}: this environment's are {self.action_space.shape}"
            )
        obs, reward, terminated = self.advance(bounded(action))
        success = self.success
        info = {} if success is None else {"success": success}
        return obs, float(reward), bool(terminated), False, info

    def set_state(
        self, qpos: np.ndarray, qvel: np.ndarray, warmstart: np.ndarray | None = None
    ) -> None:
        """Put the system into a state and run a forward pass, as the old engine's set_state.

        Args:
            qpos, qvel: (nq,) and (nv,); quaternions in qpos are normalised.
            warmstart: (nv,) accelerations the constraint solver starts from in the next step;
                by default those of the forward pass.
        """
        self.qpos[:], self.qvel[:] = qpos, qvel
        mujoco.mj_normalizeQuat(self.model, self.qpos)
        self.forward()
        if warmstart is not None:
            self.warmstart[:] = warmstart

    def place(self, placement: dict[str, np.ndarray], goal: np.ndarray | None) -> None:
        """Put what a reset moves where a recorded episode had it; nothing moves by default.

        Args:
            placement: Arrays of the model by attribute name ("body_pos", "site_pos", ...).
            goal: The episode's goal, for families that draw one.
        """

    def forward(self) -> None:
        """A forward pass that also renews the solver's warm start, as MuJoCo 2.1.0's did."""
        mujoco.mj_forward(self.model, self.data)
        self.warmstart[:] = self.data.qacc

    def simulate(self, ctrl: np.ndarray) -> None:
        """`frame_skip` physics steps; Cartesian positions lag by the last one (no forward pass)."""
        self.ctrl[:] = ctrl
        self.integrate()
        self.note_divergence()

    def note_divergence(self) -> None:
        """Set `diverged` by what MuJoCo said since the last call; to be called after each step."""
        if _warnings:
            self.diverged = any("unstable" in message for message in _warnings)
            _warnings.clear()

    def integrate(self) -> None:
        """`frame_skip` physics steps."""
        mujoco.mj_step(self.model, self.data, self.frame_skip)

    def render(self) -> np.ndarray | None:
        """An image (height, width, 3) uint8, or None without render_mode="rgb_array".

        Raises:
            UserError: no OpenGL context could be made.
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
    """Actions clipped to [-1, 1] as float64, before any control cost sees them.

    Raises:
        UserError: NaN or infinity among them.
    """
    actions = np.asarray(actions, np.float64)
    if not np.isfinite(actions).all():
        raise UserError(
            "an action is NaN or infinite: the policy has diverged; lower the learning rates"
        )
    return np.minimum(np.maximum(actions, -1.0), 1.0)  # np.clip's wrapper costs twice as much
