"""Recordings of the old engine: the full ones next to the checkout, else the subset in golden/.

The subset has one seed and 40 steps of each recording, the same constants and the same probes.

A file `<task>.npz` contains compiled model constants (`model_*`, `opt_*`) and, per seed s, a
recording of random actions: `s<s>_qpos0, qvel0, qacc_warmstart0` and, after every step,
`observations, rewards, dones, qpos, qvel, qacc_warmstart`. If resets move parts of the model or
draw a goal, `s<s>_model_*` and `s<s>_target_goal` contain their positions.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from d4rl_envs.engine import mujoco
from d4rl_envs.parity import PLACEMENT, Recording, Start
from tests.conftest import GOLDEN, SHARED

# recorded tasks, by family
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
TASKS = [task for tasks in RECORDED.values() for task in tasks]


def _path(name: str):
    full = SHARED / "golden" / name
    return full if full.exists() else GOLDEN / "envs" / name.removeprefix("envs/")


def load_arrays(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@cache
def golden_arrays(task: str) -> dict[str, np.ndarray]:
    return load_arrays(_path(f"envs/{task}.npz"))


def golden_recordings(task: str) -> list[Recording]:
    """The recordings of a task, seed by seed."""
    arrays, found = golden_arrays(task), []
    prefixes = sorted({name.split("_")[0] for name in arrays if name.endswith("_qvel0")})
    for prefix in prefixes:
        own = {k.removeprefix(f"{prefix}_"): v for k, v in arrays.items() if k.startswith(prefix)}
        state = (own["qpos0"], own["qvel0"], own["qacc_warmstart0"])
        placement = {name: own[f"model_{name}"] for name in PLACEMENT}
        found.append(
            Recording(
                Start(state, placement, own.get("target_goal")),
                *(own[name] for name in ("actions", "observations", "rewards", "dones")),
                *(own[name] for name in ("qpos", "qvel", "qacc_warmstart")),
            )
        )
    return found


@dataclass(frozen=True)
class Probe:
    """A recorded step from a hand-placed state."""

    start: Start
    action: np.ndarray
    observation: np.ndarray
    reward: float
    done: bool
    achieved: bool


def golden_probes(task: str) -> list[Probe]:
    """The probes of a task, arrays named `<task>/p<i>/*`."""
    steps: dict[str, dict[str, np.ndarray]] = {}
    for path, array in load_arrays(_path("probes.npz")).items():
        owner, probe, name = path.split("/")
        if owner == task:
            steps.setdefault(probe, {})[name] = array
    return [
        Probe(
            Start(
                (own["qpos0"], own["qvel0"], own["warm0"]),
                {name: own[name] for name in PLACEMENT},
                own.get("target_goal"),
            ),
            own["action"],
            own["obs"],
            float(own["reward"]),
            bool(own["done"]),
            bool(own["goal_achieved"]),
        )
        for own in steps.values()
    ]


def model_differences(env, task: str) -> dict[str, float]:
    """Largest absolute difference of each recorded model constant (inf if the shape differs).

    Mesh geoms are left out: they only affect rendering, and mesh files are read differently.
    """
    worst = {}
    meshes = golden_arrays(task)["model_geom_type"] == int(mujoco.mjtGeom.mjGEOM_MESH)
    for name, expected in golden_arrays(task).items():
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
