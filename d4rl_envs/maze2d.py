"""Maze2d as in D4RL: a force-driven ball in a planar maze, rewarded near the goal cell.

A maze is a string of rows separated by "/": # wall, O free, G goal. The centre of cell
(row, column) is at qpos = (row, column), which is world position qpos + 1.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from d4rl_envs.base import MujocoEnv
from d4rl_envs.engine import mujoco
from d4rl_envs.errors import UserError
from d4rl_envs.physics import planar_ball_weight

MAZES = {
    "open": "#######/#OOOOO#/#OOGOO#/#OOOOO#/#######",
    "umaze": "#####/#GOO#/###O#/#OOO#/#####",
    "medium": "########/#OO##OO#/#OO#OOO#/##OOO###/#OO#OOO#/#O#OO#O#/#OOO#OG#/########",
    "large": (
        "############/#OOOO#OOOOO#/#O##O#O#O#O#/#OOOOOO#OOO#/#O####O###O#/#OO#O#OOOOO#/"
        "##O#O#O#O###/#OO#OOO#OGO#/############"
    ),
    "eval-umaze": "#####/#OOG#/#O###/#OOO#/#####",
    "eval-medium": "########/#OOOOOG#/#O#O##O#/#OOOO#O#/###OO###/#OOOOOO#/#OO##OO#/########",
    "eval-large": (
        "############/#OO#OOO#OGO#/##O###O#O#O#/#OO#O#OOOOO#/#O##O#OO##O#/#OOOOOO#OOO#/"
        "#O##O#O#O###/#OOOO#OOOOO#/############"
    ),
}
ORIGIN = 1.2
BALL_RADIUS = 0.1
WALL_HALF_WIDTH = 0.5
MAX_SPEED = 5.0
GOAL_RADIUS = 0.5
_STAGE_VEL = int(mujoco.mjtStage.mjSTAGE_VEL)


def cells(maze: str, kinds: str) -> np.ndarray:
    """(n, 2) int: the (row, column) of each cell of these kinds, row by row."""
    grid = np.array([list(row) for row in maze.split("/")])
    return np.argwhere(np.isin(grid, list(kinds)))


def maze_mjcf(maze: str) -> str:
    """MuJoCo XML of a maze: a frictionless ball on two slide joints, walls of boxes."""
    walls = "".join(
        f'<geom name="wall_{row}_{column}" class="wall" pos="{row + 1} {column + 1} 0"/>'
        for row, column in cells(maze, "#")
    )
    goal_row, goal_column = cells(maze, "G")[0]
    rows, columns = len(maze.split("/")), len(maze.split("/")[0])
    return f"""
    <mujoco model="maze2d">
      <compiler inertiafromgeom="true" angle="radian"/>
      <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
      <default>
        <joint type="slide" damping="1" limited="false"/>
        <geom condim="1" friction="0.5 0.1 0.1" margin="0.002"/>
        <motor ctrllimited="true" ctrlrange="-1 1" gear="100"/>
        <default class="wall">
          <geom type="box" size="{WALL_HALF_WIDTH} {WALL_HALF_WIDTH} 0.2"
                contype="2" conaffinity="1" rgba="0.5 0.35 0.25 1"/>
        </default>
      </default>
      <worldbody>
        <light dir="0 0 -1" directional="true"/>
        <geom name="ground" type="plane" size="40 40 0.25" pos="0 0 -0.1"
              contype="1" conaffinity="0" rgba="0.9 0.9 0.9 1"/>
        {walls}
        <site name="goal" pos="{goal_row + ORIGIN} {goal_column + ORIGIN} 0" size="0.2"
              rgba="0.9 0.2 0.2 1"/>
        <camera name="overview" pos="{rows / 2 + 0.5} {columns / 2 + 0.5} {1.4 * columns}"
                xyaxes="0 1 0 -1 0 0"/>
        <body name="particle" pos="{ORIGIN} {ORIGIN} 0">
          <geom name="particle_geom" type="sphere" size="{BALL_RADIUS}"
                contype="1" conaffinity="1" rgba="0.1 0.3 0.9 1"/>
          <joint name="ball_x" axis="1 0 0"/>
          <joint name="ball_y" axis="0 1 0"/>
        </body>
      </worldbody>
      <actuator><motor joint="ball_x"/><motor joint="ball_y"/></actuator>
    </mujoco>"""


def checked_goal(position: Sequence[float] | np.ndarray) -> np.ndarray:
    """The goal as (2,) float64.

    Raises:
        UserError: it is not a position.
    """
    goal = np.array(position, np.float64)
    if goal.shape != (2,) or not np.isfinite(goal).all():
        raise UserError(f"goal {position!r}: not a position; pass two finite numbers")
    return goal


class Maze2dEnv(MujocoEnv):
    """Reward 1 within 0.5 of the goal, else 0, or exp(-distance); never terminates.

    Args:
        layout: A key of `MAZES`.
        dense: Whether the reward is exp(-distance to the goal).
    """

    camera = "overview"

    def __init__(self, layout: str, dense: bool = False, render_mode: str | None = None) -> None:
        maze = MAZES[layout]
        self.dense = dense
        model = mujoco.MjModel.from_xml_string(maze_mjcf(maze))
        planar_ball_weight(model, "particle")
        super().__init__(model, 1, 4, render_mode)
        # D4RL also starts episodes in the goal cell, which follows the free ones in its list
        self.starts = np.concatenate((cells(maze, "O"), cells(maze, "G"))).astype(float)
        self.goal = cells(maze, "G")[0].astype(float)

    @property
    def goal(self) -> np.ndarray:
        """Position (2,) that the rewards refer to; resets do not change it."""
        return np.array((self._goal_x, self._goal_y))

    @goal.setter
    def goal(self, position: Sequence[float] | np.ndarray) -> None:
        self._goal_x, self._goal_y = checked_goal(position).tolist()
        self.model.site("goal").pos[:2] = self.goal + ORIGIN

    def get_target(self) -> np.ndarray:
        """The goal, by D4RL's name."""
        return self.goal

    def set_target(self, target_location: Sequence[float] | np.ndarray | None = None) -> None:
        """Set the goal: to a position (2,), or by default near a random cell, as D4RL does."""
        self.goal = self._near_a_random_cell() if target_location is None else target_location

    def _near_a_random_cell(self) -> np.ndarray:
        cell = self.starts[self.np_random.integers(len(self.starts))]
        return cell + self.np_random.uniform(-0.1, 0.1, 2)

    def reset_state(self) -> None:
        self.set_state(self._near_a_random_cell(), 0.1 * self.np_random.standard_normal(2))

    def reset_to_location(self, location: Sequence[float] | np.ndarray) -> np.ndarray:
        """Start an episode within 0.1 of a cell (row, column); returns the observation."""
        mujoco.mj_resetData(self.model, self.data)
        self.diverged = False
        start = np.asarray(location, float) + self.np_random.uniform(-0.1, 0.1, 2)
        self.set_state(start, 0.1 * self.np_random.standard_normal(2))
        return self.observation()

    def observation(self) -> np.ndarray:
        return np.concatenate((self.qpos, self.qvel))

    def advance(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """D4RL clips the velocity and runs a forward pass before each step.

        That pass repeats the first half of the step and updates the solver's warm start. The
        update matters only in contact with a wall, because the ground does not affect the ball.
        """
        vx, vy = self.qvel.tolist()
        if not (-MAX_SPEED <= vx <= MAX_SPEED and -MAX_SPEED <= vy <= MAX_SPEED):
            np.clip(self.qvel, -MAX_SPEED, MAX_SPEED, out=self.qvel)
        mujoco.mj_step1(self.model, self.data)
        if self.data.ncon > 1:
            mujoco.mj_forwardSkip(self.model, self.data, _STAGE_VEL, 1)
            self.warmstart[:] = self.data.qacc
        self.ctrl[:] = action
        mujoco.mj_step2(self.model, self.data)
        self.note_divergence()
        obs = self.observation()
        x, y = self.qpos.tolist()
        distance2 = (x - self._goal_x) ** 2 + (y - self._goal_y) ** 2
        reward = math.exp(-math.sqrt(distance2)) if self.dense else distance2 <= GOAL_RADIUS**2
        return obs, float(reward), self.diverged
