"""Hopper, HalfCheetah, Walker2d and Ant as in D4RL (gym's v2 tasks, clipped actions).

The models are Gymnasium's XML files with MuJoCo 2.1.0's capsule inertia (see physics.py).
"""

from __future__ import annotations

import math
from importlib.resources import files
from typing import ClassVar

import mujoco
import numpy as np

from d4rl_envs.base import MujocoEnv
from d4rl_envs.physics import capsules_as_cylinders

ASSETS = files("gymnasium") / "envs" / "mujoco" / "assets"


class LocomotionEnv(MujocoEnv):
    """A legged robot that earns its forward speed; subclasses say what ends an episode."""

    xml: ClassVar[str]
    steps_per_action: ClassVar[int]
    total_mass: ClassVar[float | None] = None  # kg
    camera = "track"

    def __init__(self, render_mode: str | None = None) -> None:
        spec = mujoco.MjSpec.from_file(str(ASSETS / self.xml))
        self.edit(spec)
        model = spec.compile()
        capsules_as_cylinders(model, spec, self.total_mass)
        super().__init__(model, self.steps_per_action, self.obs_size(model), render_mode)

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Change the robot's XML before compilation; nothing by default."""

    @staticmethod
    def obs_size(model: mujoco.MjModel) -> int:
        """All positions but x, and all velocities."""
        return model.nq - 1 + model.nv

    def reset_state(self) -> None:
        noise = self.np_random.uniform(-0.1, 0.1, self.model.nq)
        velocity = 0.1 * self.np_random.standard_normal(self.model.nv)
        self.set_state(self.init_qpos + noise, self.init_qvel + velocity)


class HalfCheetahEnv(LocomotionEnv):
    """Never ends; reward dx/dt - 0.1 |a|^2."""

    xml = "half_cheetah.xml"
    steps_per_action = 5
    total_mass = 14.0

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos[1:], self.qvel))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        x = self.qpos[0]
        self.simulate(action)
        reward = (self.qpos[0] - x) / self.dt - 0.1 * (action @ action)
        return self.observation(), reward, self.diverged


class _UprightEnv(LocomotionEnv):
    """Planar and upright: reward dx/dt + 1 - 0.001 |a|^2 for as long as it does not fall."""

    steps_per_action = 4

    def healthy(self, height: float, angle: float) -> bool:
        """Whether the torso's height (m) and pitch (rad) let the episode go on."""
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
        reward = (after - before) / self.dt + 1.0 - 1e-3 * (action @ action)
        return self.observation(), reward, self.diverged or not self.healthy(height, angle)


class HopperEnv(_UprightEnv):
    """Also ends when any position (but x and height) or velocity leaves (-100, 100)."""

    xml = "hopper.xml"

    def healthy(self, height: float, angle: float) -> bool:
        return (
            0.7 < height < math.inf
            and abs(angle) < 0.2
            and math.isfinite(self.qpos[0])
            and bool(np.abs(self.qpos[3:]).max() < 100)
            and bool(np.abs(self.qvel).max() < 100)
        )


class Walker2dEnv(_UprightEnv):
    xml = "walker2d.xml"

    def healthy(self, height: float, angle: float) -> bool:
        return 0.8 < height < 2.0 and -1.0 < angle < 1.0


class AntEnv(LocomotionEnv):
    """Ends when the torso's height leaves [0.2, 1]; reward dx/dt + 1 - 0.5 |a|^2.

    The reward differences the torso's Cartesian x, which lags by the last physics step except
    right after a reset. D4RL's observation ends in 84 contact forces that its engine never
    computed: always 0.
    """

    xml = "ant.xml"
    steps_per_action = 5
    contact_forces = 84

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.torso = self.data.xpos[self.model.body("torso").id]

    @staticmethod
    def obs_size(model: mujoco.MjModel) -> int:
        return model.nq - 2 + model.nv + AntEnv.contact_forces

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos[2:], self.qvel, np.zeros(self.contact_forces)))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        before = self.torso[0]
        self.simulate(action)
        reward = (self.torso[0] - before) / self.dt + 1.0 - 0.5 * (action @ action)
        obs = self.observation()
        healthy = 0.2 <= obs[0] <= 1.0 and np.isfinite(obs).all()
        return obs, reward, self.diverged or not healthy
