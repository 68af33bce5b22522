"""Pickle files of trajectories, as the scripts of the published runs wrote them from D4RL's files.

Such a file is a list with one dictionary per trajectory, which holds the arrays `observations`,
`next_observations`, `actions`, `rewards` (as the environment paid them) and `terminals`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from offline_data.episodes import ARRAYS, EpisodeRows
from offline_data.restricted_pickle import Array, load
from utils import UserError

SUFFIXES = (".pkl", ".pickle")


@contextmanager
def open_pickle(path: Path) -> Iterator[EpisodeRows]:
    """Open a pickle file of trajectories; nothing that it names is run.

    Raises:
        UserError: absent, damaged, hostile, or not a list of trajectories.
    """
    content = load(path)
    if type(content) is not list:
        raise UserError(f"{path}: a pickle of {_kind(content)}, not of a list of trajectories")
    trajectories = [_arrays(path, number, item) for number, item in enumerate(content)]
    size = sum(array.nbytes for arrays in trajectories for array in arrays.values())
    if size > path.stat().st_size:
        raise UserError(f"{path}: the same arrays stand for several trajectories; write them apart")
    yield EpisodeRows(path, trajectories)


def _arrays(path: Path, number: int, item: Any) -> dict[str, np.ndarray]:
    """The arrays of one trajectory, which may hold others that are not used."""
    where = f"{path}: trajectory {number}"
    if type(item) is not dict:
        raise UserError(f"{where} is {_kind(item)}, not a dictionary of arrays")
    missing = [name for name in ARRAYS if name not in item]
    if missing:
        found = ", ".join(repr(key)[:40] for key in list(item)[:8]) or "nothing"
        raise UserError(f"{where}: no {', '.join(missing)} in it (it holds {found})")
    arrays = {}
    for name in ARRAYS:
        value = item[name].value if isinstance(item[name], Array) else None
        if value is None:
            raise UserError(f"{where}: {name} is {_kind(item[name])}, not an array of numbers")
        arrays[name] = value
    return arrays


def _kind(value: Any) -> str:
    names = {memoryview: "bytes", Array: "an array", dict: "a dictionary", list: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")
