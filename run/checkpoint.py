"""Checkpoint files: written atomically, verified by checksum, and read without executing anything.

run_dir/checkpoints/ holds

    000012-online-40.pt      the state of the run, for the newest `--keep_checkpoints` iterations
    best.pt                  the policy of the best evaluation
    pretrained.pt            networks and optimisers at the end of pretraining, for `--init_from`
    rows-000000-000031.pt    collected trajectories 0 to 30

A checkpoint refers to the collected trajectories it needs instead of containing them. Each is
written once, so the cost of a checkpoint does not grow with the data.

Every file ends with a SHA-256 checksum of the rest; `torch.load` ignores it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from run.files import BEST_FILE, CHECKPOINT_FOLDER, PRETRAINED_FILE
from utils import UserError, atomic_write, half_written

FORMAT = 2

_STATE_NAME = re.compile(r"(\d{6,})-[a-z]+-\d+\.pt")
_ROWS_NAME = re.compile(r"rows-(\d{6,})-(\d{6,})\.pt")

_MARK = b"SHA-256:"
SEAL_SIZE = len(_MARK) + hashlib.sha256().digest_size
_BLOCK = 1 << 20

logger = logging.getLogger(__name__)


def state_files(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    files = [
        path
        for path in (run_dir / CHECKPOINT_FOLDER).glob("*.pt")
        if _STATE_NAME.fullmatch(path.name)
    ]
    return sorted(files, key=_number, reverse=True)


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def load_checkpoint(run_dir: Path, collected: bool = True) -> dict[str, Any]:
    """The newest intact state of a run, on the CPU.

    Warns of damaged ones that are newer.

    Args:
        run_dir: The run's folder.
        collected: Whether to read the collected trajectories too; resuming needs them, acting does
            not.

    Returns:
        What `CheckpointStore.save` was given, with the trajectories in state["collected"].

    Raises:
        UserError: there is no checkpoint, or none is intact.
    """
    problems = []
    for path in state_files(run_dir):
        try:
            state = read_state(path)
            if collected:
                state["collected"] = _read_rows(path, state.get("buffer"))
            state["number"] = _number(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; using %s instead", problem, path.name)
        return state
    if not problems:
        raise UserError(f"{run_dir}: no checkpoint in it; pass another run or start a new one")
    earlier = f" (nor can the {len(problems) - 1} before it be used)" if len(problems) > 1 else ""
    raise UserError(problems[0] + earlier)


def load_best(run_dir: Path) -> dict[str, Any]:
    """The policy of a run's best evaluation, as passed to `CheckpointStore.save_best`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return read_state(run_dir / CHECKPOINT_FOLDER / BEST_FILE)


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint, best.pt or pretrained.pt, without collected trajectories.

    Raises:
        UserError: it is missing, damaged or of another format.
    """
    state = read_file(path)
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path}: a checkpoint of format {state.get('format')}, but this version reads format "
            f"{FORMAT}; resume it with the version that wrote it"
        )
    return state


def _read_rows(state_file: Path, buffer_state: Any) -> list[dict[str, Any]]:
    """The collected trajectories stored_from to total - 1."""
    layout = buffer_state if isinstance(buffer_state, dict) else {}
    if not all(type(layout.get(name)) is int for name in ("stored_from", "total", "first_held")):
        raise UserError(f"{state_file}: not a checkpoint of this program")
    folder, needed, total = state_file.parent, layout["stored_from"], layout["total"]
    parts = []
    for low, high, path in _rows_files(folder):
        if low <= needed < high <= total:
            parts.append(_without_first(read_file(path), needed - low))
            needed = high
    if needed != total:
        raise UserError(f"{folder}: collected trajectory {needed} of {total} is missing")
    return parts


def _without_first(part: dict[str, Any], count: int) -> dict[str, Any]:
    """A file of collected trajectories (rows by name, final observations, lengths), from one on."""
    rows = sum(part["lengths"][:count])
    return {
        "rows": {name: x[rows:] for name, x in part["rows"].items()},
        "finals": part["finals"][count:],
        "lengths": part["lengths"][count:],
    }


def _rows_files(folder: Path) -> list[tuple[int, int, Path]]:
    """(first, last + 1, file) of the files of collected trajectories, in order."""
    return sorted(
        (int(match[1]), int(match[2]), path)
        for path in folder.glob("rows-*.pt")
        if (match := _ROWS_NAME.fullmatch(path.name))
    )


class CheckpointStore:
    """Writes a run's checkpoints and deletes those no longer needed.

    A checkpoint that cannot be written is reported as a warning; earlier ones are kept.

    Args:
        run_dir: The run's folder.
        keep: Number of checkpoints to keep.
        resumed: The state the run was resumed from, if any.
    """

    def __init__(self, run_dir: Path, keep: int, resumed: dict[str, Any] | None = None) -> None:
        self._folder, self._keep = run_dir / CHECKPOINT_FOLDER, keep
        self._next = resumed["number"] + 1 if resumed else 0
        # collected trajectories that are in files
        self._written = resumed["buffer"]["total"] if resumed else 0
        # oldest collected trajectory that each checkpoint of this session needs
        self._needs: dict[Path, int] = {}
        for low, _, path in _rows_files(self._folder):
            if low >= self._written:
                # from a session that ended before its checkpoint was written
                path.unlink()
        for path in half_written(self._folder):
            logger.warning("%s was half written when the run ended; deleted", path)
            path.unlink()

    def save(self, state: dict[str, Any], collected: Callable[[int], dict[str, Any]]) -> None:
        """Write a checkpoint and delete the oldest ones.

        Args:
            state: From `run.snapshot.checkpoint_state`.
            collected: Returns the trajectories from this number on, see `ReplayBuffer.collected`.
        """
        total, stored_from = state["buffer"]["total"], state["buffer"]["stored_from"]
        phase = state["phase"]
        path = self._folder / f"{self._next:06d}-{phase}-{state['iterations'][phase]}.pt"
        try:
            self._folder.mkdir(exist_ok=True)
            if total > self._written:
                first = max(self._written, stored_from)
                name = f"rows-{first:06d}-{total:06d}.pt"
                write_verified(self._folder / name, collected(first))
            write_verified(path, {"format": FORMAT, **state})
        except OSError as error:
            logger.warning("no checkpoint written: %s; the previous one is kept", error)
            return
        self._written, self._next = total, self._next + 1
        self._needs[path] = stored_from
        self._delete_old()

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the policy of the best evaluation so far."""
        self._save_as(BEST_FILE, state)

    def save_pretrained(self, state: dict[str, Any]) -> None:
        """Write the networks and optimisers at the end of pretraining."""
        self._save_as(PRETRAINED_FILE, state)

    def _save_as(self, name: str, state: dict[str, Any]) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            write_verified(self._folder / name, {"format": FORMAT, **state})
        except OSError as error:
            logger.warning("%s not written: %s", name, error)

    def _delete_old(self) -> None:
        files = state_files(self._folder.parent)
        for path in files[self._keep :]:
            path.unlink()
        # checkpoints of earlier sessions may need any trajectory
        oldest = min(self._needs.get(path, 0) for path in files[: self._keep])
        for _, high, path in _rows_files(self._folder):
            if high <= oldest:
                path.unlink()


def check_shapes(module: torch.nn.Module, state: Mapping[str, Any], owner: str) -> None:
    """Check that weights fit a module.

    Args:
        module: The module.
        state: The weights by name.
        owner: What the weights belong to, for the message.

    Raises:
        UserError: a shape differs; the message gives the first such tensor.
    """
    ours = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    theirs = {key: tuple(x.shape) for key, x in state.items()}
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{owner} has {key} {theirs.get(key, 'not at all')}, "
                f"these settings make it {ours.get(key, 'not at all')}"
            )


def rng_state(device: torch.device | str = "cpu") -> dict[str, Any]:
    """States of the global generators of Python, NumPy, PyTorch and the given device."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the global generator
    kind, keys, *rest = numpy_state
    on_gpu = torch.device(device).type == "cuda"
    return {
        "python": json.dumps([version, words, gauss]),
        "numpy": json.dumps([kind, keys.tolist(), *rest]),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if on_gpu else [],
    }


def set_rng_state(state: dict[str, Any], device: torch.device | str = "cpu") -> None:
    """Restore `rng_state()`; without a saved GPU generator, that of a GPU keeps its seed."""
    version, words, gauss = json.loads(state["python"])
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = json.loads(state["numpy"])
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"][0].cpu(), device)


def write_verified(path: Path, state: dict[str, Any]) -> None:
    """Write a file atomically with a checksum, and read it back before it takes its name.

    Raises:
        OSError: it cannot be written, or reads back differently.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.write(_MARK + hashlib.sha256(buffer.getbuffer()).digest())
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
        file.flush()
        if Path(file.name).read_bytes() != buffer.getbuffer():
            raise OSError(f"{path.name} reads back differently")


def read_file(path: Path) -> dict[str, Any]:
    """Read what `write_verified` wrote, after verifying its checksum; executes nothing in it.

    Tensors are on the CPU.

    Raises:
        UserError: the file is missing, unreadable, damaged or of another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        _verify(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of this program")
    return state


def _verify(path: Path) -> None:
    """Compare the content with the checksum at its end.

    Raises:
        ValueError: they differ, or there is none.
    """
    remaining = path.stat().st_size - SEAL_SIZE
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while remaining > 0 and (block := file.read(min(remaining, _BLOCK))):
            digest.update(block)
            remaining -= len(block)
        seal = file.read()
    if not seal.startswith(_MARK):
        raise ValueError("no checksum: truncated, or not written by this version")
    if seal != _MARK + digest.digest():
        raise ValueError("checksum mismatch: damaged")
