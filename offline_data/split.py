"""Split the rows of a D4RL file into trajectories, by the rule of each family.

- gym-MuJoCo and task files: an episode ends at a terminal or a timeout.
- maze2d, Adroit and gym-MuJoCo -v0: the same, but next observations come from the next row, even
  across an episode's end. The last row has none.
- antmaze: rows with a timeout are dropped, and a trajectory ends where the observation jumps (as in
  Kostrikov et al. 2021, arXiv 2110.06169).

Ends that have no flag are found by `offline_data.breaks` and count as timeouts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from offline_data.breaks import SAME_OBSERVATION, find_breaks
from offline_data.rows import GOAL, DatasetRows
from tasks import OWN, Task
from utils import UserError

# their files have next observations, except for D4RL's -v0; in the others it is the observation of
# the next row
GYM_FAMILIES = ("hopper", "halfcheetah", "walker2d", "ant", OWN)
# the other families, and maze2d's dense tasks, have dense rewards
_SPARSE_FAMILIES = ("maze2d", "antmaze")


@dataclass
class Split:
    """The trajectories of a file.

    Attributes:
        used: (rows,) bool, rows that belong to a trajectory.
        ends: (trajectories,) row of each trajectory's last transition, ascending.
        lengths: (trajectories,) number of used rows in each.
        dropped: Number of unused rows by where they are.
        notices: What was repaired, one line each.
    """

    used: np.ndarray
    ends: np.ndarray
    lengths: np.ndarray
    dropped: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

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
        UserError: the rewards are not the task's, the rows are out of order, or there is no
            complete trajectory.
    """
    rewards = file.column("rewards")
    _check_rewards(file, task, rewards)
    terminals = file.flags("terminals")
    if file.ends is not None:
        # trajectories that the file lists, split where a row cannot follow
        last = np.zeros(file.rows, dtype=bool)
        last[file.ends] = True
        breaks, notices = find_breaks(file, task, last)
        ends = np.flatnonzero(last | breaks)
        split = Split(np.ones_like(last), ends, np.diff(ends, prepend=-1), notices=notices)
    else:
        split = _split_rows(file, task, terminals)
    if task.family == "antmaze":
        terminals = np.zeros_like(terminals)
        terminals[split.ends] = True
    if len(split.ends) == 0:
        raise UserError(f"{file.path}: no complete trajectory in its {file.rows} rows")
    return rewards, terminals, split


def _check_rewards(file: DatasetRows, task: Task, rewards: np.ndarray) -> None:
    """Check that sparse tasks have rewards of 0 and 1, and dense ones have others.

    A task file may have rewards of any kind.
    """
    if task.family == OWN:
        return
    sparse = task.family in _SPARSE_FAMILIES and not task.dense
    odd = (rewards != 0) & (rewards != 1)
    if sparse and odd.any():
        row = int(odd.argmax())
        raise UserError(
            f"{file.path}: {task.name} pays rewards of 0 or 1, but row {row} has "
            f"{rewards[row]:.4g} (range {rewards.min():.4g} to {rewards.max():.4g}); use the "
            "sparse dataset with raw rewards, they are transformed when it is loaded"
        )
    if not sparse and len(rewards) and np.isin(rewards, (-1, 0, 1)).all():
        raise UserError(
            f"{file.path}: all rewards are {' or '.join(f'{x:g}' for x in np.unique(rewards))}, "
            f"but {task.name} pays dense rewards; use the dataset with the environment's rewards"
        )


def _split_rows(file: DatasetRows, task: Task, terminals: np.ndarray) -> Split:
    if "timeouts" in file.arrays:
        timeouts = file.flags("timeouts")
        breaks, notices = find_breaks(file, task, terminals | timeouts)
        timeouts = _corrected(timeouts, terminals, breaks, notices)
    else:
        breaks, notices = find_breaks(file, task, terminals)
        if task.family == "maze2d" and GOAL in file.arrays and file.rows:
            # D4RL's planner never resets the ball
            goals = np.concatenate([block for _, block in file.blocks(GOAL)])
            changes = np.append((goals[1:] != goals[:-1]).any(axis=1), False)
            breaks |= changes
            notices.append(
                f"no timeouts array: split where {GOAL} changes, {changes.sum():,} times"
            )
        timeouts = breaks & ~terminals
        at_horizon = _rows_at_horizon(terminals, timeouts, task.horizon)
        timeouts |= at_horizon
        if at_horizon.any():
            notices.append(
                f"no timeouts array: split after the task's horizon of {task.horizon} steps, "
                f"{at_horizon.sum():,} times"
            )
    if task.family == "antmaze" and not file.need_next:
        split = _split_antmaze(file, terminals, timeouts)
    else:
        last = terminals | timeouts
        # antmaze keeps an unfinished trajectory; without a next row there is no final observation
        last[-1:] |= task.family == "antmaze"
        last[-1:] &= file.need_next
        ends = np.flatnonzero(last)
        used = np.zeros(file.rows, dtype=bool)
        used[: ends[-1] + 1 if len(ends) else 0] = True
        dropped = {"at the end of the file": int((~used).sum())}
        split = Split(used, ends, np.diff(ends, prepend=-1), dropped)
    split.notices += notices
    return split


def _corrected(
    timeouts: np.ndarray, terminals: np.ndarray, breaks: np.ndarray, notices: list[str]
) -> np.ndarray:
    """Timeouts with the unflagged breaks, and without those that are misplaced.

    Timeouts are misplaced if episodes continue after them and end elsewhere without a flag. As this
    is systematic, it concerns at least half of the timeouts; an episode may also begin where the
    last one ended.
    """
    unflagged = breaks & ~timeouts & ~terminals
    judged = timeouts & ~terminals
    judged[-1:] = False  # no next row to judge by
    doubtful = judged & ~breaks
    if 0 < judged.sum() <= 2 * doubtful.sum() and doubtful.sum() <= 2 * unflagged.sum():
        timeouts = timeouts & ~doubtful
        notices.append(f"ignored timeouts: {doubtful.sum():,}; the episode continues after them")
    return timeouts | unflagged


def _rows_at_horizon(terminals: np.ndarray, timeouts: np.ndarray, horizon: int) -> np.ndarray:
    """(rows,) bool: every `horizon`-th row of each episode that is not its end anyway."""
    rows = np.arange(len(terminals))
    last = terminals | timeouts
    starts = np.where(np.append(True, last)[:-1], rows, 0)
    at_horizon = (rows - np.maximum.accumulate(starts) + 1) % horizon == 0
    at_horizon[:-1] &= ~timeouts[1:]  # D4RL's episodes may be one row longer
    return at_horizon & ~last


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
    dropped = {"at timeouts": int(timeouts[:-1].sum()), "at the end of the file": 1}
    return Split(used, rows[ends], np.diff(ends, prepend=-1), dropped)
