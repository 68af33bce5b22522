"""Patches that restore the dynamics of MuJoCo 2.1.0, the engine of D4RL's datasets and scores.

Newer releases integrate the same equations, but compute two constants and tiny rotations
differently. With these patches they step like MuJoCo 2.1.0 (the "old engine"):

1. Inertia of capsules. A capsule of radius r and half-length h had the mass and inertia of a
   cylinder of length 2h + r, instead of a cylinder of length 2h with two hemispheres.
2. Translational inverse weight of maze2d's ball, which scales the softness of its contacts. The
   ball moves along two axes; the old engine averaged over three.
3. Tiny rotations. A hinge turned by less than about 2e-8 rad did not turn its body, as if rotations
   whose quaternion begins with 1 after rounding were skipped (recorded steps put the limit between
   1.3e-8 and 3.0e-8). The objects of the Adroit hand start at angle 0 and rest near it, and
   contacts magnify the difference.
"""

from __future__ import annotations

import numpy as np

from d4rl_envs.engine import mujoco
from d4rl_envs.errors import UserError

# rad; the cosine of half this angle, 1 - 2^-54, is the smallest that rounds to 1
NULL_ROTATION = 2.0**-25.5

_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)
_SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
_CAPSULE = int(mujoco.mjtGeom.mjGEOM_CAPSULE)


def capsules_as_cylinders(
    model: mujoco.MjModel, spec: mujoco.MjSpec, total_mass: float | None = None
) -> None:
    """Recompute the mass and inertia of all bodies as in MuJoCo 2.1.0, in place.

    Args:
        model: Compiled from `spec`; the geoms of moving bodies are named spheres and capsules.
        spec: Source of the geoms' densities (kg/m^3), which the compiled model lacks.
        total_mass: If given, masses and inertias are scaled to this sum (kg).

    Raises:
        UserError: a moving body has a geom of another type.
    """
    densities = {geom.name: geom.density for geom in spec.geoms}
    for body in range(1, model.nbody):
        first = model.body_geomadr[body]
        geoms = range(first, first + model.body_geomnum[body])
        masses, inertias = zip(
            *(_mass_and_inertia(model.geom(i), densities[model.geom(i).name]) for i in geoms),
            strict=True,
        )
        _set_inertia(model, body, np.array(geoms), np.array(masses), np.array(inertias))
    if total_mass is not None:
        scale = total_mass / model.body_mass.sum()
        model.body_mass *= scale
        model.body_inertia *= scale
    # update all constants derived from masses: subtree masses, inverse weights, statistics
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _mass_and_inertia(geom: mujoco.MjModel, density: float) -> tuple[float, np.ndarray]:
    """Mass and principal moments of one geom in its own frame (capsules are aligned with z)."""
    radius, half_length = geom.size[0], geom.size[1]
    if geom.type[0] == _SPHERE:
        mass = density * 4 / 3 * np.pi * radius**3
        return mass, np.full(3, 2 / 5 * mass * radius**2)
    if geom.type[0] == _CAPSULE:
        length = 2 * half_length + radius
        mass = density * np.pi * radius**2 * length
        across = mass * (3 * radius**2 + length**2) / 12
        return mass, np.array([across, across, mass * radius**2 / 2])
    raise UserError(f"geom {geom.name}: not a sphere or capsule; no other type is supported")


def _set_inertia(
    model: mujoco.MjModel, body: int, geoms: np.ndarray, masses: np.ndarray, inertias: np.ndarray
) -> None:
    """Set a body's inertial frame from its geoms' masses (k,) and principal moments (k, 3)."""
    positions, quats = model.geom_pos[geoms], model.geom_quat[geoms]
    model.body_mass[body] = masses.sum()
    if len(geoms) == 1:  # in the geom's own frame, the moments are already in descending order
        moments, centre, quat = inertias[0], positions[0], quats[0]
    else:
        centre = masses @ positions / masses.sum()
        total = np.zeros((3, 3))
        for mass, inertia, offset, geom_quat in zip(
            masses, inertias, positions - centre, quats, strict=True
        ):
            rotation = np.empty(9)
            mujoco.mju_quat2Mat(rotation, geom_quat)
            axes = rotation.reshape(3, 3)
            total += axes @ np.diag(inertia) @ axes.T
            total += mass * (offset @ offset * np.eye(3) - np.outer(offset, offset))
        moments, vectors, quat = np.empty(3), np.empty(9), np.empty(4)
        mujoco.mju_eig3(moments, vectors, quat, total.ravel())  # sorts in descending order
    model.body_inertia[body] = moments
    model.body_ipos[body] = centre
    model.body_iquat[body] = quat


def planar_ball_weight(model: mujoco.MjModel, body: str) -> None:
    """Average a planar ball's translational inverse weight over three axes instead of two."""
    model.body_invweight0[model.body(body).id, 0] *= 2 / 3


class NullRotations:
    """Keeps hinges from turning their bodies by angles that the old engine skipped.

    A hinge turns its body by its angle minus that of the reference pose, `model.qpos0`. Setting the
    two equal leaves the body unturned, while joint limits and integration use the true angle.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self.reference = model.qpos0.copy()
        self.limits = np.full(model.nq, -1.0)  # below any angle: not a hinge
        self.limits[model.jnt_qposadr[model.jnt_type == _HINGE]] = NULL_ROTATION

    def apply(self, qpos: np.ndarray, qpos0: np.ndarray) -> None:
        """Update the model's `qpos0`; call it before every physics step and forward pass."""
        null = np.abs(qpos - self.reference) <= self.limits
        qpos0[:] = np.where(null, qpos, self.reference)
