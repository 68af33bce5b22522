"""Euler angles (x, y, z) as the Adroit tasks use them: R = Rx(x) Ry(y) Rz(z).

Quaternions are (w, x, y, z), matrices (3, 3) row by row, angles in rad.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np


def quat_from_euler(angles: Sequence[float]) -> np.ndarray:
    """The quaternion of three Euler angles: (4,)."""
    quat = np.array([1.0, 0.0, 0.0, 0.0])
    for axis, angle in zip(np.eye(3), angles, strict=True):
        turn = np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, axis, angle)
        mujoco.mju_mulQuat(quat, quat.copy(), turn)
    return quat


def euler_from_matrix(matrix: np.ndarray) -> tuple[float, float, float]:
    """Euler angles of a rotation matrix given as 9 numbers; y in [-pi/2, pi/2].

    Where y is +-pi/2 only x + z or x - z is determined, and x is 0.
    """
    m00, m01, m02, m10, m11, m12, _, _, m22 = matrix.tolist()
    cos_y = math.hypot(m12, m22)
    y = math.atan2(m02, cos_y)
    if cos_y > 4 * np.finfo(float).eps:
        return math.atan2(-m12, m22), y, math.atan2(-m01, m00)
    return 0.0, y, math.atan2(m10, m11)
