"""Comparison with recordings of the old engine (MuJoCo 2.1.0 through mujoco-py).

A recording `<task>.npz` holds compiled model constants (`model_*`, `opt_*`) and, per seed s,
an episode under random actions: `s<s>_qpos0, qvel0, qacc_warmstart0` and, after every step,
`observations, rewards, dones, qpos, qvel, qacc_warmstart`. Where resets move parts of the model or
draw a goal, `s<s>_model_*` and `s<s>_target_goal` tell where they were. A file of probes holds
single steps from hand-placed states, named `<task>/p<i>/*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from envs.base import MujocoEnv
from utils import UserError

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # qpos (nq,), qvel (nv,), warm start (nv,)


@dataclass(frozen=True)
class Start:
    """A state and what the reset moved: the goal, and positions in the model by attribute name."""

    state: State
    placement: dict[str, np.ndarray]
    goal: np.ndarray | None


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T steps; recording went on after a done.

    Attributes:
        actions, observations: (T, act_dim) and (T, obs_dim).
        rewards, dones: (T,).
        qpos, qvel, warmstart: (T, nq) and (T, nv), after each step.
    """

    start: Start
    actions: np.ndarray
    observations: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray
    warmstart: np.ndarray

    def state(self, t: int) -> State:
        """The state after step t; that of the start for t < 0."""
        return (self.qpos[t], self.qvel[t], self.warmstart[t]) if t >= 0 else self.start.state


@dataclass(frozen=True)
class Probe:
    """One recorded step from a hand-placed state."""

    start: Start
    action: np.ndarray
    observation: np.ndarray
    reward: float
    done: bool
    achieved: bool


@dataclass(frozen=True)
class Differences:
    """Per step: the largest absolute difference in observation, that in reward, dones differ."""

    observation: np.ndarray
    reward: np.ndarray
    done: np.ndarray


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a recording.

    Raises:
        UserError: no such file, or not a readable .npz.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable recording ({error})") from None


def episodes(arrays: dict[str, np.ndarray]) -> Iterator[Episode]:
    """The episodes of a recording, seed by seed."""
    prefixes = sorted({name.split("_")[0] for name in arrays if name.endswith("_qvel0")})
    for prefix in prefixes:
        own = {k.removeprefix(f"{prefix}_"): v for k, v in arrays.items() if k.startswith(prefix)}
        state = (own["qpos0"], own["qvel0"], own["qacc_warmstart0"])
        placement = {name: own[f"model_{name}"] for name in ("body_pos", "body_quat", "site_pos")}
        yield Episode(
            Start(state, placement, own.get("target_goal")),
            *(own[name] for name in ("actions", "observations", "rewards", "dones")),
            *(own[name] for name in ("qpos", "qvel", "qacc_warmstart")),
        )


def probes(arrays: dict[str, np.ndarray], task: str) -> Iterator[Probe]:
    """The probes of one task."""
    for prefix in sorted(
        {name.rsplit("/", 1)[0] for name in arrays if name.startswith(f"{task}/")}
    ):
        own = {k.rsplit("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{prefix}/")}
        state = (own["qpos0"], own["qvel0"], own["warm0"])
        placement = {name: own[name] for name in ("body_pos", "body_quat", "site_pos")}
        yield Probe(
            Start(state, placement, own.get("target_goal")),
            own["action"],
            own["obs"],
            float(own["reward"]),
            bool(own["done"]),
            bool(own["goal_achieved"]),
        )


def restore(env: MujocoEnv, start: Start) -> None:
    """Begin an episode in a recorded state instead of a drawn one."""
    env.reset(seed=0)
    env.place(start.placement, start.goal)
    env.set_state(*start.state)


def open_loop(env: MujocoEnv, episode: Episode) -> Differences:
    """Differences along the recorded actions, from the recorded start only."""
    restore(env, episode.start)
    return _differences([env.advance(action) for action in episode.actions], episode)


def single_steps(env: MujocoEnv, episode: Episode) -> Differences:
    """Differences of every recorded step, each taken from the recorded state before it."""
    restore(env, episode.start)
    results = []
    for t, action in enumerate(episode.actions):
        # rewards may difference Cartesian positions, which lag by one physics step: taking the
        # step before from its own recorded state brings them to where they were
        env.set_state(*episode.state(t - 2))
        if t > 0:
            env.advance(episode.actions[t - 1])
            env.qpos[:], env.qvel[:], env.warmstart[:] = episode.state(t - 1)
        results.append(env.advance(action))
    return _differences(results, episode)


def _differences(results: list[tuple[np.ndarray, float, bool]], episode: Episode) -> Differences:
    observations, rewards, dones = (np.array(values) for values in zip(*results, strict=True))
    return Differences(
        np.abs(observations - episode.observations).max(axis=1),
        np.abs(rewards - episode.rewards),
        dones != episode.dones,
    )
