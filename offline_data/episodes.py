"""Datasets that already consist of trajectories: pickle files and Minari datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offline_data.rows import REQUIRED, DatasetRows, check_form
from utils import UserError

ARRAYS = (*REQUIRED, "next_observations")


class TrajectoryRows(DatasetRows):
    """Trajectories with their own next observations, joined into arrays."""

    def __init__(self, path: Path, trajectories: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Check and join the trajectories.

        Args:
            path: Identifies the source in messages.
            trajectories: Of T steps each: observations, next_observations (T, obs_dim), actions
                (T, act_dim), rewards and terminals (T,).

        Raises:
            UserError: there are none, one is empty, or the arrays do not fit together.
        """
        if not trajectories:
            raise UserError(f"{path}: no trajectories in it")
        for number, trajectory in enumerate(trajectories):
            _check(f"{path}: trajectory {number}", trajectory, trajectories[0])
        arrays = {name: np.concatenate([t[name] for t in trajectories]) for name in ARRAYS}
        lengths = [len(t["observations"]) for t in trajectories]
        super().__init__(path, arrays, need_next=True, ends=np.cumsum(lengths) - 1)


def _check(where: str, trajectory: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    rows = trajectory["observations"].shape[:1]
    for name in ARRAYS:
        array = trajectory[name]
        check_form(where, name, array.shape, array.dtype)
        if array.shape[:1] != rows:
            raise UserError(f"{where}: {name} has {len(array)} rows, observations has {rows[0]}")
        if array.shape[1:] != first[name].shape[1:]:
            raise UserError(
                f"{where}: {name} has rows of shape {array.shape[1:]}, trajectory 0 of shape "
                f"{first[name].shape[1:]}"
            )
    if rows == (0,):
        raise UserError(f"{where} is empty")
