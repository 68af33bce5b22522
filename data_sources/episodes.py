"""Recipes that run whole episodes: random actions, Adroit experts, the ant in its maze."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from d4rl_envs.antmaze import GOAL_RADIUS, SCALE, AntMazeEnv, positions
from d4rl_envs.base import MujocoEnv
from d4rl_envs.maze2d import cells
from data_sources.behaviour_policy import AntPolicy
from data_sources.blocks import Block, block_sizes, empty_block
from data_sources.maze_planner import ANT_MOVES, Cell, GridPlanner
from tasks import Task

ANT_ACTION_NOISE = 0.2
# waypoints are up to this many metres beyond their cell's centre, redrawn at every step
ANT_WAYPOINT_NOISE = 1.0


class AntBehaviour:
    """The goal-reaching ant, guided cell by cell by a planner.

    In diverse tasks, start and goal of every episode are random cells; in the others they are the
    task's own.

    Attributes:
        goal: (2,) goal of the current episode, in m.
    """

    def __init__(
        self, task: Task, env: AntMazeEnv, policy: AntPolicy, rng: np.random.Generator
    ) -> None:
        self._env, self._policy, self._rng = env, policy, rng
        self._planner = GridPlanner(env.maze, ANT_MOVES)
        self._free = positions(env.maze, "ROG")
        self._start_cell = cells(env.maze, "R")[0]
        self._diverse = "diverse" in task.name

    def begin(self, obs: np.ndarray) -> np.ndarray:
        """Begin an episode that was reset to `obs`; returns its first observation."""
        self.goal = self._env.goal
        if not self._diverse:
            return obs
        qpos, qvel = self._env.qpos.copy(), self._env.qvel.copy()
        start, goal = self._free[self._rng.integers(len(self._free), size=2)]
        qpos[:2] += start
        self._env.set_state(qpos, qvel)
        # the same noise as that of the environment's own goals
        self.goal = goal + self._rng.uniform(0, 1, 2) + self._rng.uniform(0, 0.5, 2)
        return self._env.observation()

    def act(self, obs: np.ndarray) -> np.ndarray:
        """An action (8,) for an observation (29,), with noise."""
        here, goal_cell = self._cell(obs[:2]), self._cell(self.goal)
        next_cell = self._planner.route(here, goal_cell)[0]
        waypoint = self.goal
        if next_cell != goal_cell:
            centre = SCALE * (np.array(next_cell) - self._start_cell)[::-1]
            waypoint = centre + self._rng.uniform(0, ANT_WAYPOINT_NOISE, 2)
        action = self._policy.sample(obs, waypoint - obs[:2], self._rng)
        return action + ANT_ACTION_NOISE * self._rng.standard_normal(action.shape)

    def done(self, obs: np.ndarray) -> bool:
        """Whether the goal of a diverse task is reached, which ends the episode."""
        return self._diverse and bool(np.linalg.norm(obs[:2] - self.goal) <= GOAL_RADIUS)

    def _cell(self, xy: np.ndarray) -> Cell:
        """(row, column) of the cell whose centre was passed last, coming from the origin."""
        column, row = np.floor(np.maximum(xy, 0.0) / SCALE).astype(int).tolist()
        return int(row + self._start_cell[0]), int(column + self._start_cell[1])


def episode_rows(
    task: Task, env: MujocoEnv, act: Callable[[np.ndarray], np.ndarray], steps: int, seed: int,
    begin: Callable[[np.ndarray], np.ndarray] = lambda obs: obs,
    done: Callable[[np.ndarray], bool] = lambda obs: False,
) -> Iterator[Block]:  # fmt: skip
    """Rows of one episode after another; the last one may be unfinished.

    Args:
        act: An action (act_dim,) for an observation (obs_dim,); it is clipped to [-1, 1].
        begin: Begins an episode that was reset to an observation; returns its first observation.
        done: Whether to end the episode with a timeout.
    """
    obs = begin(env.reset(seed=seed)[0])
    elapsed = 0
    for size in block_sizes(steps):
        block = empty_block(task, size)
        for row in range(size):
            block["observations"][row] = obs
            block["actions"][row] = np.clip(act(obs), -1.0, 1.0)
            # apply the stored float32 action
            obs, reward, terminated = env.advance(block["actions"][row].astype(np.float64))
            elapsed += 1
            ended = terminated or elapsed == task.horizon or done(obs)
            block["rewards"][row], block["terminals"][row] = reward, terminated
            block["timeouts"][row] = ended and not terminated
            if "next_observations" in block:
                block["next_observations"][row] = obs
            if ended:
                obs = begin(env.reset()[0])
                elapsed = 0
        yield block
