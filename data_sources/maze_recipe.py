"""The planner that collected D4RL's maze2d data (Fu et al. 2020, arXiv 2004.07219).

A ball is driven to one random cell after another. Rewards are those of the task's own, fixed goal.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import hypot

import numpy as np

from d4rl_envs.maze2d import GOAL_RADIUS, MAZES, cells
from d4rl_envs.registration import make
from data_sources.blocks import Block, block_sizes, empty_block
from data_sources.maze_planner import BALL_MOVES, GridPlanner
from tasks import Task

POSITION_GAIN, VELOCITY_GAIN = 10.0, -1.0
ACTION_NOISE = 0.5
GOAL_NOISE, WAYPOINT_NOISE = 0.1, 0.2
# a waypoint is reached if the ball is this close and moved less than this in the last step
REACHED = 0.1


class BallDriver:
    """A PD controller that steers the ball along waypoints to a goal.

    Attributes:
        goal: (2,) goal with noise; the planner heads for the centre of its cell.
    """

    def __init__(self, maze: str, rng: np.random.Generator) -> None:
        self._rng = rng
        self._planner = GridPlanner(maze, BALL_MOVES)
        self._goals = np.concatenate((cells(maze, "O"), cells(maze, "G")))

    def new_goal(self, x: float, y: float) -> None:
        """Draw a goal and plan a route to it from (x, y)."""
        cell = self._goals[self._rng.integers(len(self._goals))]
        self.goal = cell + self._rng.uniform(-GOAL_NOISE, GOAL_NOISE, 2)
        start = (round(x), round(y))
        row, column = cell.tolist()
        waypoints = np.array(self._planner.route(start, (row, column)), float)
        waypoints[:-1] -= self._rng.uniform(0, WAYPOINT_NOISE, (len(waypoints) - 1, 2))
        self._waypoints: list[tuple[float, float]] = list(map(tuple, waypoints.tolist()))
        self._next = 0
        self._last = (float(start[0]), float(start[1]))

    def act(self, x: float, y: float, vx: float, vy: float) -> tuple[float, float, bool]:
        """Both forces, in [-1, 1], and whether the goal is reached."""
        slow = hypot(x - self._last[0], y - self._last[1]) < REACHED
        self._last = (x, y)
        goal = self._waypoints[-1]
        reached = slow and hypot(x - goal[0], y - goal[1]) < REACHED
        wx, wy = goal if reached else self._waypoints[self._next]
        if not reached and slow and hypot(x - wx, y - wy) < REACHED:
            self._next += 1
        ax = POSITION_GAIN * (wx - x) + VELOCITY_GAIN * vx
        ay = POSITION_GAIN * (wy - y) + VELOCITY_GAIN * vy
        return min(max(ax, -1.0), 1.0), min(max(ay, -1.0), 1.0), reached


def planner_rows(task: Task, steps: int, seed: int) -> Iterator[Block]:
    """Rows of a maze2d dataset; after a goal, the ball continues from its current position."""
    rng = np.random.default_rng([seed, 1])
    env = make(task)
    driver = BallDriver(MAZES[task.layout], rng)
    fixed_goal = cells(MAZES[task.layout], "G")[0]
    obs, _ = env.reset(seed=seed)
    driver.new_goal(*obs[:2].tolist())
    elapsed = 0
    for size in block_sizes(steps):
        block = empty_block(task, size) | {"infos/goal": np.empty((size, 2), np.float32)}
        noise = ACTION_NOISE * rng.standard_normal((size, 2))
        for row in range(size):
            x, y, vx, vy = obs.tolist()
            *force, reached = driver.act(x, y, vx, vy)
            block["observations"][row] = obs
            block["actions"][row] = np.clip(force + noise[row], -1.0, 1.0)
            block["infos/goal"][row] = driver.goal
            ended = block["timeouts"][row] = reached or elapsed >= task.horizon
            obs, _, _ = env.advance(block["actions"][row].astype(np.float64))
            elapsed += 1
            if ended:
                driver.new_goal(*obs[:2].tolist())
                elapsed = 0
        away = np.linalg.norm(block["observations"][:, :2] - fixed_goal, axis=1)
        block["rewards"][:] = away <= GOAL_RADIUS
        yield block
