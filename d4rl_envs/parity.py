"""Comparison with recordings of the old engine (MuJoCo 2.1.0 through mujoco-py).

With the old engine installed, this command records and compares:

    python -m d4rl_envs.parity TASK [TASK ...] --legacy_python PATH
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d4rl_envs.antmaze import AntMazeEnv
from d4rl_envs.base import MujocoEnv
from d4rl_envs.errors import UserError
from d4rl_envs.hand import AdroitEnv
from d4rl_envs.legacy import LegacyEnvVector
from d4rl_envs.registration import make
from d4rl_envs.tasks import D4RLTask, get_task

# arrays of the model that resets change
PLACEMENT = ("body_pos", "body_quat", "site_pos")

State = tuple[np.ndarray, np.ndarray, np.ndarray]  # qpos (nq,), qvel (nv,), warm start (nv,)


@dataclass(frozen=True)
class Start:
    """Initial state, and what the reset moved: the goal and arrays of the model by name."""

    state: State
    placement: dict[str, np.ndarray]
    goal: np.ndarray | None


@dataclass(frozen=True)
class Recording:
    """T recorded steps from one reset; recording continued after a done.

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
        """The state after step t; the initial state for t < 0."""
        return (self.qpos[t], self.qvel[t], self.warmstart[t]) if t >= 0 else self.start.state


@dataclass(frozen=True)
class Differences:
    """(T,) each: largest absolute difference in observation and reward, whether dones differ."""

    observation: np.ndarray
    reward: np.ndarray
    done: np.ndarray


def restore(env: MujocoEnv, start: Start) -> None:
    """Start an episode from a recorded state."""
    env.reset(seed=0)
    if isinstance(env, AdroitEnv):
        for name, values in start.placement.items():
            getattr(env.model, name)[:] = values
    if isinstance(env, AntMazeEnv) and start.goal is not None:
        env.goal = start.goal
    env.set_state(*start.state)


def open_loop(env: MujocoEnv, recording: Recording) -> Differences:
    """Differences when the recorded actions are played from the recorded start."""
    restore(env, recording.start)
    return _differences([env.advance(action) for action in recording.actions], recording)


def single_steps(env: MujocoEnv, recording: Recording) -> Differences:
    """Differences when each step is taken from the recorded state before it."""
    restore(env, recording.start)
    results = []
    for t, action in enumerate(recording.actions):
        # rewards may depend on the previous Cartesian positions, which lag by one physics step;
        # repeating the previous step from its recorded state restores them
        env.set_state(*recording.state(t - 2))
        if t > 0:
            env.advance(recording.actions[t - 1])
            env.qpos[:], env.qvel[:], env.warmstart[:] = recording.state(t - 1)
        results.append(env.advance(action))
    return _differences(results, recording)


def _differences(
    results: list[tuple[np.ndarray, float, bool]], recording: Recording
) -> Differences:
    observations, rewards, dones = (np.array(values) for values in zip(*results, strict=True))
    return Differences(
        np.abs(observations - recording.observations).max(axis=1),
        np.abs(rewards - recording.rewards),
        dones != recording.dones,
    )


def record(task: D4RLTask, steps: int, seed: int, python: str = "") -> Recording:
    """Play uniformly random actions in the old engine.

    Args:
        steps: Number of steps; recording continues after a done.
        seed: Seed of the environment and of the actions.
        python: Interpreter of the old engine, see `legacy.legacy_python`.
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
    moved = {name: values for name, values in first.items() if name in PLACEMENT}
    start = Start((first["qpos"], first["qvel"], first["warmstart"]), moved, first.get("goal"))
    after = (np.stack([s[name] for s in states[1:]]) for name in ("qpos", "qvel", "warmstart"))
    return Recording(start, actions, observations, rewards, dones, *after)


# the open-loop steps in the table
TABLE_STEPS = (1, 10, 40, 200)


def table_row(task: D4RLTask, recorded: Sequence[Recording]) -> str:
    """Largest absolute differences in observation and reward over all recordings of a task.

    A dash where a recording is shorter.
    """
    env = make(task)
    single = [single_steps(env, recording) for recording in recorded]
    loops = [open_loop(env, recording) for recording in recorded]
    worst = _pair(*(max(getattr(d, k).max() for d in single) for k in ("observation", "reward")))
    wrong_dones = sum(int(d.done.sum()) for d in single)
    cells = [task.name, worst, str(wrong_dones)]
    for last in (step - 1 for step in TABLE_STEPS):
        reached = [(d.observation[last], d.reward[last]) for d in loops if len(d.done) > last]
        cells.append(_pair(*np.max(reached, axis=0)) if len(reached) == len(loops) else "-")
    return f"| {' | '.join(cells)} |"


def _pair(*values: float) -> str:
    return ", ".join("0" if value == 0 else f"{value:.0e}" for value in values)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare tasks with the old engine and print a Markdown table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m d4rl_envs.parity",
        description="Play the same actions from the same states in the old and the new engine.",
    )
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--legacy_python", default="", help="Python interpreter of the old engine "
                        "(default: $ODT_LEGACY_PYTHON, else .venv-legacy/bin/python)")  # fmt: skip
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="default: 0 1")
    args = parser.parse_args(argv)
    try:
        tasks = [get_task(name) for name in args.tasks]
        if args.steps < 1 or min(args.seeds) < 0:
            raise UserError("--steps must be at least 1 and --seeds must not be negative")
        first, *later = (f"step {step}" for step in TABLE_STEPS)
        head = ["task", "any single step", "wrong dones", f"open loop, {first}", *later]
        sys.stdout.write(f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n")
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
