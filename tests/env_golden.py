"""Recordings of the old engine: the full ones beside the checkout, else the subset kept here.

The subset has one seed and 40 steps of each recording, the same constants and the same probes.
"""

from functools import cache

import mujoco

from d4rl_envs.parity import Episode, Probe, episodes, load_arrays, probes
from tests.conftest import GOLDEN, SHARED

# tasks with a recording, by family
RECORDED = {
    "hopper": ["hopper-medium-v2"],
    "halfcheetah": ["halfcheetah-medium-v2"],
    "walker2d": ["walker2d-medium-v2"],
    "ant": ["ant-medium-v2"],
    "maze2d": ["maze2d-open-v0", "maze2d-umaze-v1", "maze2d-medium-v1", "maze2d-large-v1"],
    "antmaze": ["antmaze-umaze-v2", "antmaze-medium-play-v2", "antmaze-large-diverse-v2"],
    "pen": ["pen-human-v1"],
    "hammer": ["hammer-human-v1"],
    "door": ["door-human-v1"],
    "relocate": ["relocate-human-v1"],
}


def _path(name: str):
    full = SHARED / "golden" / name
    return full if full.exists() else GOLDEN / "envs" / name.removeprefix("envs/")


@cache
def recording(task: str) -> dict:
    return load_arrays(_path(f"envs/{task}.npz"))


def recorded_episodes(task: str) -> list[Episode]:
    return list(episodes(recording(task)))


def recorded_probes(task: str) -> list[Probe]:
    return list(probes(load_arrays(_path("probes.npz")), task))


def model_differences(env, task: str) -> dict[str, float]:
    """Largest absolute difference of each recorded model constant (inf: another shape).

    Geoms that are meshes are left out: they are for pictures, and mesh files are read differently.
    """
    worst = {}
    meshes = recording(task)["model_geom_type"] == int(mujoco.mjtGeom.mjGEOM_MESH)
    for name, expected in recording(task).items():
        group, _, attribute = name.partition("_")
        holder = {"model": env.model, "opt": env.model.opt}.get(group)
        if holder is None or not hasattr(holder, attribute):
            continue
        got = getattr(holder, attribute)
        if expected.shape and got.shape != expected.shape:
            worst[name] = float("inf")
            continue
        if attribute.startswith("geom_"):
            got, expected = got[~meshes], expected[~meshes]
        worst[name] = float(abs(got - expected).max(initial=0.0))
    return worst
