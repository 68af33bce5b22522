"""Pen, Hammer, Door and Relocate of the Adroit hand as in D4RL (Rajeswaran et al. 2018).

Positions of bodies and sites, in observations and rewards, lag by the last physics step.
"""

from __future__ import annotations

import math

import numpy as np

from d4rl_envs.engine import mujoco
from d4rl_envs.hand import AdroitEnv


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
        mujoco.mju_euler2Quat(self.model.body("target").quat, (x, y, 0.0), "xyz")

    def placed(self) -> dict[str, np.ndarray]:
        return {"desired_orien": self.model.body("target").quat}

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


def euler_from_matrix(matrix: np.ndarray) -> tuple[float, float, float]:
    """Euler angles (x, y, z), in rad, of a rotation matrix (9,) = Rx(x) Ry(y) Rz(z), row by row.

    y is in [-pi/2, pi/2]. At its ends only x + z or x - z is determined, and x is 0.
    """
    m00, m01, m02, m10, m11, m12, _, _, m22 = matrix.tolist()
    cos_y = math.hypot(m12, m22)
    y = math.atan2(m02, cos_y)
    if cos_y > 4 * np.finfo(float).eps:
        return math.atan2(-m12, m22), y, math.atan2(-m01, m00)
    return 0.0, y, math.atan2(m10, m11)


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

    def placed(self) -> dict[str, np.ndarray]:
        return {"board_pos": self.model.body("nail_board").pos}

    def get_env_state(self) -> dict[str, np.ndarray]:
        return super().get_env_state() | {"target_pos": self.nail.copy()}

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

    def placed(self) -> dict[str, np.ndarray]:
        return {"door_body_pos": self.model.body("frame").pos}

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

    def placed(self) -> dict[str, np.ndarray]:
        """The ball's reference position: `qpos` counts from it, so that states are restored."""
        return {
            "obj_pos": self.model.body("Object").pos,
            "target_pos": self.model.site("target").pos,
        }

    def get_env_state(self) -> dict[str, np.ndarray]:
        hand = {"hand_qpos": self.qpos[:30].copy(), "palm_pos": self.palm.copy()}
        return super().get_env_state() | hand

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
