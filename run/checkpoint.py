"""Checkpoints: the state of a run in its folder, kept so that nothing good is ever lost.

run_dir/checkpoints/ holds

    000012-online-40.pt      the whole state, the newest `--keep_checkpoints` of them
    best.pt                  the policy of the best evaluation
    rows-000000-000031.pt    collected trajectories number 0 to 30

A checkpoint names the collected trajectories it needs, but does not contain them: each is
written once, when it is new, so that a checkpoint's cost does not grow with the data. Nothing in a
file is executed when it is read (verified_file.py).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from run.files import BEST_FILE, CHECKPOINT_FOLDER
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


def load_best(run_dir: Path, device: torch.device | str) -> dict[str, Any]:
    """The policy of a run's best evaluation: what `CheckpointStore.save_best` was given.

    Raises:
        UserError: there is none, or it is damaged.
    """
    return _read_state(run_dir / CHECKPOINT_FOLDER / BEST_FILE, device)


def _read_state(path: Path, device: torch.device | str) -> dict[str, Any]:
    state = read_file(path, device)
    if state.get("format") != FORMAT:
        raise UserError(
            f"{path}: a checkpoint of format {state.get('format')}, where this version "
            f"reads {FORMAT}; resume it with the version that wrote it"
        )
    return state


def load_checkpoint(run_dir: Path, device: torch.device | str) -> dict[str, Any]:
    """The newest state of a run that is whole, together with the trajectories it needs.

    A damaged one is passed over with a warning, where one before it is whole.

    Returns:
        What `CheckpointStore.save` was given; the trajectories are in state["collected"].

    Raises:
        UserError: there is none, or none is whole.
    """
    problems = []
    for path in state_files(run_dir):
        try:
            state = _read_state(path, device)
            state["collected"] = _read_rows(path, state.get("buffer"))
            state["number"] = _number(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logger.warning("%s; going on from %s", problem, path.name)
        return state
    if not problems:
        raise UserError(f"{run_dir}: there is no checkpoint to resume from")
    others = f"; the {len(problems) - 1} before it are no better" if len(problems) > 1 else ""
    raise UserError(problems[0] + others)


def _read_rows(state_file: Path, buffer_state: Any) -> list[dict[str, Any]]:
    """The collected trajectories stored_from to total - 1, from the files that hold them."""
    layout = buffer_state if isinstance(buffer_state, dict) else {}
    if not all(type(layout.get(name)) is int for name in ("stored_from", "total", "first_held")):
        raise UserError(f"{state_file}: not a checkpoint of this program")
    folder, needed, total = state_file.parent, layout["stored_from"], layout["total"]
    parts = []
    for low, high, path in _rows_files(folder):
        if low <= needed < high <= total:
            part = _read_part(path)
            parts.append(_without_first(part, needed - low))
            needed = high
    if needed != total:
        raise UserError(f"{folder}: collected trajectory {needed} of {total} is missing")
    return parts


def _read_part(path: Path) -> dict[str, Any]:
    """A file of collected trajectories: their rows by name, final observations and lengths."""
    part = read_file(path, "cpu")
    rows, finals, lengths = (part.get(name) for name in ("rows", "finals", "lengths"))
    numbers = isinstance(lengths, list) and all(type(n) is int for n in lengths)
    if isinstance(rows, dict) and isinstance(lengths, list) and numbers:
        sizes = [(x, sum(lengths)) for x in rows.values()] + [(finals, len(lengths))]
        if all(isinstance(x, torch.Tensor) and x.shape[:1] == (n,) for x, n in sizes):
            return part
    raise UserError(f"{path}: not collected trajectories of this program")


def _without_first(part: dict[str, Any], count: int) -> dict[str, Any]:
    rows = sum(part["lengths"][:count])
    return {
        "rows": {name: x[rows:] for name, x in part["rows"].items()},
        "finals": part["finals"][count:],
        "lengths": part["lengths"][count:],
    }


def _rows_files(folder: Path) -> list[tuple[int, int, Path]]:
    """(first, one past the last, file) of the files of collected trajectories, in order."""
    found = []
    for path in folder.glob("rows-*.pt"):
        match = _ROWS_NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found, key=lambda row: (row[0], row[1]))


class CheckpointStore:
    """Writes a run's checkpoints and removes those that are not needed any more.

    Args:
        run_dir: The run's folder.
        keep: How many checkpoints to keep.
        resumed: The state that the run goes on from, if any.
    """

    def __init__(self, run_dir: Path, keep: int, resumed: dict[str, Any] | None = None) -> None:
        self._folder, self._keep = run_dir / CHECKPOINT_FOLDER, keep
        self._next = resumed["number"] + 1 if resumed else 0
        self._written = resumed["buffer"]["total"] if resumed else 0
        # oldest collected trajectory that each checkpoint of this session needs
        self._needs: dict[Path, int] = {}
        for low, _, path in _rows_files(self._folder):
            if low >= self._written:
                # of a session that ended before its checkpoint was written
                path.unlink()
        for path in half_written(self._folder):
            logger.warning("%s was half written when the run ended; removed", path)
            path.unlink()

    def save(self, state: dict[str, Any], new_rows: dict[str, Any], label: str) -> Path:
        """Write a checkpoint; whatever happens meanwhile, the ones before it stay.

        Args:
            state: All but the collected trajectories; state["buffer"] has their layout.
            new_rows: The trajectories from number `trajectories_written` on.
            label: Phase and iteration, for the file's name.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        total = state["buffer"]["total"]
        if total > self._written:
            name = f"rows-{total - len(new_rows['lengths']):06d}-{total:06d}.pt"
            write_verified(self._folder / name, new_rows)
        path = self._folder / f"{self._next:06d}-{label}.pt"
        write_verified(path, {"format": FORMAT, **state})
        self._written, self._next = total, self._next + 1
        self._needs[path] = state["buffer"]["stored_from"]
        self._remove_old()
        return path

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the policy of the best evaluation so far.

        Raises:
            OSError: it cannot be written; the one before it stays.
        """
        self._folder.mkdir(exist_ok=True)
        write_verified(self._folder / BEST_FILE, {"format": FORMAT, **state})

    @property
    def trajectories_written(self) -> int:
        """How many collected trajectories are in files."""
        return self._written

    def _remove_old(self) -> None:
        files = state_files(self._folder.parent)
        for path in files[self._keep :]:
            path.unlink()
        # of another session's checkpoints it is not known what they need
        oldest = min(self._needs.get(path, 0) for path in files[: self._keep])
        for _, high, path in _rows_files(self._folder):
            if high <= oldest:
                path.unlink()


@contextmanager
def refusing_foreign_state() -> Iterator[None]:
    """A state that does not have what is taken from it inside is a `UserError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"--resume: not a checkpoint of this program ({reason})") from error


def check_shapes(module: torch.nn.Module, state: Mapping[str, Any], owner: str) -> None:
    """Refuse weights of another shape, naming the first tensor that differs.

    Args:
        module: What the weights are for.
        state: The weights by name.
        owner: What holds them, for the message.

    Raises:
        UserError: so.
    """
    ours = {key: tuple(x.shape) for key, x in module.state_dict().items()}
    theirs = {key: tuple(x.shape) for key, x in state.items()}
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{owner} has {key} {theirs.get(key, 'not at all')}, "
                f"these settings make it {ours.get(key, 'not at all')}"
            )


def rng_state() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and PyTorch."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - the global generator is meant
    kind, keys, *rest = numpy_state
    return {
        "python": json.dumps([version, words, gauss]),
        "numpy": json.dumps([kind, keys.tolist(), *rest]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `rng_state()`."""
    version, words, gauss = json.loads(state["python"])
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = json.loads(state["numpy"])
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


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
