"""Open a D4RL HDF5 file as the rows of a dataset.

Nothing in such a file is trusted: nothing is unpickled, no link or virtual array that leads to
another file is followed, and every fault is one `UserError` line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import EllipsisType
from typing import Any

import h5py
import numpy as np

from offline_data.rows import REQUIRED, WIDE, DatasetRows
from offline_data.text_heaps import check_text_heaps
from utils import UserError

_OPTIONAL = ("timeouts", "next_observations")


class StoredArray:
    """An array of an open file; whatever goes wrong in reading it is a `UserError`."""

    def __init__(self, array: h5py.Dataset, path: Path) -> None:
        self._array, self._path = array, path
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype = array.dtype
        self.chunks: tuple[int, ...] | None = array.chunks

    def __getitem__(self, rows: slice | EllipsisType) -> np.ndarray:
        with _reading(self._path):
            return self._array[rows]


class DatasetFile(DatasetRows):
    """An open D4RL file."""

    def __init__(self, file: h5py.File, path: Path, need_next: bool) -> None:
        """Check which arrays are there and their form; nothing large is read."""
        self.file, self.path = file, path
        wanted = (*REQUIRED, "next_observations") if need_next else REQUIRED
        missing = [name for name in wanted if name not in file]
        if missing:
            found = ", ".join(sorted(file)[:8]) or "nothing"
            raise UserError(f"{path}: no {', '.join(missing)} in this file (it holds {found})")
        names = [name for name in (*REQUIRED, *_OPTIONAL) if name in file]
        super().__init__(path, {name: self._array(name) for name in names}, need_next)

    def _array(self, name: str) -> StoredArray:
        """The array `name`, which has to lie in this very file."""
        if isinstance(self.file.get(name, getlink=True), h5py.ExternalLink):
            raise UserError(f"{self.path}: {name} is a link to another file")
        array = self.file[name]
        if not isinstance(array, h5py.Dataset) or array.shape is None:
            raise UserError(f"{self.path}: {name} is not an array")
        if array.is_virtual or array.external:
            raise UserError(f"{self.path}: the values of {name} lie in another file")
        if name in WIDE and array.size and array.id.get_storage_size() == 0:
            raise UserError(f"{self.path}: {name} was declared but never written; get it again")
        return StoredArray(array, self.path)

    def origin(self) -> dict[str, str]:
        """Short texts in the file's attributes and metadata whose key speaks of a task."""
        texts = {}
        with _reading(self.path):
            places: list[Any] = [self.file.attrs]
            metadata = _local(self.file, "metadata")
            if isinstance(metadata, h5py.Group):
                places += [metadata.attrs, metadata]
            speaking = re.compile(r"env|task|domain", re.IGNORECASE)
            found = [(place, key) for place in places for key in place if speaking.search(key)]
            if found and self.file.id.get_create_plist().get_sizes() == (8, 8):  # bytes, as usual
                check_text_heaps(self.path)
            for place, key in found:
                text = _short_text(place, key)
                if text is not None:
                    texts[key] = text
        return texts

    def keys(self) -> list[str]:
        """All entries of the file."""
        with _reading(self.path):
            return sorted(self.file)


@contextmanager
def open_dataset(path: Path, *, need_next: bool = False) -> Iterator[DatasetFile]:
    """Open a dataset for reading.

    Args:
        need_next: Whether `next_observations` has to be there.

    Raises:
        UserError: absent, unreadable, not HDF5, truncated, damaged, or not a dataset.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not h5py.is_hdf5(path):
        raise UserError(f"{path}: not an HDF5 file; a dataset is a D4RL HDF5 file")
    with _reading(path):
        file = h5py.File(path, "r")
    with file:
        with _reading(path):
            dataset = DatasetFile(file, path, need_next)
        yield dataset


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever h5py raises inside is the file's fault; it has many kinds of exceptions."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = "truncated" if "truncated" in str(error) else "damaged"
        raise UserError(f"{path}: this HDF5 file is {reason}; delete it and get it again") from None


def _local(group: h5py.Group, key: str) -> Any:
    """The entry `key` where it lies in this very file, else None."""
    link = group.get(key, getlink=True)
    return group.get(key) if isinstance(link, h5py.HardLink) else None


def _short_text(place: Any, key: str) -> str | None:
    """An attribute or scalar entry as a short text; None where it is anything else."""
    if isinstance(place, h5py.Group):
        entry = _local(place, key)
        scalar = isinstance(entry, h5py.Dataset) and entry.shape == () and not entry.external
        value = entry[()] if scalar else None
    else:
        value = place[key]
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and len(value) < 200 else None
