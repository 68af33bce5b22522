"""Offline datasets as whole trajectories in flat arrays, sorted by return.

A dataset is a D4RL HDF5 file, a pickle file of trajectories or a Minari dataset.

Everything here is array code in linear time. Observations are read block by block straight into
their final place, so that loading needs little more memory than the arrays it returns.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from delayedreward import delay_rewards
from offline_data.d4rl_file import open_dataset
from offline_data.minari_store import PREFIX, open_minari
from offline_data.pickle_file import SUFFIXES, open_pickle
from offline_data.rows import DatasetRows
from offline_data.split import GYM_FAMILIES, SAME_OBSERVATION, Split, split_file
from tasks import Task
from trajectories import TrajectoryDataset
from utils import UserError

logger = logging.getLogger(__name__)

# one-step trajectories that the published antmaze runs kept
_TRIVIAL_KEPT = 9
_COLUMN_ROWS = 2**18


def dataset_path(task: Task, data_dir: Path, file: str | None) -> Path:
    """The dataset to load: `file` where given, else `<task>.hdf5` in `data_dir`.

    "minari:ID" is returned as it is: only Minari knows where its datasets lie.

    Raises:
        UserError: it is not there; the message has the command that gets it.
    """
    path = Path(file) if file else Path(data_dir) / f"{task.name}.hdf5"
    if path.is_file() or _is_minari(path):
        return path
    command = f"cd data && python {task.script} --only {task.name}"
    default = Path(__file__).resolve().parent / "data"
    if not file and Path(data_dir).resolve() != default:
        command += f" --data_dir {Path(data_dir).resolve()}"
    raise UserError(f"{path}: no such dataset; get it with: {command}")


def open_any(path: Path, task: Task) -> AbstractContextManager[DatasetRows]:
    """Open a dataset of any kind: "minari:ID", *.pkl, or a D4RL HDF5 file."""
    if _is_minari(path):
        return open_minari(path)
    if path.suffix.lower() in SUFFIXES:
        return open_pickle(path)
    return open_dataset(path, need_next=task.family in GYM_FAMILIES)


def _is_minari(path: Path) -> bool:
    return str(path).startswith(PREFIX)


def load_dataset(
    path: Path,
    task: Task,
    *,
    remove_trivial: bool = True,
    delayed_reward: int = 0,
    spare_rows: int = 0,
) -> TrajectoryDataset:
    """Load a dataset as the published runs did.

    In this order: transform the rewards; antmaze with `remove_trivial`: drop one-step
    trajectories after the first 9; take the states' mean and standard deviation; sort by return;
    drop the lowest of two or more trajectories; delay the rewards by blocks of `delayed_reward`.

    Args:
        path: A dataset of any kind, see docs/DATASETS.md.
        task: Whose data it is; decides how a D4RL file is split into trajectories.
        spare_rows: Unset rows to leave behind the transitions.

    Raises:
        UserError: anything about the file that would make training meaningless or fail.
    """
    try:
        with open_any(path, task) as file:
            file.check_widths(task)
            file.check_origin(task)
            rewards, terminals, split = split_file(file, task)
            raw_returns = split.sums(rewards)
            rewards = task.training_reward(rewards)
            returns = split.sums(rewards)

            left = np.ones(len(split.ends), dtype=bool)
            if task.family == "antmaze" and remove_trivial:
                left[np.flatnonzero(split.lengths == 1)[_TRIVIAL_KEPT:]] = False
            order = np.flatnonzero(left)
            order = order[np.argsort(returns[order], kind="stable")]
            order = order[1:] if len(order) > 1 else order

            reader = _Reader(file, split, left, order, spare_rows)
            lengths = split.lengths[order]
            observations, final_observations, mean, std = reader.observations()
            paid = reader.column(rewards)
            paid[: reader.rows] = delay_rewards(paid[: reader.rows], lengths, delayed_reward)
            kept = {"transitions": reader.rows, "trajectories": len(order)}
            return TrajectoryDataset(
                observations=observations,
                actions=reader.actions(),
                rewards=paid,
                terminals=reader.column(terminals),
                final_observations=final_observations,
                lengths=lengths,
                returns=returns[order],
                raw_returns=raw_returns[order],
                state_mean=mean,
                state_std=std + 1e-6,
                fingerprint=file.fingerprint() | kept,
            )
    except MemoryError as error:
        raise UserError(f"{path}: too large for this machine's memory ({error})") from None


class _Reader:
    """Moves a file's rows to their places: trajectories in a new order, some left out."""

    def __init__(
        self, file: DatasetRows, split: Split, left: np.ndarray, order: np.ndarray, spare: int
    ) -> None:
        """Put the trajectories `order` one after another.

        Args:
            left: (trajectories,) bool, those whose states count for mean and deviation.
            order: (M,) numbers of the trajectories to keep, in their new order.
            spare: Unset rows behind them.
        """
        lengths = split.lengths[order]
        self.file, self.split, self.left = file, split, left
        self.rows, self.spare, self.trajectories = int(lengths.sum()), spare, len(order)
        # place of a trajectory in the new order, -1 for those left out
        self.rank = np.full(len(split.ends), -1)
        self.rank[order] = np.arange(len(order))
        # what to add to the index of a kept row for its new index
        self.shift = np.zeros(len(split.ends), dtype=np.int64)
        self.shift[order] = np.cumsum(lengths) - lengths - split.starts[order]

    def observations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, final observations, mean and standard deviation of the states."""
        width = self.file.arrays["observations"].shape[1]
        out = np.empty((self.rows + self.spare, width), np.float32)
        final = np.empty((self.trajectories, width), np.float32)
        moments = _Moments(width)
        for start, block in self.file.blocks("observations"):
            source, trajectory, target = self._places(start, len(block))
            out[target[target >= 0]] = block[source[target >= 0]]
            moments.add(block[source[self.left[trajectory]]])
            self._keep_ends(start - 1, block, final)
        if "next_observations" in self.file.arrays:
            self._read_next_observations(out, final)
        return out, final, moments.mean, moments.std

    def actions(self) -> np.ndarray:
        width = self.file.arrays["actions"].shape[1]
        out = np.empty((self.rows + self.spare, width), np.float32)
        outside = 0
        for start, block in self.file.blocks("actions"):
            source, _, target = self._places(start, len(block))
            out[target[target >= 0]] = block[source[target >= 0]]
            outside += int((np.abs(block) > 1.0 + 1e-6).any(axis=1).sum())
        if outside:
            logger.warning("%s: actions outside [-1, 1] in %d rows", self.file.path, outside)
        return out

    def column(self, values: np.ndarray) -> np.ndarray:
        """A flat array of the file, (rows,), in its new order with spare rows."""
        out = np.empty(self.rows + self.spare, values.dtype)
        for start in range(0, len(values), _COLUMN_ROWS):
            block = values[start : start + _COLUMN_ROWS]
            source, _, target = self._places(start, len(block))
            out[target[target >= 0]] = block[source[target >= 0]]
        return out

    def _places(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places of `count` rows of the file from row `start` on.

        Returns:
            source: (k,) the kept rows among them, counted from `start`.
            trajectory: (k,) number of the trajectory each belongs to.
            target: (k,) new index, -1 for rows that are left out.
        """
        kept = self.split.kept
        source = np.flatnonzero(kept[start : start + count])
        trajectory = np.searchsorted(self.split.ends, source + start)
        index = np.count_nonzero(kept[:start]) + np.arange(len(source))
        target = np.where(self.rank[trajectory] >= 0, index + self.shift[trajectory], -1)
        return source, trajectory, target

    def _keep_ends(self, start: int, block: np.ndarray, final: np.ndarray) -> None:
        """Copy the rows at trajectories' ends; `block[0]` belongs to row `start` of the file."""
        low, high = np.searchsorted(self.split.ends, (start, start + len(block)))
        rank, ends = self.rank[low:high], self.split.ends[low:high]
        final[rank[rank >= 0]] = block[ends[rank >= 0] - start]

    def _read_next_observations(self, out: np.ndarray, final: np.ndarray) -> None:
        """Gym files: fill `final`. All: warn where they contradict the next row of an episode."""
        count, largest = 0, 0.0
        for start, block in self.file.blocks("next_observations"):
            source, trajectory, target = self._places(start, len(block))
            inner = (target >= 0) & (source + start != self.split.ends[trajectory])
            gap = np.abs(block[source[inner]] - out[target[inner] + 1]).max(axis=1, initial=0.0)
            count += int((gap > SAME_OBSERVATION).sum())
            largest = max(largest, float(gap.max(initial=0.0)))
            if self.file.need_next:
                self._keep_ends(start, block, final)
        if count:
            logger.warning(
                "%s: next_observations contradict the observation of the next row in %d rows "
                "within episodes, by up to %.3g; that observation is used",
                self.file.path, count, largest,
            )  # fmt: skip


class _Moments:
    """Mean and deviation of rows that come in blocks, in float64 (Chan, Golub, LeVeque 1979)."""

    def __init__(self, width: int) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(width), np.zeros(width)

    def add(self, rows: np.ndarray) -> None:
        if len(rows) == 0:
            return
        mean = rows.mean(axis=0, dtype=np.float64)
        gap, total = mean - self.mean, self.count + len(rows)
        self.squares += np.square(rows - mean).sum(axis=0)
        self.squares += np.square(gap) * (self.count * len(rows) / total)
        self.mean = self.mean + gap * (len(rows) / total)
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, (width,)."""
        return np.sqrt(self.squares / self.count)
