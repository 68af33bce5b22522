"""Pen, Hammer, Door and Relocate of the Adroit hand as in D4RL (Rajeswaran et al. 2018).

The models are gymnasium-robotics' XML files. Positions of bodies and sites, in observations and
rewards, lag by the last physics step.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from d4rl_envs.base import MujocoEnv
from d4rl_envs.engine import mujoco
from d4rl_envs.errors import UserError
from d4rl_envs.physics import NullRotations
from d4rl_envs.rotations import euler_from_matrix, quat_from_euler


def adroit_model(name: str, visuals: bool) -> mujoco.MjModel:
    """The compiled model of a task, with the benchmark's actuator gains.

    Args:
        name: "pen", "hammer", "door" or "relocate".
        visuals: Keep meshes and textures, for rendering; slower to load, same dynamics.
    """
    # importing the package would be slow
    package = find_spec("gymnasium_robotics")
    if package is None or not package.submodule_search_locations:
        raise UserError("Adroit tasks need gymnasium-robotics: pip install gymnasium-robotics")
    assets = Path(package.submodule_search_locations[0]) / "envs" / "assets" / "adroit_hand"
    spec = mujoco.MjSpec.from_file(str(assets / f"adroit_{name}.xml"))
    if not visuals:
        spec.compiler.discardvisual = True
        for site in spec.sites:
            site.material = ""  # compilation discards materials
    model = spec.compile()
    for joints, gain in ((("WRJ1", "WRJ0"), 10.0), (("FFJ3", "THJ0"), 1.0)):
        first, last = (model.actuator(f"A_{joint}").id for joint in joints)
        model.actuator_gainprm[first : last + 1, :3] = (gain, 0.0, 0.0)
        model.actuator_biasprm[first : last + 1, :3] = (0.0, -gain, 0.0)
    return model


class AdroitEnv(MujocoEnv):
    """A hand task. Actions are target joint positions: -1 and 1 are the ends of a joint's range.

    An episode is a success once the goal was achieved in more than `success_steps` steps.
    """

    name: ClassVar[str]
    obs_dim: ClassVar[int]
    success_steps: ClassVar[int] = 25
    camera = "fixed"

    def __init__(self, render_mode: str | None = None) -> None:
        model = adroit_model(self.name, visuals=render_mode is not None)
        super().__init__(model, 5, self.obs_dim, render_mode)
        self.null_rotations = NullRotations(model)
        low, high = model.actuator_ctrlrange.T
        self.act_mid, self.act_half = (low + high) / 2, (high - low) / 2
        self.achieved = False
        self._achieved_steps = 0

    def bind_views(self) -> None:
        super().bind_views()
        self.qpos0 = self.model.qpos0

    def body(self, name: str) -> np.ndarray:
        """Position (3,) of a body, a view into `data`."""
        return self.data.xpos[self.model.body(name).id]

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a site, a view into `data`."""
        return self.data.site_xpos[self.model.site(name).id]

    def place_objects(self) -> None:
        """Draw the positions of the episode's objects and targets."""
        raise NotImplementedError

    def reward(self) -> tuple[float, bool]:
        """Shaped reward of the current state, and whether the goal is achieved in it."""
        raise NotImplementedError

    def failed(self) -> bool:
        """Whether the current state terminates the episode."""
        return False

    @property
    def success(self) -> bool:
        return self._achieved_steps > self.success_steps

    def place(self, placement: dict[str, np.ndarray], goal: np.ndarray | None) -> None:
        for attribute, values in placement.items():
            getattr(self.model, attribute)[:] = values

    def forward(self) -> None:
        """MuJoCo 2.1.0 stored the solver's warm start before the no-slip iterations, not after."""
        self.null_rotations.apply(self.qpos, self.qpos0)
        options = self.model.opt
        iterations, options.noslip_iterations = options.noslip_iterations, 0
        super().forward()
        options.noslip_iterations = iterations
        mujoco.mj_forward(self.model, self.data)

    def integrate(self) -> None:
        for _ in range(self.frame_skip):
            self.null_rotations.apply(self.qpos, self.qpos0)
            mujoco.mj_step(self.model, self.data)

    def reset_state(self) -> None:
        self.achieved = False
        self._achieved_steps = 0
        self.place_objects()
        self.set_state(self.init_qpos, self.init_qvel)

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.simulate(self.act_mid + action * self.act_half)
        reward, self.achieved = self.reward()
        self._achieved_steps += self.achieved
        return self.observation(), reward, self.diverged or self.failed()


class PenEnv(AdroitEnv):
    """Turn the pen to the target's orientation; terminates when the pen falls."""

    name = "pen"
    obs_dim = 45
    success_steps = 20
    drop_height = 0.075  # m

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        mujoco.mj_forward(self.model, self.data)
        self.pen_length = math.dist(*self.pen_ends)  # m
        self.target_length = math.dist(*self.target_ends)  # m

    def bind_views(self) -> None:
        super().bind_views()
        self.pen, self.centre = self.body("Object"), self.site("eps_ball")
        self.pen_ends = self.site("object_top"), self.site("object_bottom")
        self.target_ends = self.site("target_top"), self.site("target_bottom")

    def place_objects(self) -> None:
        x, y = self.np_random.uniform(-1, 1, 2).tolist()
        self.model.body("target").quat[:] = quat_from_euler((x, y, 0.0))

    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors along the pen and along the target, each (3,)."""
        pen_top, pen_bottom = self.pen_ends
        target_top, target_bottom = self.target_ends
        return (
            (pen_top - pen_bottom) / self.pen_length,
            (target_top - target_bottom) / self.target_length,
        )

    def observation(self) -> np.ndarray:
        pen, target = self.directions()
        return np.concatenate(
            (
                self.qpos[:-6],
                self.pen,
                self.qvel[-6:],
                pen,
                target,
                self.pen - self.centre,
                pen - target,
            )
        )

    def reward(self) -> tuple[float, bool]:
        pen, target = self.directions()
        distance, similarity = math.dist(self.pen, self.centre), float(pen @ target)
        reward = similarity - distance
        near = distance < 0.075
        if near and similarity > 0.9:
            reward += 10
        if near and similarity > 0.95:
            reward += 50
        if self.failed():
            reward -= 5
        return reward, near and similarity > 0.95

    def failed(self) -> bool:
        return bool(self.pen[2] < self.drop_height)


class HammerEnv(AdroitEnv):
    """Lift the hammer and drive the nail into the board."""

    name = "hammer"
    obs_dim = 46

    def bind_views(self) -> None:
        super().bind_views()
        self.palm, self.hammer = self.site("S_grasp"), self.body("Object")
        self.tool, self.nail = self.site("tool"), self.site("S_target")
        self.nail_goal = self.site("nail_goal")
        self.hammer_matrix = self.data.xmat[self.model.body("Object").id]
        self.impact = self.data.sensor("S_nail").data  # N

    def place_objects(self) -> None:
        self.model.body("nail_board").pos[2] = self.np_random.uniform(0.1, 0.25)

    def observation(self) -> np.ndarray:
        return np.concatenate(
            (
                self.qpos[:-6],
                np.maximum(np.minimum(self.qvel[-6:], 1.0), -1.0),
                self.palm,
                self.hammer,
                euler_from_matrix(self.hammer_matrix),
                self.nail,
                np.maximum(np.minimum(self.impact, 1.0), -1.0),
            )
        )

    def reward(self) -> tuple[float, bool]:
        remaining = math.dist(self.nail, self.nail_goal)
        reward = (
            -0.1 * math.dist(self.palm, self.hammer)
            - math.dist(self.tool, self.nail)
            - 10 * remaining
            - 0.01 * math.sqrt(self.qvel @ self.qvel)
        )
        if self.hammer[2] > 0.04 and self.tool[2] > 0.04:
            reward += 2
        if remaining < 0.02:
            reward += 25
        if remaining < 0.01:
            reward += 75
        return reward, remaining < 0.01


class DoorEnv(AdroitEnv):
    """Unlatch the door and swing it open."""

    name = "door"
    obs_dim = 39

    def bind_views(self) -> None:
        super().bind_views()
        self.palm, self.handle = self.site("S_grasp"), self.site("S_handle")
        self.hinge = self.model.joint("door_hinge").qposadr[0]

    def place_objects(self) -> None:
        low, high = (-0.3, 0.25, 0.252), (-0.2, 0.35, 0.35)
        self.model.body("frame").pos[:] = self.np_random.uniform(low, high)

    def observation(self) -> np.ndarray:
        angle = self.qpos[self.hinge]
        return np.concatenate(
            (
                self.qpos[1:-2],
                self.qpos[-1:],
                (angle,),
                self.palm,
                self.handle,
                self.palm - self.handle,
                (1.0 if angle > 1.0 else -1.0,),
            )
        )

    def reward(self) -> tuple[float, bool]:
        angle = float(self.qpos[self.hinge])
        reward = (
            -0.1 * math.dist(self.palm, self.handle)
            - 0.1 * (angle - 1.57) ** 2
            - 1e-5 * float(self.qvel @ self.qvel)
        )
        if angle > 0.2:
            reward += 2
        if angle > 1.0:
            reward += 8
        if angle > 1.35:
            reward += 10
        return reward, angle >= 1.35


class RelocateEnv(AdroitEnv):
    """Pick up the ball and carry it to a target in the air."""

    name = "relocate"
    obs_dim = 39

    def bind_views(self) -> None:
        super().bind_views()
        self.palm, self.ball = self.site("S_grasp"), self.body("Object")
        self.target = self.site("target")

    def place_objects(self) -> None:
        draw = self.np_random.uniform
        self.model.body("Object").pos[:2] = draw((-0.15, -0.15), (0.15, 0.3))
        self.model.site("target").pos[:] = draw((-0.2, -0.2, 0.15), (0.2, 0.2, 0.35))

    def observation(self) -> np.ndarray:
        return np.concatenate(
            (
                self.qpos[:-6],
                self.palm - self.ball,
                self.palm - self.target,
                self.ball - self.target,
            )
        )

    def reward(self) -> tuple[float, bool]:
        distance = math.dist(self.ball, self.target)
        reward = -0.1 * math.dist(self.palm, self.ball)
        if self.ball[2] > 0.04:
            reward += 1.0 - 0.5 * math.dist(self.palm, self.target) - 0.5 * distance
        if distance < 0.1:
            reward += 10
        if distance < 0.05:
            reward += 20
        return reward, distance < 0.1
