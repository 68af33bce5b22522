"""Open D4RL HDF5 files.

Files are not trusted: links, virtual and external arrays that point to another file are refused,
and every fault is reported as a one-line `UserError`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offline_data.rows import REQUIRED, WIDE, DatasetRows
from utils import UserError

_OPTIONAL = ("timeouts", "next_observations")
# file systems without locks (some NFS mounts) fail with one of these
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class D4RLRows(DatasetRows):
    """The arrays of an open D4RL file."""

    def __init__(self, file: h5py.File, path: Path, need_next: bool) -> None:
        """Check which arrays the file has and their form, without reading any values."""
        self.file, self.path = file, path
        wanted = (*REQUIRED, "next_observations") if need_next else REQUIRED
        missing = [name for name in wanted if name not in file]
        if missing:
            found = ", ".join(sorted(file)[:8]) or "nothing"
            raise UserError(f"{path}: no {', '.join(missing)} in this file (it contains {found})")
        names = [name for name in (*REQUIRED, *_OPTIONAL) if name in file]
        # as exported by D4RL's qlearning_dataset, without the rows at timeouts
        exported = "next_observations" in names and "timeouts" not in names
        arrays = {name: self._array(name) for name in names}
        super().__init__(path, arrays, need_next or exported)

    def _array(self, name: str) -> h5py.Dataset:
        if isinstance(self.file.get(name, getlink=True), h5py.ExternalLink):
            raise UserError(f"{self.path}: {name} is a link to another file")
        array = self.file[name]
        if not isinstance(array, h5py.Dataset) or array.shape is None:
            raise UserError(f"{self.path}: {name} is not an array")
        if array.is_virtual or array.external:
            raise UserError(f"{self.path}: the values of {name} are in another file")
        if name in WIDE and array.size and array.id.get_storage_size() == 0:
            raise UserError(f"{self.path}: {name} was declared but never written, get it again")
        _check_filters(self.path, name, array)
        return array

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        with _reading(self.path):
            return super().read(name, rows)

    def origin(self) -> dict[str, str]:
        """Short texts in the file's attributes and metadata whose key refers to a task."""
        with _reading(self.path):
            places: list[Any] = [self.file.attrs]
            metadata = _local(self.file, "metadata")
            if isinstance(metadata, h5py.Group):
                places += [metadata.attrs, metadata]
            about_task = re.compile(r"env|task|domain", re.IGNORECASE)
            keys = [(place, key) for place in places for key in place if about_task.search(key)]
            texts = {key: _short_text(place, key) for place, key in keys}
        return {key: text for key, text in texts.items() if text is not None}

    def keys(self) -> list[str]:
        with _reading(self.path):
            return sorted(self.file)


@contextmanager
def open_d4rl(path: Path, *, need_next: bool = False) -> Iterator[D4RLRows]:
    """Open a D4RL file for reading.

    Args:
        need_next: Whether `next_observations` is required.

    Raises:
        UserError: missing, unreadable, not HDF5, truncated, damaged, or not a dataset.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with _reading(path):
        file = _open(path)
    with file:
        with _reading(path):
            rows = D4RLRows(file, path, need_next)
        yield rows


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return h5py.File(path, "r", locking=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Report an exception of h5py as one line; on damaged files it raises many kinds."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EAGAIN:
        return "another program has it open for writing, close it there"
    if number:
        return f"cannot be read ({os.strerror(number)})"
    if "signature not found" in str(error):
        return "not an HDF5 file; use a D4RL HDF5 file"
    fault = "truncated" if "truncated" in str(error) else "damaged"
    return f"this HDF5 file is {fault}, get it again"


def _check_filters(path: Path, name: str, array: h5py.Dataset) -> None:
    """Check that HDF5 can decompress the array."""
    plist = array.id.get_create_plist()
    for number, _, _, label in map(plist.get_filter, range(plist.get_nfilters())):
        if h5py.h5z.filter_avail(number):
            continue
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(number):
            known = label.decode(errors="replace")
            raise UserError(
                f"{path}: {name} is compressed with the HDF5 filter {known!r} ({number}), which "
                "is not installed; pip install hdf5plugin"
            )


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
