"""Split the rows of a D4RL file into trajectories, by the rule of each family.

- gym-MuJoCo: an episode ends at a terminal or a timeout.
- maze2d and Adroit: the same, but next observations come from the next row, even across an
  episode's end. The last row has none.
- antmaze: rows with a timeout are dropped, and a trajectory ends where the observation jumps (as in
  Kostrikov et al. 2021, arXiv 2110.06169).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_data.rows import DatasetRows
from tasks import Task
from utils import UserError

# their files have next observations; in the others it is the observation of the next row
GYM_FAMILIES = ("hopper", "halfcheetah", "walker2d", "ant")
# observations at most this far apart are the same
SAME_OBSERVATION = 1e-6


@dataclass
class Split:
    """The trajectories of a file.

    Attributes:
        used: (rows,) bool, rows that belong to a trajectory.
        ends: (trajectories,) row of each trajectory's last transition, ascending.
        lengths: (trajectories,) number of used rows in each.
    """

    used: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Index of each trajectory's first transition among the used rows."""
        return np.cumsum(self.lengths) - self.lengths

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(trajectories,) float64 sums of a flat array of the file over each trajectory."""
        return np.add.reduceat(values[self.used], self.starts, dtype=np.float64)


def split_file(file: DatasetRows, task: Task) -> tuple[np.ndarray, np.ndarray, Split]:
    """Read the flat arrays and find the trajectories.

    Returns:
        Raw rewards (rows,) float32 and terminal flags (rows,) bool (antmaze: True at the
        trajectories' last rows), both in file order, and the trajectories.

    Raises:
        UserError: there is no complete trajectory.
    """
    rewards = file.column("rewards")
    terminals = file.flags("terminals")
    if file.ends is not None:
        used = np.ones(file.rows, dtype=bool)
        split = Split(used, file.ends, np.diff(file.ends, prepend=-1))
    else:
        split = _split_rows(file, task, terminals)
    if task.family == "antmaze":
        terminals = np.zeros_like(terminals)
        terminals[split.ends] = True
    if len(split.ends) == 0:
        raise UserError(f"{file.path}: no complete trajectory in its {file.rows} rows")
    return rewards, terminals, split


def _split_rows(file: DatasetRows, task: Task, terminals: np.ndarray) -> Split:
    if "timeouts" in file.arrays:
        timeouts = file.flags("timeouts")
    else:
        timeouts = _timeouts_at_horizon(terminals, task.horizon)
    if task.family == "antmaze":
        return _split_antmaze(file, terminals, timeouts)
    last = terminals | timeouts
    if task.family not in GYM_FAMILIES:
        last[-1:] = False  # no next row, hence no final observation
    ends = np.flatnonzero(last)
    used = np.zeros(file.rows, dtype=bool)
    used[: ends[-1] + 1 if len(ends) else 0] = True
    return Split(used, ends, np.diff(ends, prepend=-1))


def _timeouts_at_horizon(terminals: np.ndarray, horizon: int) -> np.ndarray:
    """(rows,) bool: every `horizon`-th row since the file's start or the last terminal."""
    rows = np.arange(len(terminals))
    starts = np.where(np.append(True, terminals)[:-1], rows, 0)
    return (rows - np.maximum.accumulate(starts) + 1) % horizon == 0


def _split_antmaze(file: DatasetRows, terminals: np.ndarray, timeouts: np.ndarray) -> Split:
    """Drop rows with a timeout; end trajectories at terminals and jumps.

    The last row is dropped too, as it has no next observation.
    """
    used = ~timeouts
    used[-1:] = False
    rows = np.flatnonzero(used)
    if len(rows) == 0:
        return Split(used, rows, rows)
    last = terminals[rows]
    last[-1] = True
    # only where rows were dropped can the next used row have another observation
    jumps = np.flatnonzero(np.diff(rows) > 1)
    expected = file.gather("observations", rows[jumps] + 1).astype(np.float64)
    distance = np.linalg.norm(file.gather("observations", rows[jumps + 1]) - expected, axis=1)
    last[jumps[distance > SAME_OBSERVATION]] = True
    ends = np.flatnonzero(last)
    return Split(used, rows[ends], np.diff(ends, prepend=-1))
