"""Small helpers that every other module may use: errors, seeds, devices, safe writing."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from d4rl_envs.errors import UserError as UserError


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries may draw from the global generator
    torch.manual_seed(seed)


def select_device(device: str, force_device: int = -1) -> torch.device:
    """Resolve `--device auto|cpu|cuda|cuda:N` and `--force_device N` to a torch device.

    `auto` is the GPU with the most free memory, or the CPU where there is none;
    `cuda` is that GPU, and an error where there is none.

    Raises:
        UserError: unknown device, or a CUDA device that this machine does not have.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if force_device >= 0:
        device = f"cuda:{force_device}"
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    known = device in ("auto", "cuda") or (kind == "cuda" and number.isdigit())
    if not known:
        raise UserError(f"--device {device}: unknown device; use auto, cpu, cuda or cuda:N")
    if gpus == 0:
        raise UserError(
            f"{device} was asked for, but PyTorch sees no CUDA device here; use --device cpu"
        )
    if number:
        if int(number) >= gpus:
            raise UserError(f"{device} was asked for, but there are only {gpus} CUDA devices")
        return torch.device(device)
    free = [torch.cuda.mem_get_info(i)[0] for i in range(gpus)]
    return torch.device(f"cuda:{int(np.argmax(free))}")


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside `path`; on success sync it and rename it to `path`.

    Whatever goes wrong meanwhile, `path` keeps its old content and the temporary file is removed.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_output(path: Path, content: bytes, flag: str = "") -> None:
    """Write a file that a command was asked for, whole or not at all, and its folder.

    Args:
        path, content: The file.
        flag: The option that named it, for the message.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        owner = f"{flag} {path}".strip()
        raise UserError(f"{owner}: cannot be written ({error.strerror})") from None


def _sync_folder(folder: Path) -> None:
    """Have a new name in the folder survive a power failure, where the system can promise that."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def half_written(folder: Path) -> list[Path]:
    """Files that `atomic_write` was at when its process was killed."""
    return sorted(folder.glob(".*.part"))
