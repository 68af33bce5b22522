"""Find episode ends that a file does not flag: rows that the next row cannot follow.

Two kinds of evidence: `next_observations` that is not the observation of the next row, and a step
that is longer than the dynamics allow.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offline_data.rows import DatasetRows
from tasks import Task
from utils import UserError

logger = logging.getLogger(__name__)

# observations at most this far apart are the same
SAME_OBSERVATION = 1e-6
# rounding changes `next_observations` by less than this share of a typical step; a skipped row, or
# another episode, by more
_ROUNDING = 0.1
# rows are in no order if a larger share of those within episodes is broken
_HOPELESS = 0.25


@dataclass(frozen=True)
class StepLimit:
    """The longest step within an episode.

    Attributes:
        columns: The observation entries that the step is measured in.
        longest: Upper limit of the Euclidean length of a step.
        unit: Of that length; "" if the entries differ in theirs.
        velocities: Velocities of these entries, if they are observed. The step is then measured
            from where the mean velocity leads.
        dt: Seconds per step, with `velocities`.
    """

    columns: Sequence[int]
    longest: float
    unit: str
    velocities: Sequence[int] = ()
    dt: float = 0.0

    def steps(self, observations: np.ndarray) -> np.ndarray:
        """(k - 1,) lengths of the steps between k consecutive observations (k, obs_dim)."""
        move = np.diff(observations[:, self.columns], axis=0)
        if self.velocities:
            speed = observations[:, self.velocities]
            move -= self.dt / 2 * (speed[:-1] + speed[1:])
        return np.linalg.norm(move, axis=1)


# docs/DATASETS.md lists the measurements behind these limits
STEP_LIMITS = {
    "maze2d": StepLimit(range(2), 0.2, " m", range(2, 4), 0.01),
    "antmaze": StepLimit(range(2), 0.3, " m", range(15, 17), 0.1),
    "pen": StepLimit(range(24), 1.5, " rad"),  # joints of the hand
    "hammer": StepLimit(range(26), 1.2, " rad"),  # joints of the arm and the hand
    "door": StepLimit(range(28, 35), 0.3, ""),  # hinge, palm, handle
    "relocate": StepLimit(range(30, 39), 0.3, " m"),  # between palm, ball and target
}


def find_breaks(file: DatasetRows, task: Task, flagged: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Find the rows that the next row cannot follow.

    Args:
        flagged: (rows,) bool, episode ends as flagged in the file.

    Returns:
        (rows,) bool, False in the last row, and a notice if some of these rows are not flagged.

    Raises:
        UserError: over a quarter of the rows within episodes are broken, so repair is hopeless.
    """
    inner = ~flagged
    inner[-1:] = False
    breaks, evidence = np.zeros_like(inner), []
    if "next_observations" in file.arrays:
        breaks |= _contradictions(file, inner)
        if (breaks & inner).any():
            evidence.append("next_observations is not the observation of the next row")
    limit = STEP_LIMITS.get(task.family)
    if limit is not None:
        steps = _steps(file, limit)
        breaks |= steps > limit.longest
        longest = steps.max(where=inner, initial=0.0)
        if longest > limit.longest:
            evidence.append(
                f"the state jumps by up to {longest:.3g}{limit.unit} in one step (possible: "
                f"{limit.longest}{limit.unit})"
            )
    count, reason = int((breaks & inner).sum()), " or ".join(evidence)
    if count > _HOPELESS * inner.sum():
        raise UserError(
            f"{file.path}: in {count:,} of {inner.sum():,} rows within episodes, {reason}; store "
            "the rows in the order in which they were collected"
        )
    return breaks, [f"unflagged episode ends: {count:,}; split where {reason}"] if count else []


def _contradictions(file: DatasetRows, inner: np.ndarray) -> np.ndarray:
    """(rows,) bool: rows whose `next_observations` is not the observation of the next row.

    Rounding errors in `inner` rows only cause a warning.
    """
    gap, step = np.zeros((2, file.rows), np.float32)
    expected = None
    for start, block in file.blocks("observations"):
        stop = start + len(block)
        following = file.wide("next_observations", start, stop)
        step[start:stop] = _largest(following - block)
        gap[start : stop - 1] = _largest(following[:-1] - block[1:])
        if expected is not None:
            gap[start - 1 : start] = _largest(expected - block[:1])
        expected = following[-1:]
    breaks = gap > max(SAME_OBSERVATION, _ROUNDING * float(np.median(step)) if len(step) else 0.0)
    rounded = gap[(gap > SAME_OBSERVATION) & ~breaks & inner]
    if len(rounded):
        logger.warning(
            "%s: next_observations differ from the observation of the next row in %d rows within "
            "episodes, by up to %.3g; using the observation of the next row",
            file.path, len(rounded), rounded.max(),
        )  # fmt: skip
    return breaks


def _largest(values: np.ndarray) -> np.ndarray:
    return np.abs(values, out=values).max(axis=1)


def _steps(file: DatasetRows, limit: StepLimit) -> np.ndarray:
    """(rows,) lengths of the steps to the next rows; 0 in the last row."""
    steps = np.zeros(file.rows, np.float32)
    before = None
    for start, block in file.blocks("observations"):
        if before is not None:
            steps[start - 1 : start] = limit.steps(np.concatenate([before, block[:1]]))
        steps[start : start + len(block) - 1] = limit.steps(block)
        before = block[-1:].copy()
    return steps
