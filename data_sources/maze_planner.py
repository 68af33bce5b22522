"""Shortest routes through a maze's grid by value iteration, like D4RL's planners."""

from __future__ import annotations

import numpy as np

DISCOUNT = 0.99
SWEEPS = 50
# (row, column) moves; ties go to the first, i.e. maze2d's planner prefers columns, antmaze's rows
BALL_MOVES = np.array([(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)])
ANT_MOVES = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])

Cell = tuple[int, int]


class GridPlanner:
    """Routes over the cells of a maze.

    Args:
        maze: Rows of the maze, separated by "/"; "#" is a wall, everything else is free.
        moves: `BALL_MOVES` or `ANT_MOVES`.
    """

    def __init__(self, maze: str, moves: np.ndarray) -> None:
        self._moves = moves
        self.free = np.array([[kind != "#" for kind in row] for row in maze.split("/")])
        self._tables: dict[Cell, np.ndarray] = {}

    def route(self, start: Cell, goal: Cell) -> list[Cell]:
        """The cells after `start`, up to and including `goal`; [goal] if already there.

        The start may be a wall, as the position of a ball touching a wall may round to its cell.
        """
        if goal not in self._tables:
            self._tables[goal] = self._next_cells(goal)
        table = self._tables[goal]
        cell = start
        route: list[Cell] = []
        while not route or cell != goal:
            if len(route) == SWEEPS:
                raise ValueError(f"no route of {SWEEPS} cells from {start} to {goal}")
            row, column = table[cell].tolist()
            cell = (row, column)
            route.append(cell)
        return route

    def _next_cells(self, goal: Cell) -> np.ndarray:
        """The next cell on the way to the goal, for every cell: (rows, columns, 2)."""
        here = np.moveaxis(np.indices(self.free.shape), 0, -1)
        landing = here[:, :, None] + self._moves  # (rows, columns, moves, 2)
        inside = np.clip(landing, 0, np.array(self.free.shape) - 1)
        # moves into a wall or off the grid have no effect
        blocked = ~self.free[inside[..., 0], inside[..., 1]] | (inside != landing).any(axis=-1)
        landing = np.where(blocked[..., None], here[:, :, None], inside)

        reward = np.zeros(self.free.shape)
        reward[goal] = 1.0
        value = np.zeros_like(reward)
        for _ in range(SWEEPS):
            quality = reward[..., None] + DISCOUNT * value[landing[..., 0], landing[..., 1]]
            value = quality.max(axis=-1)
        best = quality.argmax(axis=-1)[..., None, None]
        return np.take_along_axis(landing, best, axis=2)[:, :, 0]
