"""What MuJoCo 2.1.0 computed differently: two patches of a compiled model.

The D4RL datasets and reference scores come from MuJoCo 2.1.0. Newer releases integrate the same
equations but derive two constants differently; with the old constants put back they step as the
old engine did.

1. A capsule's inertia. MuJoCo 2.1.0 gave a capsule of radius r and half-length h the mass and
   inertia of a cylinder of length 2h + r, instead of a cylinder of length 2h with two hemispheres.
2. The translational inverse weight of maze2d's ball, which scales the softness of its contacts.
   The ball moves along two axes only; the old engine averaged over all three.
"""

from __future__ import annotations

import mujoco
import numpy as np

from utils import UserError

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
