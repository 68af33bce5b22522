"""The environments of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import d4rl_envs
from tasks.table import Task
from tasks.task_file import OwnTask

if TYPE_CHECKING:
    from d4rl_envs.vector import EnvVector


def make_vector(
    task: Task,
    seeds: Sequence[int],
    render_mode: str | None = None,
    backend: str = "native",
    legacy_python: str = "",
) -> EnvVector:
    """One environment per seed, see `d4rl_envs.make_vector`; a task file's are Gymnasium's."""
    if isinstance(task, OwnTask):
        from tasks.gymnasium_vector import GymnasiumVector

        return GymnasiumVector(task, seeds, render_mode)
    return d4rl_envs.make_vector(task, seeds, render_mode, backend, legacy_python)
