"""Comparison with recordings of the old engine (MuJoCo 2.1.0 through mujoco-py).

A recording `<task>.npz` holds compiled model constants (`model_*`, `opt_*`) and, per seed s,
an episode under random actions: `s<s>_qpos0, qvel0, qacc_warmstart0` and, after every step,
`observations, rewards, dones, qpos, qvel, qacc_warmstart`. Where resets move parts of the model or
draw a goal, `s<s>_model_*` and `s<s>_target_goal` tell where they were. A file of probes holds
single steps from hand-placed states, named `<task>/p<i>/*`.

Where the old engine is installed, an episode can be recorded at once and compared:

    python -m d4rl_envs.parity TASK [TASK ...] --legacy_python PATH
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d4rl_envs.base import MujocoEnv
from d4rl_envs.errors import UserError
from d4rl_envs.legacy import LegacyEnvVector
from d4rl_envs.registration import make
from d4rl_envs.tasks import D4RLTask, get_task

# what resets move in a model
_PLACEMENT = ("body_pos", "body_quat", "site_pos")

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
        placement = {name: own[f"model_{name}"] for name in _PLACEMENT}
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
        placement = {name: own[name] for name in _PLACEMENT}
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


def record(task: D4RLTask, steps: int, seed: int, python: str = "") -> Episode:
    """Play an episode of uniformly random actions in the old engine.

    Args:
        steps: How many; recording goes on after a done.
        seed: Of the environment and of the actions.
        python: The interpreter that has the old engine, see `legacy.legacy_python`.
    """
    actions = np.random.default_rng(seed).uniform(-1.0, 1.0, (steps, task.act_dim))
    vector = LegacyEnvVector(task, [seed], python)
    try:
        vector.reset()
        states = [vector.state()]
        results = []
        for action in actions:
            results.append(vector.step(action[None])[:3])
            states.append(vector.state())
    finally:
        vector.close()
    observations, rewards, dones = (np.concatenate(v) for v in zip(*results, strict=True))
    first = states[0]
    moved = {name: values for name, values in first.items() if name in _PLACEMENT}
    start = Start((first["qpos"], first["qvel"], first["warmstart"]), moved, first.get("goal"))
    after = (np.stack([s[name] for s in states[1:]]) for name in ("qpos", "qvel", "warmstart"))
    return Episode(start, actions, observations, rewards, dones, *after)


# steps of an open loop that the table shows
TABLE_STEPS = (1, 10, 40, 200)


def table_head() -> str:
    """The first two lines of a Markdown table; see `table_row`."""
    first, *later = (f"step {step}" for step in TABLE_STEPS)
    header = ["task", "any single step", "wrong dones", f"open loop, {first}", *later]
    return f"| {' | '.join(header)} |\n|{'---|' * len(header)}"


def table_row(task: D4RLTask, recorded: Sequence[Episode]) -> str:
    """The largest differences in observation and reward over all episodes, absolute."""
    env = make(task)
    single = [single_steps(env, episode) for episode in recorded]
    loops = [open_loop(env, episode) for episode in recorded]
    worst = _pair(*(max(getattr(d, k).max() for d in single) for k in ("observation", "reward")))
    wrong_dones = sum(int(d.done.sum()) for d in single)
    cells = [task.name, worst, str(wrong_dones), *(_at_step(loops, step) for step in TABLE_STEPS)]
    return f"| {' | '.join(cells)} |"


def _at_step(differences: Sequence[Differences], step: int) -> str:
    """Observation and reward at one step; a dash where the recordings are shorter."""
    if any(len(d.reward) < step for d in differences):
        return "-"
    observation = max(d.observation[step - 1] for d in differences)
    return _pair(observation, max(d.reward[step - 1] for d in differences))


def _pair(*values: float) -> str:
    return ", ".join("0" if value == 0 else f"{value:.0e}" for value in values)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare tasks with the old engine, as a Markdown table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m d4rl_envs.parity",
        description="Play the same actions from the same states in the old engine and in this one.",
    )
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--legacy_python", default="", help="interpreter with the old engine")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args(argv)
    try:
        tasks = [get_task(name) for name in args.tasks]
        if args.steps < 1 or min(args.seeds) < 0:
            raise UserError("--steps must be at least 1 and --seeds not negative")
        sys.stdout.write(table_head() + "\n")
        for task in tasks:
            recorded = [record(task, args.steps, seed, args.legacy_python) for seed in args.seeds]
            sys.stdout.write(table_row(task, recorded) + "\n")
            sys.stdout.flush()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
