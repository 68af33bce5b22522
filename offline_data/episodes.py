"""Datasets that come as trajectories already split: pickle files and Minari datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType

import numpy as np

from offline_data.rows import REQUIRED, DatasetRows, check_form
from utils import UserError

ARRAYS = (*REQUIRED, "next_observations")


class Chained:
    """Arrays one after another as one, joined only where rows are read; see `Rows`."""

    chunks = None

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        """At least one array; all have the same width and are of numbers."""
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*{part.dtype for part in parts})

    def __getitem__(self, rows: slice | EllipsisType) -> np.ndarray:
        start, stop, _ = (slice(None) if rows is ... else rows).indices(self.shape[0])
        low = int(np.searchsorted(self._starts, start, side="right")) - 1
        high = int(np.searchsorted(self._starts, stop))
        pieces = self._parts[low:high]
        if not pieces:
            return np.empty((0, *self.shape[1:]), self.dtype)
        first = int(self._starts[low])
        return np.concatenate(pieces)[start - first : stop - first]


class EpisodeRows(DatasetRows):
    """Trajectories that were already split, each with its own next observations."""

    def __init__(self, path: Path, trajectories: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Check every trajectory's arrays.

        Args:
            path: What stands for the source in messages.
            trajectories: For T steps each: observations, next_observations (T, obs_dim), actions
                (T, act_dim), rewards and terminals (T,).

        Raises:
            UserError: none, or one that is empty or whose arrays do not fit together.
        """
        if not trajectories:
            raise UserError(f"{path}: no trajectories in it")
        for number, trajectory in enumerate(trajectories):
            _check_trajectory(path, number, trajectory, trajectories[0])
        arrays = {name: Chained([t[name] for t in trajectories]) for name in ARRAYS}
        lengths = [len(t["observations"]) for t in trajectories]
        super().__init__(path, arrays, need_next=True, ends=np.cumsum(lengths) - 1)


def _check_trajectory(
    path: Path,
    number: int,
    trajectory: Mapping[str, np.ndarray],
    first: Mapping[str, np.ndarray],
) -> None:
    where = f"{path}: trajectory {number}"
    rows = trajectory["observations"].shape[:1]
    for name in ARRAYS:
        array = trajectory[name]
        check_form(where, name, array.shape, array.dtype)
        if array.shape[:1] != rows:
            raise UserError(f"{where}: {name} has {len(array)} rows, observations has {rows[0]}")
        if array.shape[1:] != first[name].shape[1:]:
            raise UserError(
                f"{where}: {name} has rows of {array.shape[1:]} numbers, those of trajectory 0 "
                f"have {first[name].shape[1:]}"
            )
    if rows == (0,):
        raise UserError(f"{where} is empty")
