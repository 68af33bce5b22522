"""The rows of an offline dataset, wherever they come from: every value that is read is checked.

The data come from anywhere, so nothing in them is trusted, and every fault is one `UserError` line.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any, Protocol

import numpy as np

from d4rl_envs.tasks import FAMILIES
from tasks import TASKS, Task
from utils import UserError

logger = logging.getLogger(__name__)

REQUIRED = ("observations", "actions", "rewards", "terminals")
WIDE = ("observations", "actions", "next_observations")
# wide arrays are read so much at a time: no second copy of one ever exists
_BLOCK_BYTES, _BLOCK_ROWS = 8 * 2**20, 2**17
# a policy's unclipped sample may pass 1 a little; joint torques or angles pass this
_ACTION_LIMIT = 10.0
_LAYOUTS = ("open", "umaze", "medium", "large")


class Rows(Protocol):
    """What is read of an array: its form, and slices of its rows. HDF5 datasets are such."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None: ...

    def __getitem__(self, rows: slice | EllipsisType) -> np.ndarray: ...


class DatasetRows:
    """Arrays of a dataset by name; every read is checked and every message names the source.

    Attributes:
        path: The file, or what stands for it in messages.
        arrays: The arrays that loading uses, by name.
        rows: Rows of each.
        need_next: Whether a transition's next observation is read from `next_observations`.
        ends: (trajectories,) last row of each, ascending, where the source says so; None where
            terminals and timeouts have to tell.
    """

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, Rows],
        need_next: bool,
        ends: np.ndarray | None = None,
    ) -> None:
        """Check types, shapes and lengths; nothing large is read."""
        self.path, self.arrays, self.need_next, self.ends = path, arrays, need_next, ends
        for name, array in arrays.items():
            check_form(path, name, array.shape, array.dtype)
        self.rows = arrays["observations"].shape[0]
        for name, array in arrays.items():
            if array.shape[0] != self.rows:
                raise UserError(
                    f"{path}: {name} has {array.shape[0]} rows, observations has {self.rows}"
                )

    def check_widths(self, task: Task) -> None:
        """Refuse observations or actions that do not have the task's number of entries."""
        found = (self.arrays["observations"].shape[1], self.arrays["actions"].shape[1])
        if found != (task.obs_dim, task.act_dim):
            owners = [k for k, spec in FAMILIES.items() if (spec.obs_dim, spec.act_dim) == found]
            whose = " and ".join(owners) or "no task here"
            raise UserError(
                f"{self.path}: a dataset of another task: {task.name} has observations of "
                f"{task.obs_dim} and actions of {task.act_dim} numbers, "
                f"this file {found[0]} and {found[1]} (the sizes of {whose})"
            )
        following = self.arrays.get("next_observations")
        if following is not None and following.shape[1] != found[0]:
            raise UserError(
                f"{self.path}: next_observations have {following.shape[1]} numbers, "
                f"observations {found[0]}"
            )

    def flags(self, name: str) -> np.ndarray:
        """A flat array of zeros and ones: (rows,) bool."""
        values = self.arrays[name][...].reshape(-1)
        odd = (values != 0) & (values != 1)
        if odd.any():
            row = int(odd.argmax())
            raise UserError(f"{self.path}: {name} must be 0 or 1, row {row} is {values[row]}")
        return values.astype(bool, copy=False)

    def column(self, name: str) -> np.ndarray:
        """A flat array of finite numbers: (rows,) float32."""
        values = _to_float32(self.arrays[name][...].reshape(-1))
        self._check_finite(name, values, 0)
        return values

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """A wide array in pieces of moderate size that do not cut through HDF5 chunks.

        Yields:
            The first row of the block, and its (k, width) rows as finite float32.
        """
        array = self.arrays[name]
        rows = min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // (4 * max(1, array.shape[1]))))
        chunk = array.chunks[0] if array.chunks else 1
        step = max(1, rows // chunk) * chunk
        for start in range(0, self.rows, step):
            block = _to_float32(array[start : start + step])
            self._check_finite(name, block, start)
            if name == "actions":
                self._check_actions(block, start)
            yield start, block

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows, in ascending order, of a wide array: (k, width) float32."""
        gathered = np.empty((len(rows), self.arrays[name].shape[1]), np.float32)
        for start, block in self.blocks(name) if len(rows) else ():
            low, high = np.searchsorted(rows, (start, start + len(block)))
            gathered[low:high] = block[rows[low:high] - start]
        return gathered

    def _check_finite(self, name: str, values: np.ndarray, first_row: int) -> None:
        with np.errstate(invalid="ignore"):
            # much cheaper than a mask: in float64 the sum is finite if all entries are
            if np.isfinite(values.sum(dtype=np.float64)):
                return
        row = first_row + int(np.argwhere(~np.isfinite(values))[0, 0])
        raise UserError(f"{self.path}: NaN or infinity in {name}, first in row {row}")

    def _check_actions(self, values: np.ndarray, first_row: int) -> None:
        if np.abs(values).max(initial=0.0) <= _ACTION_LIMIT:
            return
        sizes = np.abs(values).max(axis=1)
        row = int((sizes > _ACTION_LIMIT).argmax())
        raise UserError(
            f"{self.path}: actions must lie in [-1, 1], row {first_row + row} reaches "
            f"{sizes[row]:.4g}; scale them to the task's action range"
        )

    def check_origin(self, task: Task) -> None:
        """Refuse a file whose attributes or metadata name another environment.

        Tasks of one environment differ only in who acted, so any of them is fine for another.
        A file name proves nothing and is only worth a warning.
        """
        wanted = (task.family, task.layout)
        for key, text in self.origin().items():
            if not _same(environment_named(text), wanted):
                raise UserError(
                    f"{self.path}: a dataset of another task than {task.name}: "
                    f"its {key} is {text!r}"
                )
        if not _same(environment_named(self.path.stem), wanted):
            logger.warning("%s: by its name a dataset of another task than %s",
                           self.path, task.name)  # fmt: skip

    def origin(self) -> dict[str, str]:
        """Short texts that tell whose data it is, by their key; none by default."""
        return {}

    def files(self) -> list[Path]:
        """The files that hold the data."""
        return [self.path]

    def keys(self) -> list[str]:
        """The names of what is there."""
        return sorted(self.arrays)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the dataset: name, size, SHA-256, rows, keys and origin; JSON-able."""
        digest = hashlib.sha256()
        for file in self.files():
            with file.open("rb") as raw:
                while piece := raw.read(2**20):
                    digest.update(piece)
        return {
            "file": self.path.name,
            "bytes": sum(file.stat().st_size for file in self.files()),
            "sha256": digest.hexdigest(),
            "rows": self.rows,
            "keys": self.keys(),
            "origin": self.origin(),
        }


def check_form(where: object, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse an array that holds no numbers or has not the form that its name demands."""
    if dtype.kind not in "fiub":
        raise UserError(f"{where}: {name} holds {dtype}, not numbers")
    # some published files store flat arrays as one column
    flat = len(shape) == 1 or shape[1:] == (1,)
    if not (len(shape) == 2 if name in WIDE else flat):
        form = "(rows, width)" if name in WIDE else "(rows,)"
        raise UserError(f"{where}: {name} has shape {shape} instead of {form}")


def _to_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity and is refused
        return values.astype(np.float32, copy=False)


def environment_named(text: str) -> tuple[str, str] | None:
    """The (family, layout) that a text such as "maze2d-umaze-v1" or "HalfCheetah-v2" names.

    The layout is "" where the text tells none; None where it names no family.
    """
    published = {Path(task.url).stem: name for name, task in TASKS.items()}
    words = re.split(r"[^a-z0-9]+", published.get(text, text).lower())
    family = next((name for name in FAMILIES if name in words), None)
    if family is None:
        return None
    mazes = family in ("maze2d", "antmaze")
    return family, next((word for word in words if mazes and word in _LAYOUTS), "")


def _same(named: tuple[str, str] | None, wanted: tuple[str, str]) -> bool:
    """Whether a text that names this environment (None: none) may belong to the wanted one."""
    return named is None or (named[0] == wanted[0] and named[1] in ("", wanted[1]))
