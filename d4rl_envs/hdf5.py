"""Open HDF5 files of datasets.

Files are not trusted: links, virtual and external arrays that point to another file are refused,
and every fault is reported as a one-line `UserError`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from d4rl_envs.errors import DamagedFile, UserError

# file systems without locks (some NFS mounts) fail with one of these
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises:
        UserError: missing, unreadable, not HDF5, or truncated.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with reading(path):
        file = _open(path)
    with file:
        yield file


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return h5py.File(path, "r", locking=False)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report an exception of h5py as one line; on damaged files it raises many kinds."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise _fault(path, error) from None


def _fault(path: Path, error: Exception) -> UserError:
    number = getattr(error, "errno", None)
    if number == errno.EAGAIN:
        return UserError(f"{path}: another program has it open for writing, close it there")
    if number:
        return UserError(f"{path}: cannot be read ({os.strerror(number)})")
    if "signature not found" in str(error):
        return DamagedFile(f"{path}: not an HDF5 file; use a D4RL HDF5 file")
    fault = "truncated" if "truncated" in str(error) else "damaged"
    return DamagedFile(f"{path}: this HDF5 file is {fault}, get it again")


def array_keys(file: h5py.File) -> list[str]:
    """Paths of all arrays in a file, like "infos/qpos"."""
    keys: list[str] = []
    file.visititems(
        lambda key, entry: keys.append(key) if isinstance(entry, h5py.Dataset) else None
    )
    return keys


def local_array(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """An array of an open file.

    Raises:
        UserError: not an array, stored in another file, or compressed with an unknown filter.
    """
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise UserError(f"{path}: {name} is a link to another file")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        raise UserError(f"{path}: {name} is not an array")
    if array.is_virtual or array.external:
        raise UserError(f"{path}: the values of {name} are in another file")
    _check_filters(path, name, array)
    return array


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
