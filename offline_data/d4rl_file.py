"""Open D4RL HDF5 files for training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from d4rl_envs.hdf5 import local_array, open_hdf5, reading
from offline_data.rows import GOAL, REQUIRED, WIDE, DatasetRows
from offline_data.split import GYM_FAMILIES
from tasks import OWN, Task
from utils import UserError

_OPTIONAL = ("timeouts", "next_observations")


class D4RLRows(DatasetRows):
    """The arrays of an open D4RL file."""

    def __init__(self, file: h5py.File, path: Path, task: Task) -> None:
        """Check which arrays the file has and their form, without reading any values."""
        self.file, self.path = file, path
        gym = task.family in GYM_FAMILIES
        v0 = task.family != OWN and task.name.endswith("-v0")
        wanted = (*REQUIRED, "next_observations") if gym and not v0 else REQUIRED
        missing = [name for name in wanted if name not in file]
        if missing:
            found = ", ".join(sorted(file)[:8]) or "nothing"
            raise UserError(f"{path}: no {', '.join(missing)} in this file (it contains {found})")
        names = [name for name in (*REQUIRED, *_OPTIONAL) if name in file]
        # without timeouts: an export of D4RL's qlearning_dataset, which lacks the rows at timeouts
        need_next = "next_observations" in names and (gym or "timeouts" not in names)
        names += [GOAL] * ("timeouts" not in file and GOAL in file)
        arrays = {name: self._array(name) for name in names}
        super().__init__(path, arrays, need_next)

    def _array(self, name: str) -> h5py.Dataset:
        array = local_array(self.file, self.path, name)
        if name in WIDE and array.size and array.id.get_storage_size() == 0:
            raise UserError(f"{self.path}: {name} was declared but never written, get it again")
        return array

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        with reading(self.path):
            return super().read(name, rows)

    def origin(self) -> dict[str, str]:
        """Short texts in the file's attributes and metadata whose key refers to a task."""
        with reading(self.path):
            places: list[Any] = [self.file.attrs]
            metadata = _local(self.file, "metadata")
            if isinstance(metadata, h5py.Group):
                places += [metadata.attrs, metadata]
            about_task = re.compile(r"env|task|domain", re.IGNORECASE)
            keys = [(place, key) for place in places for key in place if about_task.search(key)]
            texts = {key: _short_text(place, key) for place, key in keys}
        return {key: text for key, text in texts.items() if text is not None}

    def keys(self) -> list[str]:
        with reading(self.path):
            return sorted(self.file)


@contextmanager
def open_d4rl(path: Path, task: Task) -> Iterator[D4RLRows]:
    """Open a D4RL file for reading.

    Args:
        task: Determines whether `next_observations` is required, and used.

    Raises:
        UserError: missing, unreadable, not HDF5, truncated, damaged, or not a dataset.
    """
    with open_hdf5(path) as file:
        with reading(path):
            rows = D4RLRows(file, path, task)
        yield rows


def _local(group: h5py.Group, key: str) -> Any:
    """The entry `key` if it is stored in this file, else None."""
    link = group.get(key, getlink=True)
    return group.get(key) if isinstance(link, h5py.HardLink) else None


def _short_text(place: Any, key: str) -> str | None:
    """An attribute or scalar entry as a short text; None if it is anything else."""
    if isinstance(place, h5py.Group):
        entry = _local(place, key)
        scalar = isinstance(entry, h5py.Dataset) and entry.shape == () and not entry.external
        value = entry[()] if scalar else None
    else:
        value = place[key]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and len(value) < 200 else None
