"""Split a D4RL file's rows into trajectories, by the rule of each family.

gym-MuJoCo: an episode ends at a terminal or a timeout. maze2d and Adroit: the same, but the file
has no next observations, so that the row after an episode's end has to serve, and the last row
has none. antmaze: rows with a timeout are left out, and a trajectory ends where the observation
jumps (as in Kostrikov et al. 2021, arXiv 2110.06169).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_data.rows import DatasetRows
from tasks import Task
from utils import UserError

# their files hold the next observations; in the others it is the observation of the next row
GYM_FAMILIES = ("hopper", "halfcheetah", "walker2d", "ant")
# an observation further than this from what should be the same observation is another one
SAME_OBSERVATION = 1e-6


@dataclass
class Split:
    """Where the trajectories lie in a file.

    Attributes:
        kept: (rows,) bool, the rows that belong to a trajectory.
        ends: (trajectories,) row of each trajectory's last transition, ascending.
        lengths: (trajectories,) number of kept rows in each.
    """

    kept: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Index of each trajectory's first transition among the kept rows."""
        return np.cumsum(self.lengths) - self.lengths

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(trajectories,) float64 sums of a flat array of the file over each trajectory."""
        return np.add.reduceat(values[self.kept], self.starts, dtype=np.float64)


def split_file(file: DatasetRows, task: Task) -> tuple[np.ndarray, np.ndarray, Split]:
    """Read the flat arrays and find the trajectories: where the file says, or by the family's rule.

    Returns:
        Raw rewards (rows,) float32, terminal flags (rows,) bool (antmaze: of the trajectories'
        last rows), both in the file's order, and where the trajectories are.
    """
    rewards = file.column("rewards")
    terminals = file.flags("terminals")
    if file.ends is not None:
        kept = np.ones(file.rows, dtype=bool)
        split = Split(kept, file.ends, np.diff(file.ends, prepend=-1))
    else:
        split = _split_rows(file, task, terminals)
    if task.family == "antmaze":
        terminals = np.zeros_like(terminals)
        terminals[split.ends] = True
    if len(split.ends) == 0:
        raise UserError(f"{file.path}: no complete trajectory in its {file.rows} rows")
    return rewards, terminals, split


def _split_rows(file: DatasetRows, task: Task, terminals: np.ndarray) -> Split:
    """Find the trajectories by the family's rule."""
    if "timeouts" in file.arrays:
        timeouts = file.flags("timeouts")
    else:
        timeouts = _timeouts_at_horizon(terminals, task.horizon)
    if task.family == "antmaze":
        return _split_antmaze(file, terminals, timeouts)
    last = terminals | timeouts
    if task.family not in GYM_FAMILIES:
        last[-1:] = False  # the row after an episode's end is its final observation
    ends = np.flatnonzero(last)
    kept = np.zeros(file.rows, dtype=bool)
    kept[: ends[-1] + 1 if len(ends) else 0] = True
    return Split(kept, ends, np.diff(ends, prepend=-1))


def _timeouts_at_horizon(terminals: np.ndarray, horizon: int) -> np.ndarray:
    """(rows,) bool: every `horizon`-th row since the file's start or the last terminal."""
    rows = np.arange(len(terminals))
    starts = np.where(np.append(True, terminals)[:-1], rows, 0)
    return (rows - np.maximum.accumulate(starts) + 1) % horizon == 0


def _split_antmaze(file: DatasetRows, terminals: np.ndarray, timeouts: np.ndarray) -> Split:
    """Rows with a timeout are left out; a trajectory goes on where nothing moved meanwhile.

    The next observation is that of the next row, so that the last row has none.
    """
    kept = ~timeouts
    kept[-1:] = False
    rows = np.flatnonzero(kept)
    if len(rows) == 0:
        return Split(kept, rows, rows)
    last = terminals[rows]
    last[-1] = True
    # only where rows were left out can the next kept row hold another observation
    jumps = np.flatnonzero(np.diff(rows) > 1)
    expected = file.gather("observations", rows[jumps] + 1).astype(np.float64)
    distance = np.linalg.norm(file.gather("observations", rows[jumps + 1]) - expected, axis=1)
    last[jumps[distance > SAME_OBSERVATION]] = True
    ends = np.flatnonzero(last)
    return Split(kept, rows[ends], np.diff(ends, prepend=-1))
