"""Files of tensors and plain values that are whole or are refused.

A file is what `torch.save` writes, followed by its SHA-256. The checksums inside such an archive do
not cover its directory: damage there has been seen to pass them and to change every number.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from utils import UserError, atomic_write

_MARK = b"SHA-256:"
SEAL_SIZE = len(_MARK) + hashlib.sha256().digest_size
_BLOCK = 1 << 20


def write_verified(path: Path, state: dict[str, Any]) -> None:
    """Write a file, read it back, and only then let it take its name.

    Raises:
        OSError: it could not be written, or what was read back is something else.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(_MARK + hashlib.sha256(buffer.getbuffer()).digest())
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
        file.flush()
        if Path(file.name).read_bytes() != buffer.getbuffer():
            raise OSError(f"{path.name} reads back differently")


def read_file(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read what `write_verified` wrote, after a check of every byte; nothing in it is executed.

    Raises:
        UserError: it is not there, damaged, or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        _check_seal(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # of foreign content PyTorch raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of this program")
    return state


def _check_seal(path: Path) -> None:
    """Compare the content with the checksum at its end.

    Raises:
        ValueError: there is none, or it is of another content.
    """
    left = path.stat().st_size - SEAL_SIZE
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0:
            block = file.read(min(left, _BLOCK))
            digest.update(block)
            left -= len(block) or left
        seal = file.read()
    if not seal.startswith(_MARK) or left < 0:
        raise ValueError("no checksum at its end: cut short, or not of this version")
    if seal != _MARK + digest.digest():
        raise ValueError("its checksum is another one: damaged")
