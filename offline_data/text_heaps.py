"""A check of an HDF5 file before texts are read from it: damage there can hang the HDF5 library.

Texts of variable length lie in "global heap collections". HDF5 2.0.0 walks through a collection
object by object without noticing that one of size 0 gets it no further, and loops for ever (the
format: HDF5 File Format Specification 3.0, section III.E).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from utils import UserError

_SIGNATURE = b"GCOL\x01\0\0\0"  # with the version and three reserved bytes
_HEADER, _OBJECT = struct.Struct("<8sQ"), struct.Struct("<HHIQ")


def check_text_heaps(path: Path) -> None:
    """Walk through all collections of a file, as the library would.

    Raises:
        UserError: one of them cannot be walked through.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        start = content.find(_SIGNATURE)
        while start >= 0:
            if not _is_whole(content, start):
                raise UserError(f"{path}: this HDF5 file is damaged; delete it and get it again")
            start = content.find(_SIGNATURE, start + 1)


def _is_whole(content: mmap.mmap, start: int) -> bool:
    """Whether each object of the collection leads to another one, up to the collection's end."""
    if start + _HEADER.size > len(content):
        return False
    end = start + _HEADER.unpack_from(content, start)[1]
    place = start + _HEADER.size
    while place + _OBJECT.size <= min(end, len(content)):
        index, _, _, size = _OBJECT.unpack_from(content, place)
        # object 0 is the space that is left, and its size counts its own header
        step = _OBJECT.size + (size + 7) // 8 * 8 if index else size
        if step == 0:
            return False
        place += step
    return place <= end <= len(content)
