"""Tasks from task files: any Gymnasium environment with flat, continuous spaces.

docs/TASKS.md describes the YAML file. config.json and exported policies record the same keys and
the spaces of the environment, so they do not need the file any more.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d4rl_envs.errors import UserError
from d4rl_envs.tasks import ALIASES
from tasks.table import TASKS, Task
from utils import yaml_mapping

# the family of all tasks from task files
OWN = "own"
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
# keys of a task file and their types
_KEYS: dict[str, type] = {
    "name": str, "environment": str, "entry_point": str, "kwargs": dict, "horizon": int,
    "eval_rtg": int, "online_rtg": int, "ref_min_score": float, "ref_max_score": float,
    "reward_divisor": float, "reward_shift": float, "rtg_scale": float, "critic_layernorm": bool,
    "online_budget": int,
}  # fmt: skip
_REQUIRED = {
    "name": "add a name for folders, tables and figures",
    "horizon": "add the time limit of an episode, in steps",
    "eval_rtg": "add the target return of evaluations, in training rewards",
}
_POSITIVE = ("horizon", "reward_divisor", "rtg_scale", "online_budget")
_TYPE_NAMES = {str: "a text", dict: "a mapping", int: "an integer", float: "a finite number",
               bool: "true or false"}  # fmt: skip
_LARGEST = 2**31


@dataclass(frozen=True)
class Spaces:
    """The spaces of an environment.

    Attributes:
        obs_dim: Entries of an observation.
        action_low, action_high: (act_dim,) bounds of the environment's actions.
    """

    obs_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


@dataclass(frozen=True)
class OwnTask(Task):
    """A task from a task file. Without reference scores, both are NaN.

    Attributes:
        environment: Gymnasium id; "" with `entry_point`.
        entry_point: "module:callable" that returns the environment; "" with `environment`.
        kwargs: Keyword arguments for the environment.
        eval_rtg, online_rtg: Defaults of the flags of these names.
        spaces: Sizes and bounds.
    """

    environment: str = ""
    entry_point: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    eval_rtg: int = 0
    online_rtg: int = 0
    spaces: Spaces = Spaces(0, (), ())

    @property
    def obs_dim(self) -> int:
        return self.spaces.obs_dim

    @property
    def act_dim(self) -> int:
        return len(self.spaces.action_low)

    @property
    def action_bounds(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.spaces.action_low, self.spaces.action_high

    def record(self) -> dict[str, Any]:
        """The task as JSON values, for `recorded_task`."""
        values = {key: getattr(self, key) for key in _KEYS}
        given = {k: v for k, v in values.items() if v not in ("", {}) and v == v}
        spaces = {"obs_dim": self.obs_dim, "action_low": list(self.spaces.action_low),
                  "action_high": list(self.spaces.action_high)}  # fmt: skip
        return given | {"spaces": spaces}


def read_task_file(path: Path) -> OwnTask:
    """Read a task file; makes and resets the environment once, to know its spaces.

    Raises:
        UserError: the file is not a valid task, or the environment does not suit.
    """
    return _read(path, *_identity(path))


def _identity(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except OSError as error:
        raise UserError(f"--task_file {path}: cannot be read ({error.strerror})") from None
    return about.st_mtime_ns, about.st_size


@functools.cache
def _read(path: Path, *_: int) -> OwnTask:
    where = f"--task_file {path}"
    expected = "a task; it needs name, environment, horizon and eval_rtg"
    content = yaml_mapping(path, where, expected)
    from tasks.gymnasium_vector import spaces_of  # loads MuJoCo

    draft = _make_task(content, where, Spaces(0, (), ()))
    return _make_task(content, where, spaces_of(draft, where))


def recorded_task(record: Any, owner: object) -> OwnTask:
    """The task of `OwnTask.record`.

    Raises:
        UserError: the record is damaged.
    """
    if not isinstance(record, dict):
        raise UserError(f"{owner}: its task is not a mapping")
    content = {str(key): value for key, value in record.items() if key != "spaces"}
    spaces: Any = record.get("spaces")
    try:
        low, high = (tuple(map(float, spaces[f"action_{end}"])) for end in ("low", "high"))
        size = spaces["obs_dim"]
        bounded = all(-math.inf < a < b < math.inf for a, b in zip(low, high, strict=True))
        if type(size) is not int or not 0 < size <= _LARGEST or not bounded or not low:
            raise ValueError("out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{owner}: damaged spaces of its task ({error})") from None
    return _make_task(content, str(owner), Spaces(size, low, high))


def change_notice(path: Path, task: OwnTask) -> str | None:
    """A notice if a task file exists but no longer describes the task; None otherwise."""
    if not path.exists():
        return None
    try:
        same = read_task_file(path).record() == task.record()
    except UserError:
        same = False
    if same:
        return None
    return (
        f"--task_file {path} has changed since this run was started; the run continues with the "
        "task recorded in its config.json"
    )


def _make_task(content: Mapping[Any, Any], where: str, spaces: Spaces) -> OwnTask:
    """The task of a file's content."""
    for key, value in content.items():
        _check_value(where, key, value)
    content = {key: float(x) if _KEYS[key] is float else x for key, x in content.items()}
    for key, what in _REQUIRED.items():
        if key not in content:
            raise UserError(f"{where}: {key}: missing; {what}")
    if ("environment" in content) == ("entry_point" in content):
        raise UserError(
            f"{where}: set one of environment (a Gymnasium id) and entry_point (module:callable)"
        )
    if ("ref_min_score" in content) != ("ref_max_score" in content):
        raise UserError(f"{where}: ref_min_score and ref_max_score belong together; set both")
    values = {"ref_min_score": math.nan, "ref_max_score": math.nan,
              "online_rtg": content["eval_rtg"]} | dict(content)  # fmt: skip
    if values["ref_min_score"] >= values["ref_max_score"]:
        raise UserError(f"{where}: ref_max_score: must be above ref_min_score")
    return OwnTask(
        **values, family=OWN, published_steps=0, published_score=math.nan, url="", spaces=spaces
    )


def _check_value(where: str, key: Any, value: Any) -> None:
    """Check a key of a file, and the type and range of its value."""
    if key not in _KEYS:
        near = difflib.get_close_matches(str(key), _KEYS, n=3)
        known = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_KEYS)}"
        raise UserError(f"{where}: {key}: unknown key; {known}")
    kind = _KEYS[key]
    fits = isinstance(value, (int, float) if kind is float else kind)
    if kind is not bool and isinstance(value, bool):
        fits = False
    if fits and kind in (int, float):
        fits = abs(value) <= (_LARGEST if kind is int else 1e30)
    if not fits:
        text = f"{value!r}"[:60]
        hint = _yaml_hint(value) if kind is float else ""
        raise UserError(f"{where}: {key}: {text} is not {_TYPE_NAMES[kind]}{hint}")
    if key == "kwargs" and not _is_json(value):
        raise UserError(f"{where}: kwargs: use texts, numbers, lists and mappings by text only")
    if key in _POSITIVE and value <= 0:
        raise UserError(f"{where}: {key}: {value} is not above 0")
    if key == "name" and (not _LABEL.fullmatch(value) or value in TASKS or value in ALIASES):
        taken = "a D4RL task has this name" if value in {*TASKS, *ALIASES} else "not a file name"
        raise UserError(f"{where}: name: {value!r}: {taken}; use letters, digits and + . _ -")


def _is_json(value: dict[Any, Any]) -> bool:
    """Whether config.json can record a value."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _yaml_hint(value: Any) -> str:
    """YAML reads 1e-3 as a text."""
    number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value)
    return f"; write {value.replace('e', '.0e')}" if number else ""
