"""The arrays of an offline dataset; every value is checked as it is read.

Dataset files are not trusted, and every fault is reported as a one-line `UserError`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d4rl_envs.tasks import FAMILIES
from tasks import OWN, TASKS, OwnTask, Task
from utils import UserError

logger = logging.getLogger(__name__)

REQUIRED = ("observations", "actions", "rewards", "terminals")
# per row, the goal that maze2d's planner heads for
GOAL = "infos/goal"
WIDE = ("observations", "actions", "next_observations", GOAL)
# wide arrays are read in blocks of this size, so that no second copy exists
_BLOCK_BYTES, _BLOCK_ROWS = 8 * 2**20, 2**17
# unclipped policy samples exceed 1 slightly; unscaled torques or joint angles exceed this
_ACTION_LIMIT = 10.0
_LAYOUTS = ("open", "umaze", "medium", "large")


class DatasetRows:
    """Named arrays of equally many rows: NumPy arrays or HDF5 datasets.

    Attributes:
        path: The file, or whatever identifies the dataset in messages.
        arrays: The arrays that loading uses, by name.
        rows: Number of rows.
        need_next: Whether next observations are read from `next_observations`.
        ends: (trajectories,) last row of each trajectory, ascending; None if the rows have yet to
            be split.
    """

    def __init__(
        self, path: Path, arrays: Mapping[str, Any], need_next: bool, ends: np.ndarray | None = None
    ) -> None:
        """Check types, shapes and lengths without reading any values."""
        self.path, self.arrays, self.need_next, self.ends = path, arrays, need_next, ends
        # (2, act_dim) from which actions are scaled to [-1, 1]; None if they are stored like that
        self._action_bounds: np.ndarray | None = None
        for name, array in arrays.items():
            check_form(path, name, array.shape, array.dtype)
        self.rows = arrays["observations"].shape[0]
        for name, array in arrays.items():
            if array.shape[0] != self.rows:
                raise UserError(
                    f"{path}: {name} has {array.shape[0]} rows, observations has {self.rows}"
                )

    def check_task(self, task: Task) -> None:
        """Check that the dataset fits the task; its actions are then read in [-1, 1].

        Raises:
            UserError: the widths are those of another task, or a text of the file names one.
        """
        self._check_widths(task)
        if task.family != OWN:
            self._check_origin(task)
        if task.action_bounds is not None:
            self._action_bounds = np.array(task.action_bounds, np.float32)

    def notices(self, task: Task) -> list[str]:
        """One line for each text of the file with another environment or version than the task."""
        version = task.name.rpartition("-")[2]
        used = f"evaluation and fine-tuning use D4RL's ({version})"
        if isinstance(task, OwnTask):
            used = f"the task's environment is {task.environment}"

        def other(text: str) -> bool:
            if isinstance(task, OwnTask):
                return task.environment not in ("", text)
            return not text.endswith(f"-{version}") or environment_named(text) is None

        return [
            f"its {key} is {text}, but {used}; physics and rewards may differ"
            for key, text in self.origin().items()
            # a dataset has versions of its own
            if key != "dataset" and re.search(r"-v\d+$", text) and other(text)
        ]

    def _check_widths(self, task: Task) -> None:
        found = (self.arrays["observations"].shape[1], self.arrays["actions"].shape[1])
        if found != (task.obs_dim, task.act_dim):
            owners = [k for k, spec in FAMILIES.items() if (spec.obs_dim, spec.act_dim) == found]
            raise UserError(
                f"{self.path}: dataset of another task: {task.name} has {task.obs_dim} "
                f"observation and {task.act_dim} action entries, this file {found[0]} and "
                f"{found[1]} (like {' and '.join(owners) or 'no known task'})"
            )
        following = self.arrays.get("next_observations")
        if following is not None and following.shape[1] != found[0]:
            raise UserError(
                f"{self.path}: next_observations has width {following.shape[1]}, "
                f"observations {found[0]}"
            )

    def _check_origin(self, task: Task) -> None:
        """Compare the texts in the file, and its name, with the task's environment.

        Tasks of one environment differ only in the policy that acted, so they are
        interchangeable. File names are unreliable and only cause a warning.
        """
        wanted = (task.family, task.layout)
        for key, text in self.origin().items():
            if not _compatible(environment_named(text), wanted):
                raise UserError(
                    f"{self.path}: dataset of another task than {task.name}: its {key} is {text!r}"
                )
        if not _compatible(environment_named(self.path.stem), wanted):
            logger.warning("%s: by its name, a dataset of another task than %s",
                           self.path, task.name)  # fmt: skip

    def flags(self, name: str) -> np.ndarray:
        """A flat array of zeros and ones: (rows,) bool."""
        values = self.read(name).reshape(-1)
        odd = (values != 0) & (values != 1)
        if odd.any():
            row = int(odd.argmax())
            raise UserError(f"{self.path}: {name} must be 0 or 1, but row {row} is {values[row]}")
        return values.astype(bool, copy=False)

    def column(self, name: str) -> np.ndarray:
        """A flat array of finite numbers: (rows,) float32."""
        return self._finite(name, self.read(name).reshape(-1), 0)

    def blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """A wide array in blocks of moderate size, aligned with HDF5 chunks.

        Yields:
            The first row of the block, and its (k, width) rows as finite float32.
        """
        array = self.arrays[name]
        rows = min(_BLOCK_ROWS, max(1, _BLOCK_BYTES // (4 * max(1, array.shape[1]))))
        chunks = getattr(array, "chunks", None)
        chunk = chunks[0] if chunks else 1
        step = max(1, rows // chunk) * chunk
        for start in range(0, self.rows, step):
            yield start, self.wide(name, start, start + step)

    def wide(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of a wide array: (k, width) finite float32."""
        stored = self._finite(name, self.read(name, slice(start, stop)), start)
        if name != "actions":
            return stored
        scaled = stored
        if self._action_bounds is not None:
            low, high = self._action_bounds
            scaled = (stored - low) / (high - low) * 2 - 1
        self._check_actions(scaled, stored, start)
        return scaled

    def gather(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows, in ascending order, of a wide array: (k, width) float32."""
        gathered = np.empty((len(rows), self.arrays[name].shape[1]), np.float32)
        for start, block in self.blocks(name) if len(rows) else ():
            low, high = np.searchsorted(rows, (start, start + len(block)))
            gathered[low:high] = block[rows[low:high] - start]
        return gathered

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Rows of an array as they are stored, unchecked."""
        return self.arrays[name][rows]

    def _finite(self, name: str, values: np.ndarray, first_row: int) -> np.ndarray:
        """The values as float32.

        Raises:
            UserError: NaN, infinity, or a number that overflows float32.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(np.float32, copy=False)
            # much cheaper than a mask: a float64 sum of float32 is finite if all entries are
            if np.isfinite(values.sum(dtype=np.float64)):
                return values
        row = first_row + int(np.argwhere(~np.isfinite(values))[0, 0])
        raise UserError(f"{self.path}: NaN or infinity in {name}, first in row {row}")

    def _check_actions(self, scaled: np.ndarray, stored: np.ndarray, first_row: int) -> None:
        if np.abs(scaled).max(initial=0.0) <= _ACTION_LIMIT:
            return
        row, column = np.argwhere(np.abs(scaled) > _ACTION_LIMIT)[0].tolist()
        found = f"row {first_row + row} has {stored[row, column]:.4g}"
        raise UserError(
            f"{self.path}: actions must be in {self.action_range(column)}, but {found}; scale them "
            "to the task's action range"
        )

    def action_range(self, columns: int | slice = slice(None)) -> str:
        """The ranges of these columns of the stored actions, each once, for messages."""
        if self._action_bounds is None:
            return "[-1, 1]"
        bounds = self._action_bounds[:, columns].reshape(2, -1).T.tolist()
        return ", ".join(dict.fromkeys(f"[{low:g}, {high:g}]" for low, high in bounds))

    def origin(self) -> dict[str, str]:
        """Short texts of the dataset that may name its environment, by key."""
        return {}

    def files(self) -> list[Path]:
        """The files that hold the data."""
        return [self.path]

    def keys(self) -> list[str]:
        """Names of all entries, used or not."""
        return sorted(self.arrays)

    def fingerprint(self) -> dict[str, Any]:
        """Facts that identify the dataset, as plain JSON values."""
        digest = hashlib.sha256()
        for file in self.files():
            with file.open("rb") as raw:
                hashlib.file_digest(raw, lambda: digest)
        return {
            "file": self.path.name,
            "bytes": sum(file.stat().st_size for file in self.files()),
            "sha256": digest.hexdigest(),
            "rows": self.rows,
            "keys": self.keys(),
            "origin": self.origin(),
        }


def check_form(where: object, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Check that an array is numeric and has the number of axes that its name requires."""
    if dtype.kind not in "fiub":
        raise UserError(f"{where}: {name} has dtype {dtype}, which is not numeric")
    # some published files store flat arrays as one column
    flat = len(shape) == 1 or shape[1:] == (1,)
    if not (len(shape) == 2 if name in WIDE else flat):
        form = "(rows, width)" if name in WIDE else "(rows,)"
        raise UserError(f"{where}: {name} has shape {shape} instead of {form}")


def environment_named(text: str) -> tuple[str, str] | None:
    """The (family, layout) in a text such as "maze2d-umaze-v1" or "HalfCheetah-v2".

    The layout is "" if the text has none. None if the text has no family.
    """
    published = {Path(task.url).stem: name for name, task in TASKS.items()}
    words = re.split(r"[^a-z0-9]+", published.get(text, text).lower())
    family = next((name for name in FAMILIES if name in words), None)
    if family is None:
        return None
    mazes = family in ("maze2d", "antmaze")
    layout = next((word for word in words if mazes and word in _LAYOUTS), "")
    return family, f"eval-{layout}" if layout and f"eval-{layout}" in "-".join(words) else layout


def _compatible(named: tuple[str, str] | None, wanted: tuple[str, str]) -> bool:
    """Whether `environment_named(text)` does not contradict the wanted (family, layout)."""
    return named is None or (named[0] == wanted[0] and named[1] in ("", wanted[1]))
