"""Euler angles (x, y, z) in the convention of the Adroit tasks: R = Rx(x) Ry(y) Rz(z).

Quaternions are (w, x, y, z); angles are in rad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from d4rl_envs.engine import mujoco


def quat_from_euler(angles: Sequence[float]) -> np.ndarray:
    """Quaternion (4,) of three Euler angles."""
    quat = np.array([1.0, 0.0, 0.0, 0.0])
    for axis, angle in zip(np.eye(3), angles, strict=True):
        turn = np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, axis, angle)
        mujoco.mju_mulQuat(quat, quat.copy(), turn)
    return quat


def euler_from_matrix(matrix: np.ndarray) -> tuple[float, float, float]:
    """Euler angles of a rotation matrix (9,), row by row; y is in [-pi/2, pi/2].

    At y = +-pi/2 only x + z or x - z is determined, and x is 0.
    """
    m00, m01, m02, m10, m11, m12, _, _, m22 = matrix.tolist()
    cos_y = math.hypot(m12, m22)
    y = math.atan2(m02, cos_y)
    if cos_y > 4 * np.finfo(float).eps:
        return math.atan2(-m12, m22), y, math.atan2(-m01, m00)
    return 0.0, y, math.atan2(m10, m11)
