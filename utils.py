"""Helpers for every module: errors, seeds, devices, JSON and atomic file writes."""

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

    `auto` is the GPU with the most free memory, or the CPU if there is none; `cuda` is the same
    GPU, but an error if there is none.

    Raises:
        UserError: unknown device, or a CUDA device that this machine does not have.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    given = f"--device {device}"
    if force_device >= 0:
        device, given = f"cuda:{force_device}", f"--force_device {force_device}"
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    if device not in ("auto", "cuda") and not (kind == "cuda" and number.isdigit()):
        raise UserError(f"--device {device}: unknown device; use auto, cpu, cuda or cuda:N")
    if gpus == 0:
        raise UserError(f"{given}: PyTorch finds no CUDA device; use --device cpu")
    if number:
        if int(number) >= gpus:
            raise UserError(f"{given}: CUDA devices here are 0 to {gpus - 1}; use one of them")
        return torch.device(device)
    free = [torch.cuda.mem_get_info(i)[0] for i in range(gpus)]
    return torch.device(f"cuda:{int(np.argmax(free))}")


def json_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the text is not one.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file next to `path`; on success sync it and rename it to `path`.

    On failure `path` keeps its old content and the temporary file is removed.
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
    """Write an output file of a command atomically, creating its folder.

    Args:
        path: The file.
        content: Its new content.
        flag: The command-line option that gave the path, for the error message.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written ({error.strerror})".strip()) from None


def _sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power failure, on systems that support it."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def half_written(folder: Path) -> list[Path]:
    """Temporary files that `atomic_write` left behind because its process was killed."""
    return sorted(folder.glob(".*.part"))
