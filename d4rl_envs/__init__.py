"""The D4RL benchmark environments on current MuJoCo bindings, with D4RL's dynamics.

Importing this package registers every task with Gymnasium under its D4RL id. MuJoCo is loaded when
the first environment is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from d4rl_envs import datasets
from d4rl_envs.errors import UserError
from d4rl_envs.registration import make, register_all
from d4rl_envs.tasks import TASKS, D4RLTask, get_task

if TYPE_CHECKING:
    from d4rl_envs.vector import EnvVector

__all__ = ["TASKS", "D4RLTask", "UserError", "datasets", "get_task", "make", "make_vector"]

register_all()


def make_vector(
    task: D4RLTask,
    seeds: Sequence[int],
    render_mode: str | None = None,
    backend: str = "native",
    legacy_python: str = "",
) -> EnvVector:
    """One environment per seed, for rollouts.

    Args:
        render_mode: "rgb_array" for environments that render (native backend only).
        backend: "native", in this process, or "d4rl", the original engine in another process.
        legacy_python: Interpreter of the original engine, see `legacy.legacy_python`.
    """
    if backend == "d4rl":
        from d4rl_envs.legacy import LegacyEnvVector

        return LegacyEnvVector(task, seeds, legacy_python)
    from d4rl_envs.vector import EnvVector

    return EnvVector(task, seeds, render_mode)
