"""What MuJoCo 2.1.0 computed differently: two patches of a compiled model, one of its steps.

The D4RL datasets and reference scores come from MuJoCo 2.1.0. Newer releases integrate the same
equations but derive two constants differently, and turn bodies by angles that the old engine
dropped; with all three put back they step as the old engine did.

1. A capsule's inertia. MuJoCo 2.1.0 gave a capsule of radius r and half-length h the mass and
   inertia of a cylinder of length 2h + r, instead of a cylinder of length 2h with two hemispheres.
2. The translational inverse weight of maze2d's ball, which scales the softness of its contacts.
   The ball moves along two axes only; the old engine averaged over all three.
3. Tiny rotations. A hinge turned by less than about 2e-8 rad did not turn its body, as if a
   rotation whose quaternion begins with 1, after rounding, were none (recorded steps put the limit
   between 1.3e-8 and 3.0e-8). The objects of the Adroit hand start at angle 0 and rest near it;
   contacts magnify what is dropped.
"""

from __future__ import annotations

import mujoco
import numpy as np

from d4rl_envs.errors import UserError

# rad; the cosine of half of it, 1 - 2^-54, is the smallest that rounds to 1
NULL_ROTATION = 2.0**-25.5

_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)
_SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
_CAPSULE = int(mujoco.mjtGeom.mjGEOM_CAPSULE)


def capsules_as_cylinders(
    model: mujoco.MjModel, spec: mujoco.MjSpec, total_mass: float | None = None
) -> None:
    """Recompute, in place, every body's mass and inertia from its geoms as MuJoCo 2.1.0 did.

    Args:
        model: Compiled from `spec`; its geoms on moving bodies are named spheres and capsules.
        spec: Holds what compilation drops: the geoms' densities (kg/m^3).
        total_mass: If given, masses and inertias are scaled to this sum (kg).

    Raises:
        UserError: a moving body has a geom of another shape.
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
    # everything derived from masses: subtree masses, inverse weights, statistics
    mujoco.mj_setConst(model, mujoco.MjData(model))


def _mass_and_inertia(geom: mujoco.MjModel, density: float) -> tuple[float, np.ndarray]:
    """Mass and principal moments of one geom in its own frame (a capsule lies along z)."""
    radius, half_length = geom.size[0], geom.size[1]
    if geom.type[0] == _SPHERE:
        mass = density * 4 / 3 * np.pi * radius**3
        return mass, np.full(3, 2 / 5 * mass * radius**2)
    if geom.type[0] == _CAPSULE:
        length = 2 * half_length + radius
        mass = density * np.pi * radius**2 * length
        across = mass * (3 * radius**2 + length**2) / 12
        return mass, np.array([across, across, mass * radius**2 / 2])
    raise UserError(f"geom {geom.name}: only spheres and capsules have the old engine's inertia")


def _set_inertia(
    model: mujoco.MjModel, body: int, geoms: np.ndarray, masses: np.ndarray, inertias: np.ndarray
) -> None:
    """Combine geoms (masses (k,), principal moments (k, 3)) into a body's inertial frame."""
    positions, quats = model.geom_pos[geoms], model.geom_quat[geoms]
    model.body_mass[body] = masses.sum()
    if len(geoms) == 1:  # the geom's own frame, its moments already in descending order
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
    """Average a planar ball's translational inverse weight over three axes, not its two."""
    model.body_invweight0[model.body(body).id, 0] *= 2 / 3


class NullRotations:
    """Keeps hinges from turning by angles that the old engine dropped.

    A hinge turns its body by its angle less that of the reference pose, `model.qpos0`. Where the
    two are made equal the body does not turn, while limits and the integration see the angle.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.qpos, self.qpos0 = data.qpos, model.qpos0
        self.reference = self.qpos0.copy()
        self.limits = np.full(model.nq, -1.0)  # below any angle: not a hinge
        self.limits[model.jnt_qposadr[model.jnt_type == _HINGE]] = NULL_ROTATION

    def update(self) -> None:
        """To be called before every physics step and forward pass."""
        null = np.abs(self.qpos - self.reference) <= self.limits
        self.qpos0[:] = np.where(null, self.qpos, self.reference)
