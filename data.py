"""Load offline datasets as whole trajectories in flat arrays, sorted by return.

Loading takes linear time, without a Python loop over rows. Wide arrays are read block by block
straight into their sorted place, so that no second copy exists.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from d4rl_envs.datasets import task_file
from delayedreward import delay_rewards
from offline_data.minari_store import PREFIX, open_minari
from offline_data.pickle_file import SUFFIXES, open_pickle
from offline_data.rows import DatasetRows
from offline_data.split import Split, split_file
from tasks import OWN, Task
from trajectories import TrajectoryDataset
from utils import UserError

logger = logging.getLogger(__name__)

# one-step trajectories that the published antmaze runs kept
_TRIVIAL_KEPT = 9


def dataset_path(task: Task, data_dir: Path, file: str | None) -> Path | None:
    """Path of the dataset: `file` if given, else the task's file in `data_dir`.

    None for a task of a task file without `file`, which has no dataset.

    `file` may also be a folder with the task's file. "minari:ID" is returned unchanged; only Minari
    can tell whether that dataset exists.

    Raises:
        UserError: no such file; the message shows the command that gets it.
    """
    own = task.family == OWN
    if own and not file:
        return None
    path = Path(file or data_dir)
    if path.is_file() or _is_minari(path):
        return path
    command = f"cd data && python {task.script} --only {task.name}"
    if not file or path.is_dir():
        if path.resolve() != Path(__file__).resolve().parent / "data":
            command += f" --data_dir {path.resolve()}"
        path = task_file(path, task)
        if path.is_file():
            return path
    if own:
        raise UserError(f"{path}: no such dataset; pass a file or minari:ID with --dataset")
    raise UserError(f"{path}: no such dataset; get it with: {command}")


def open_any(path: Path, task: Task) -> AbstractContextManager[DatasetRows]:
    """Open a Minari dataset ("minari:ID"), a pickle file (*.pkl), or else a D4RL HDF5 file."""
    if _is_minari(path):
        return open_minari(path)
    if path.suffix.lower() in SUFFIXES:
        return open_pickle(path)
    from offline_data.d4rl_file import open_d4rl  # h5py is slow to import

    return open_d4rl(path, task)


def _is_minari(path: Path) -> bool:
    return str(path).startswith(PREFIX)


def load_dataset(
    path: Path | None,
    task: Task,
    *,
    remove_trivial: bool = True,
    delayed_reward: int = 0,
    spare_rows: int = 0,
) -> TrajectoryDataset:
    """Load a dataset like the published runs.

    In this order: transform the rewards; antmaze with `remove_trivial`: drop one-step trajectories
    after the first 9; compute the states' mean and standard deviation; sort by return; drop the
    lowest of two or more trajectories; delay the rewards by blocks of `delayed_reward` steps.

    Args:
        path: A dataset of any kind, see docs/DATASETS.md; None for no data.
        task: Determines how a D4RL file is split into trajectories.
        spare_rows: Number of unset rows to allocate after the transitions.

    Raises:
        UserError: the file cannot be read, or does not fit the task.
    """
    if path is None:
        return no_data(task, spare_rows)
    try:
        with open_any(path, task) as file:
            file.check_task(task)
            rewards, terminals, split = split_file(file, task)
            raw_returns = split.sums(rewards)
            rewards = task.training_reward(rewards)
            returns = split.sums(rewards)
            kept, order = _select(split, returns, task.family == "antmaze" and remove_trivial)
            reader = _SortedReader(file, split, kept, order, spare_rows)
            lengths = split.lengths[order]
            rewards, terminals = reader.column(rewards), reader.column(terminals)
            rewards[: reader.rows] = delay_rewards(rewards[: reader.rows], lengths, delayed_reward)
            observations, final_observations, mean, std = reader.observations()
            counts = {"transitions": reader.rows, "trajectories": len(order)}
            return TrajectoryDataset(
                observations=observations,
                actions=reader.actions(),
                rewards=rewards,
                terminals=terminals,
                final_observations=final_observations,
                lengths=lengths,
                returns=returns[order],
                raw_returns=raw_returns[order],
                state_mean=mean,
                state_std=std + 1e-6,
                fingerprint=file.fingerprint() | counts,
                notices=file.notices(task) + split.notices + _counts(file, task, split, lengths),
            )
    except MemoryError as error:
        raise UserError(f"{path}: too large for this machine's memory ({error})") from None


def no_data(task: Task, spare_rows: int) -> TrajectoryDataset:
    """No trajectories, for learning purely online; states are not normalised."""
    return TrajectoryDataset(
        observations=np.empty((spare_rows, task.obs_dim), np.float32),
        actions=np.empty((spare_rows, task.act_dim), np.float32),
        rewards=np.empty(spare_rows, np.float32),
        terminals=np.empty(spare_rows, bool),
        final_observations=np.empty((0, task.obs_dim), np.float32),
        lengths=np.empty(0, np.int64),
        returns=np.empty(0),
        raw_returns=np.empty(0),
        state_mean=np.zeros(task.obs_dim),
        state_std=np.ones(task.obs_dim),
        fingerprint={"transitions": 0, "trajectories": 0},
    )


def _select(
    split: Split, returns: np.ndarray, remove_trivial: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the trajectories to load; adds the others to `split.dropped`.

    Returns:
        (trajectories,) bool, False for trivial ones, and the indices of those to load, sorted by
        return.
    """
    kept = np.ones(len(split.ends), dtype=bool)
    if remove_trivial:
        kept[np.flatnonzero(split.lengths == 1)[_TRIVIAL_KEPT:]] = False
    order = np.flatnonzero(kept)
    order = order[np.argsort(returns[order], kind="stable")]
    split.dropped["in one-step trajectories"] = int((~kept).sum())
    if len(order) > 1:
        split.dropped["in the trajectory with the lowest return"] = int(split.lengths[order[0]])
        order = order[1:]
    return kept, order


def _counts(file: DatasetRows, task: Task, split: Split, lengths: np.ndarray) -> list[str]:
    """Notices with the number of dropped rows, and of long trajectories among those kept.

    Args:
        lengths: (M,) of the kept trajectories.
    """
    notices = []
    dropped = [f"{count:,} {place}" for place, count in split.dropped.items() if count]
    if dropped:
        count = sum(split.dropped.values())
        notices.append(f"dropped {count:,} of {file.rows:,} rows: {', '.join(dropped)}")
    # D4RL's episodes may be one step longer than the horizon
    longer = int((lengths > task.horizon + 1).sum())
    if longer:
        notices.append(
            f"trajectories longer than the task's horizon of {task.horizon} steps: {longer:,} of "
            f"{len(lengths):,} (up to {lengths.max():,}); their returns are not comparable with "
            "the reference scores"
        )
    return notices


class _SortedReader:
    """Reads arrays with their trajectories in a new order, some of them dropped.

    Attributes:
        rows: Number of transitions that are kept.
    """

    def __init__(
        self, file: DatasetRows, split: Split, counted: np.ndarray, order: np.ndarray, spare: int
    ) -> None:
        """Map every row of the file to its new place.

        Args:
            counted: (trajectories,) bool, whose states count for mean and deviation.
            order: (M,) indices of the trajectories to keep, in their new order.
            spare: Unset rows to allocate after the transitions.
        """
        lengths = split.lengths[order]
        self._file, self._ends = file, split.ends
        self.rows, self._size = int(lengths.sum()), int(lengths.sum()) + spare
        # new index of each trajectory, and of each row of the file; -1 if dropped
        self._rank = np.full(len(split.ends), -1)
        self._rank[order] = np.arange(len(order))
        shift = np.zeros(len(split.ends), dtype=np.int64)
        shift[order] = np.cumsum(lengths) - lengths - split.starts[order]
        index = np.repeat(shift, split.lengths)
        index += np.arange(len(index))
        index[np.repeat(self._rank < 0, split.lengths)] = -1
        self._index = np.full(file.rows, -1)
        self._index[split.used] = index
        self._counted = np.zeros(file.rows, dtype=bool)
        self._counted[split.used] = np.repeat(counted, split.lengths)

    def observations(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, final observations, and the states' mean and standard deviation."""
        width = self._file.arrays["observations"].shape[1]
        out = np.empty((self._size, width), np.float32)
        final = np.empty((int(self._rank.max()) + 1, width), np.float32)
        moments = _Moments(width)
        for start, block in self._file.blocks("observations"):
            self._place(start, block, out)
            moments.add(block[self._counted[start : start + len(block)]])
            self._copy_ends(start - 1, block, final)
        if self._file.need_next:
            for start, block in self._file.blocks("next_observations"):
                self._copy_ends(start, block, final)
        return out, final, moments.mean, moments.std

    def actions(self) -> np.ndarray:
        out = np.empty((self._size, self._file.arrays["actions"].shape[1]), np.float32)
        outside = 0
        for start, block in self._file.blocks("actions"):
            self._place(start, block, out)
            outside += int((np.abs(block) > 1.0 + 1e-6).any(axis=1).sum())
        if outside:
            logger.warning("%s: actions outside %s in %d rows", self._file.path,
                           self._file.action_range(), outside)  # fmt: skip
        return out

    def column(self, values: np.ndarray) -> np.ndarray:
        """A flat array of the file, (rows,), in its new order."""
        out = np.empty(self._size, values.dtype)
        self._place(0, values, out)
        return out

    def _place(self, start: int, block: np.ndarray, out: np.ndarray) -> None:
        """Copy the block, which begins at row `start` of the file, to its new place."""
        index = self._index[start : start + len(block)]
        out[index[index >= 0]] = block[index >= 0]

    def _copy_ends(self, start: int, block: np.ndarray, final: np.ndarray) -> None:
        """Copy rows at trajectories' ends; `block[0]` belongs to row `start` of the file."""
        low, high = np.searchsorted(self._ends, (start, start + len(block)))
        rank, ends = self._rank[low:high], self._ends[low:high]
        final[rank[rank >= 0]] = block[ends[rank >= 0] - start]


class _Moments:
    """Mean and standard deviation of blocks of rows, in float64 (Chan, Golub, LeVeque 1979)."""

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
