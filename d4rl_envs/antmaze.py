"""AntMaze as in D4RL: the ant walks through a maze of blocks to a goal drawn near the goal cell.

A maze is a string of rows separated by "/": # block, O free, R start, G goal. Cells are 4 m wide; x
runs along columns, y along rows, and R is the origin. Play and diverse tasks differ only in their
data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from d4rl_envs.engine import mujoco
from d4rl_envs.locomotion import LocomotionEnv
from d4rl_envs.maze2d import cells, checked_goal

MAZES = {
    "umaze": "#####/#ROO#/###O#/#GOO#/#####",
    "medium": "########/#RO##OO#/#OO#OOO#/##OOO###/#OO#OOO#/#O#OO#O#/#OOO#OG#/########",
    "large": (
        "############/#ROOO#OOOOO#/#O##O#O#O#O#/#OOOOOO#OOO#/#O####O###O#/#OO#O#OOOOO#/"
        "##O#O#O#O###/#OO#OOO#OGO#/############"
    ),
}
SCALE = 4.0  # m per cell
GOAL_RADIUS = 0.5  # m
TORQUE = 30.0  # N m at an action of 1


def positions(maze: str, kinds: str) -> np.ndarray:
    """(n, 2): the centres (x, y), in m, of all cells of these kinds, row by row."""
    return SCALE * (cells(maze, kinds) - cells(maze, "R"))[:, ::-1]


class AntMazeEnv(LocomotionEnv):
    """Reward 1 and termination within 0.5 m of the goal, else reward 0.

    Observations are all positions and velocities. Each reset draws a new goal, which is not
    observed. Falling over does not terminate the episode.

    Args:
        layout: A key of `MAZES`.
        fixed_goal: Draw the goal only once per seed, as D4RL's version 0 does.
    """

    xml = "ant.xml"
    obs_dim = 29
    steps_per_action = 5
    ctrl_limit = TORQUE
    camera = "overview"

    def __init__(
        self, layout: str, fixed_goal: bool = False, render_mode: str | None = None
    ) -> None:
        self.maze = MAZES[layout]
        self.goal_cell = positions(self.maze, "G")[0]
        self._goal = self.goal_cell
        self.fixed_goal = fixed_goal
        self._goal_drawn_for: np.random.Generator | None = None
        self._reached = False
        self.goal_marker = render_mode is not None
        super().__init__(render_mode)

    def edit(self, spec: mujoco.MjSpec) -> None:
        """D4RL's maze ant: weaker, torque-controlled, with softer contacts; and the blocks."""
        spec.option.timestep = 0.02
        for motor in spec.actuators:
            motor.gear[0] = 1.0
            motor.ctrlrange = (-TORQUE, TORQUE)
        walls = positions(self.maze, "#")
        for (row, column), (x, y) in zip(cells(self.maze, "#"), walls, strict=True):
            block = spec.worldbody.add_geom()
            block.name = f"block_{row}_{column}"
            block.type = mujoco.mjtGeom.mjGEOM_BOX
            block.size = (SCALE / 2, SCALE / 2, 1.0)
            block.pos = (x, y, 1.0)
            block.conaffinity = 1
            block.rgba = (0.4, 0.4, 0.4, 1.0)
        for geom in spec.geoms:
            geom.solimp = (0.8, 0.8, 0.01, 0.5, 2.0)
        low, high = walls.min(axis=0), walls.max(axis=0)
        overview = spec.worldbody.add_camera()
        overview.name = "overview"
        overview.pos = (*(low + high) / 2, 1.4 * (high - low).max())
        if self.goal_marker:
            marker = spec.worldbody.add_site()
            marker.name = "goal"
            marker.pos = (*self.goal_cell, 0.5)
            marker.size = (GOAL_RADIUS, GOAL_RADIUS, GOAL_RADIUS)
            marker.rgba = (0.9, 0.2, 0.2, 1.0)

    @property
    def success(self) -> bool:
        """Whether the goal was reached in this episode."""
        return self._reached

    @property
    def goal(self) -> np.ndarray:
        """Position (2,) in m that the rewards refer to; `target_goal` is D4RL's name for it."""
        return self._goal

    @goal.setter
    def goal(self, position: Sequence[float] | np.ndarray) -> None:
        self._goal = checked_goal(position)
        if self.goal_marker:
            self.model.site("goal").pos[:2] = self._goal

    target_goal = goal

    def set_target_goal(self, goal_input: Sequence[float] | np.ndarray | None = None) -> None:
        """Set the goal until the next reset (fixed goals: for good); by default draw one."""
        self.goal = self.drawn_goal(self.np_random) if goal_input is None else goal_input
        self._goal_drawn_for = self.np_random

    set_target = set_target_goal

    def reset_state(self) -> None:
        super().reset_state()
        if not self.fixed_goal:
            self.goal = self.drawn_goal(self.np_random)
        elif self._goal_drawn_for is not self.np_random:
            self._goal_drawn_for = self.np_random
            # depends only on the seed, so that a resumed run has the same goal
            seeds: Any = self.np_random.bit_generator.seed_seq
            self.goal = self.drawn_goal(np.random.default_rng(seeds.generate_state(4)))
        self._reached = False

    def drawn_goal(self, rng: np.random.Generator | np.random.RandomState) -> np.ndarray:
        """A goal (2,) near the goal cell, drawn as in D4RL."""
        noise = rng.uniform(0, 1, 2) + rng.uniform(0, 0.5, 2)
        return np.maximum(0.0, self.goal_cell + noise)

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos, self.qvel))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        self.simulate(TORQUE * action)
        dx, dy = (self.qpos[:2] - self._goal).tolist()
        at_goal = dx * dx + dy * dy <= GOAL_RADIUS**2
        self._reached = self._reached or at_goal
        return self.observation(), float(at_goal), self.diverged or at_goal
