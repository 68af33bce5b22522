"""Helpers for every module: errors, seeds, devices, output, JSON and atomic file writes."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
import yaml

from d4rl_envs.errors import UserError as UserError

_ROOT = Path(__file__).resolve().parent

logger = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries may draw from the global generator
    torch.manual_seed(seed)


def select_device(device: str, force_device: int = -1) -> torch.device:
    """Resolve `--device auto|cpu|cuda|cuda:N` and `--force_device N`, and make a GPU current.

    `auto` is the GPU with the most free memory, or the CPU if there is none; `cuda` is the same
    GPU, but an error if there is none. `cpu` does not touch CUDA.

    Raises:
        UserError: unknown device, or a CUDA device that is missing, full or broken.
    """
    given = f"--device {device}"
    if force_device >= 0:
        device, given = f"cuda:{force_device}", f"--force_device {force_device}"
    if device == "cpu":
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    if device not in ("auto", "cuda") and not (kind == "cuda" and number.isdigit()):
        raise UserError(f"--device {device}: unknown device; use auto, cpu, cuda or cuda:N")
    gpus, reason = _count_gpus()
    if gpus == 0 and device == "auto":
        if reason:
            logger.warning("PyTorch finds no CUDA device%s; using the CPU", reason)
        return torch.device("cpu")
    if gpus == 0:
        raise UserError(f"{given}: PyTorch finds no CUDA device{reason}; use --device cpu")
    if number and int(number) >= gpus:
        raise UserError(f"{given}: CUDA devices here are 0 to {gpus - 1}; use one of them")
    chosen = torch.device("cuda", int(number) if number else _freest_gpu(gpus))
    try:
        torch.cuda.set_device(chosen)
        torch.empty(1, device=chosen)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{given}: {chosen} is not usable ({reason}); use another --device cuda:N or "
            "--device cpu"
        ) from None
    return chosen


def _count_gpus() -> tuple[int, str]:
    """The number of GPUs; if PyTorch warns that it cannot use them, also why, in parentheses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    reasons = [re.split(r"(?<=[\w)]{2})\. | \(Triggered", str(w.message))[0] for w in caught]
    return gpus, f" ({reasons[0]})" if reasons else ""


def _freest_gpu(gpus: int) -> int:
    """The GPU with the most free memory.

    nvidia-smi tells, because PyTorch would create a context on every GPU. GPUs within 1 GiB are
    equal, and the process id chooses among them, so that runs started together spread. Without
    nvidia-smi it is GPU 0.
    """
    if gpus == 1:
        return 0
    query = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
        pairs = [line.split(", ") for line in done.stdout.splitlines()]
        mebibytes = {uuid.removeprefix("GPU-"): int(free) for uuid, free in pairs}
        free = [mebibytes[str(torch.cuda.get_device_properties(i).uuid)] for i in range(gpus)]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return 0
    best = [index for index, amount in enumerate(free) if amount >= max(free) - 1024]
    return best[os.getpid() % len(best)]


def shell_command(script: str, *words: str) -> str:
    """A command that runs a script of this repository from the current folder, for messages."""
    python = sys.orig_argv[0] if shutil.which(sys.orig_argv[0]) else sys.executable
    path = _ROOT / script
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return shlex.join([python, str(path), *words])


def user_path(text: str) -> Path:
    """A path on a command line; shells do not expand the `~` of `--flag=~/x`."""
    return Path(text).expanduser()


class _LastingOutput(io.TextIOWrapper):
    """Standard output or error that drops what it cannot write instead of raising.

    Attributes:
        problem: Why something was lost that somebody could still have read; "" if nothing was.
    """

    problem = ""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        # nobody will read a closed pipe or terminal again, so the buffer need not be kept either
        if error.errno in (errno.EPIPE, errno.EIO):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        else:
            self.problem = str(error.strerror)


def make_output_lasting() -> None:
    """Let nothing that this process prints end it.

    A closed pipe or terminal is ignored, and characters that the encoding lacks are escaped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell
            stream = Path(os.devnull).open("w")  # noqa: SIM115
        elif type(stream) is io.TextIOWrapper:
            encoding, lines, unbuffered = (
                stream.encoding, stream.line_buffering, stream.write_through
            )  # fmt: skip
            stream = _LastingOutput(
                stream.detach(), encoding, "backslashreplace", None, lines, unbuffered
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main()` as this process and exit with its code, or 2 with a line on an expected error.

    A closed pipe, as in `... | head`, is no error; a full disk is one, because output is missing.
    """
    make_output_lasting()
    try:
        code = main() or 0
        sys.stdout.flush()
        if problem := getattr(sys.stdout, "problem", ""):
            raise UserError(f"standard output: cannot be written ({problem})")
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        code = 130
    sys.exit(code)


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


def yaml_mapping(path: Path, owner: object, expected: str) -> dict[str, Any]:
    """Read a YAML file whose content is a mapping.

    Args:
        path: The file.
        owner: What the error message begins with.
        expected: What the file should contain, for the error message.

    Raises:
        UserError: the file is unreadable, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{owner}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{owner}: not YAML ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{owner}: not {expected}")
    return content


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
        # so that the rename survives a power failure
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
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


def half_written(folder: Path) -> list[Path]:
    """Temporary files that `atomic_write` left behind because its process was killed."""
    return sorted(folder.glob(".*.part"))
