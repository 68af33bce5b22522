"""D4RL's datasets, in the three forms in which D4RL gives them.

`load` is D4RL's `env.get_dataset`, `qlearning` its `qlearning_dataset` and `sequences` its
`sequence_dataset`, all value for value. docs/D4RL_ENVS.md lists what to know before training on
them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from d4rl_envs.errors import UserError
from d4rl_envs.tasks import D4RLTask, get_task

FOLDER_VARIABLE = "D4RL_DATASET_DIR"
_REQUIRED = ("observations", "actions", "rewards", "terminals")

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """Where datasets are kept: D4RL_DATASET_DIR, by default ~/.d4rl/datasets."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.d4rl/datasets").expanduser()


def task_file(folder: Path, task: D4RLTask) -> Path:
    """The task's file in a folder, by D4RL's name if only that exists, else `<task>.hdf5`."""
    path, published = folder / f"{task.name}.hdf5", folder / Path(task.url).name
    return published if published.is_file() and not path.exists() else path


def load(name: str, path: str | Path | None = None) -> Arrays:
    """All arrays of a dataset.

    Args:
        name: D4RL id, for example "hopper-medium-v2".
        path: The file. By default the task's file in `folder()`, downloaded if it is missing.

    Returns:
        observations (N, obs_dim), actions (N, act_dim), rewards (N,), terminals (N,), and whatever
        else the file contains, by its path in the file ("infos/qpos"). Types are those of the
        file; entries of "metadata/" may be scalars.

    Raises:
        UserError: unknown id, no such file, no download, or not a dataset of this task.
    """
    task = get_task(name)
    path = local_file(task) if path is None else Path(path)
    arrays = _read(path)
    _check(path, task, arrays)
    for key in ("rewards", "terminals"):
        arrays[key] = arrays[key].reshape(-1)  # some published files have one column
    return arrays


def qlearning(
    dataset: str | Mapping[str, np.ndarray],
    horizon: int | None = None,
    terminate_on_end: bool = False,
) -> Arrays:
    """Transitions for Q-learning.

    The next observation of a row is the observation of the next row. Rows at a timeout are left
    out, because their next observation belongs to another episode, and so is the last row.

    Args:
        dataset: A D4RL id, or arrays as from `load`.
        horizon: Steps per episode; required for arrays without `timeouts`, otherwise ignored.
        terminate_on_end: Keep rows at a timeout. Unlike in D4RL's description of this argument,
            their `terminals` stay False, and their next observations are wrong.

    Returns:
        observations (n, obs_dim), actions (n, act_dim), next_observations (n, obs_dim), rewards
        (n,) as float32, and terminals (n,) bool.

    Raises:
        UserError: as in `load`, or neither timeouts nor a horizon.
    """
    arrays, horizon = _arrays(dataset, horizon)
    count = len(arrays["rewards"]) - 1
    terminals = arrays["terminals"][:count].astype(bool)
    rows = np.arange(count)
    if not terminate_on_end:
        rows = rows[~_timeouts(arrays, terminals, horizon, skipped=True)]

    def taken(key: str, offset: int = 0) -> np.ndarray:
        return arrays[key][rows + offset].astype(np.float32)

    return {
        "observations": taken("observations"),
        "actions": taken("actions"),
        "next_observations": taken("observations", 1),
        "rewards": taken("rewards"),
        "terminals": terminals[rows],
    }


def sequences(
    dataset: str | Mapping[str, np.ndarray], horizon: int | None = None
) -> Iterator[Arrays]:
    """Whole episodes: rows up to a terminal or a timeout.

    Rows after the last such row are dropped. Entries without one value per row ("metadata/...")
    are left out; D4RL fails on files with such entries.

    Args:
        dataset, horizon: As in `qlearning`.

    Yields:
        All arrays of one episode, by key.
    """
    arrays, horizon = _arrays(dataset, horizon)
    count = len(arrays["rewards"])
    terminals = arrays["terminals"].astype(bool)
    ends = np.flatnonzero(terminals | _timeouts(arrays, terminals, horizon, skipped=False)) + 1
    keys = [key for key, array in arrays.items() if np.shape(array)[:1] == (count,)]
    for start, stop in zip(np.append(0, ends), ends, strict=False):
        yield {key: arrays[key][start:stop].copy() for key in keys}


def _arrays(
    dataset: str | Mapping[str, np.ndarray], horizon: int | None
) -> tuple[Mapping[str, np.ndarray], int | None]:
    if isinstance(dataset, str):
        return load(dataset), horizon or get_task(dataset).horizon
    if horizon is None and "timeouts" not in dataset:
        raise UserError("horizon: required for a dataset without timeouts; pass the task's")
    return dataset, horizon


def _timeouts(
    arrays: Mapping[str, np.ndarray], terminals: np.ndarray, horizon: int | None, skipped: bool
) -> np.ndarray:
    """(rows,) bool: the timeouts, for as many rows as `terminals` has.

    Without `timeouts` in the file, D4RL counts steps. Its counter is 0 in the first row and after
    a timeout that is `skipped`, but 1 in the row after any other end of an episode, so that those
    episodes time out one step early.
    """
    if "timeouts" in arrays:
        return arrays["timeouts"][: len(terminals)].astype(bool).reshape(-1)
    assert horizon is not None
    final = np.zeros(len(terminals), bool)
    start = 0  # the row at which the counter is 0
    for end in (*np.flatnonzero(terminals).tolist(), len(terminals)):
        final[start + horizon - 1 : end + 1 : horizon if skipped else horizon - 1] = True
        start = end + 1 if skipped and end < len(terminals) and final[end] else end
    return final


def local_path(task: D4RLTask) -> Path:
    """The task's file in the local folder; if it is missing, where it is downloaded to."""
    path = task_file(folder(), task)
    # other programs know it by D4RL's name
    return path if path.exists() else path.with_name(Path(task.url).name)


def local_file(task: D4RLTask) -> Path:
    """The task's file in the local folder, downloaded unless it is there.

    Raises:
        UserError: it cannot be downloaded.
    """
    path = local_path(task)
    if path.exists():
        return path
    from d4rl_envs.download import Unreachable, download  # network modules are slow to import

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(task.url, path, lambda part: _check(part, task, _read(part)))
    except Unreachable as error:
        raise UserError(f"{error}; put a copy at {path}, or set {FOLDER_VARIABLE}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _read(path: Path) -> Arrays:
    """All arrays of an HDF5 file by their path in the file."""
    from d4rl_envs.hdf5 import array_keys, local_array, open_hdf5, reading  # h5py is slow to import

    with open_hdf5(path) as file, reading(path):
        return {key: local_array(file, path, key)[()] for key in array_keys(file)}


def _check(path: Path, task: D4RLTask, arrays: Arrays) -> None:
    """Check the arrays that every dataset has.

    Raises:
        UserError: one is missing, or its shape is that of another task.
    """
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)[:8]) or "nothing"
        raise UserError(f"{path}: no {', '.join(missing)} in this file (it contains {found})")
    rows = np.shape(arrays["observations"])[:1]
    widths = {"observations": (task.obs_dim,), "actions": (task.act_dim,)}
    for key in _REQUIRED:
        shape, width = np.shape(arrays[key]), widths.get(key, ())
        if shape != (*rows, *width) and not (width == () and shape == (*rows, 1)):
            raise UserError(
                f"{path}: not a dataset of {task.name}: {key} has shape {shape} instead of "
                f"{(*rows, *width)}"
            )
