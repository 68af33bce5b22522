"""Hopper, HalfCheetah, Walker2d and Ant as in D4RL (gym's v2 environments, clipped actions).

The models are Gymnasium's XML files with MuJoCo 2.1.0's capsule inertia (see physics.py).
"""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from d4rl_envs.base import MujocoEnv, bounded
from d4rl_envs.engine import mujoco
from d4rl_envs.physics import capsules_as_cylinders

ASSETS = files("gymnasium") / "envs" / "mujoco" / "assets"


class LocomotionEnv(MujocoEnv):
    """A legged robot that is rewarded for its forward speed."""

    xml: ClassVar[str]
    obs_dim: ClassVar[int]
    steps_per_action: ClassVar[int]
    total_mass: ClassVar[float | None] = None  # kg
    ctrl_limit: ClassVar[float] = 1.0  # control at an action of 1
    camera = "track"

    def __init__(self, render_mode: str | None = None) -> None:
        spec = mujoco.MjSpec.from_file(str(ASSETS / self.xml))
        self.edit(spec)
        model = spec.compile()
        capsules_as_cylinders(model, spec, self.total_mass)
        super().__init__(model, self.steps_per_action, self.obs_dim, render_mode)

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Change the model before it is compiled; nothing by default."""

    def applied(self, action: np.ndarray) -> np.ndarray:
        """D4RL's wrapper maps actions to controls, and rounds if they are float32."""
        checked = bounded(action)
        if action.dtype != np.float32:
            return checked
        limit = np.float32(self.ctrl_limit)
        ctrl = -limit + (action + np.float32(1)) * np.float32(0.5) * (2 * limit)
        ctrl = np.clip(ctrl, -limit, limit)
        return ctrl if limit == 1 else ctrl.astype(np.float64) / self.ctrl_limit

    def reset_state(self) -> None:
        noise = self.np_random.uniform(-0.1, 0.1, self.model.nq)
        velocity = 0.1 * self.np_random.standard_normal(self.model.nv)
        self.set_state(self.init_qpos + noise, self.init_qvel + velocity)


class HalfCheetahEnv(LocomotionEnv):
    """Reward dx/dt - 0.1 |a|^2; never terminates."""

    xml = "half_cheetah.xml"
    obs_dim = 17
    steps_per_action = 5
    total_mass = 14.0

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos[1:], self.qvel))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        x = self.qpos[0]
        self.simulate(action)
        self.forward_reward = (self.qpos[0] - x) / self.dt
        reward = self.forward_reward - 0.1 * _squared_norm(action)
        return self.observation(), reward, self.diverged

    def info(self, applied: np.ndarray) -> dict[str, Any]:
        cost = 0.1 * _squared_norm(applied)
        return {"reward_run": float(self.forward_reward), "reward_ctrl": -float(cost)}


class _UprightEnv(LocomotionEnv):
    """A planar robot: reward dx/dt + 1 - 0.001 |a|^2; terminates when it falls."""

    steps_per_action = 4

    def healthy(self, height: float, angle: float) -> bool:
        """Whether the torso's height (m) and pitch (rad) are those of an upright robot."""
        raise NotImplementedError

    def reset_state(self) -> None:
        noise = self.np_random.uniform(-0.005, 0.005, self.model.nq)
        velocity = self.np_random.uniform(-0.005, 0.005, self.model.nv)
        self.set_state(self.init_qpos + noise, self.init_qvel + velocity)

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos[1:], np.maximum(np.minimum(self.qvel, 10.0), -10.0)))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        before = self.qpos[0]
        self.simulate(action)
        after, height, angle = self.qpos[:3].tolist()
        reward = (after - before) / self.dt + 1.0 - 1e-3 * _squared_norm(action)
        return self.observation(), reward, self.diverged or not self.healthy(height, angle)


class HopperEnv(_UprightEnv):
    """Also terminates if a joint position or any velocity leaves (-100, 100)."""

    xml = "hopper.xml"
    obs_dim = 11

    def healthy(self, height: float, angle: float) -> bool:
        return (
            0.7 < height < math.inf
            and abs(angle) < 0.2
            and math.isfinite(self.qpos[0])
            and bool(np.abs(self.qpos[3:]).max() < 100)
            and bool(np.abs(self.qvel).max() < 100)
        )


class Walker2dEnv(_UprightEnv):
    """Terminates when the height leaves (0.8, 2) or the pitch (-1, 1)."""

    xml = "walker2d.xml"
    obs_dim = 17

    def healthy(self, height: float, angle: float) -> bool:
        return 0.8 < height < 2.0 and -1.0 < angle < 1.0


class AntEnv(LocomotionEnv):
    """Reward dx/dt + 1 - 0.5 |a|^2; terminates when the torso's height leaves [0.2, 1].

    dx is the change of the torso's Cartesian x, which lags by the last physics step except right
    after a reset. The observation ends with 84 contact forces, which are always 0: D4RL's engine
    never computed them.
    """

    xml = "ant.xml"
    obs_dim = 111
    steps_per_action = 5
    contact_forces = 84

    def bind_views(self) -> None:
        super().bind_views()
        self.torso = self.data.xpos[self.model.body("torso").id]

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos[2:], self.qvel, np.zeros(self.contact_forces)))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        before = self.torso[0]
        self.simulate(action)
        self.forward_reward = (self.torso[0] - before) / self.dt
        reward = self.forward_reward + 1.0 - 0.5 * _squared_norm(action)
        obs = self.observation()
        healthy = 0.2 <= obs[0] <= 1.0 and np.isfinite(obs).all()
        return obs, reward, self.diverged or not healthy

    def info(self, applied: np.ndarray) -> dict[str, Any]:
        return {
            "reward_forward": float(self.forward_reward),
            "reward_ctrl": -0.5 * float(_squared_norm(applied)),
            "reward_contact": 0.0,
            "reward_survive": 1.0,
        }


def _squared_norm(action: np.ndarray) -> float:
    """|a|^2; for float32 actions summed in float32, as in D4RL."""
    return float(np.square(action).sum()) if action.dtype == np.float32 else action @ action
