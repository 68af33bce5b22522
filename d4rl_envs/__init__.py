"""The D4RL benchmark environments on modern MuJoCo with the old dynamics.

Importing this package registers every task with Gymnasium under its D4RL id.
"""

from __future__ import annotations

from collections.abc import Sequence

from d4rl_envs import rendering  # isort: skip - before anything imports MuJoCo
from d4rl_envs.legacy import LegacyEnvVector
from d4rl_envs.registration import make, register_all
from d4rl_envs.tasks import D4RLTask
from d4rl_envs.vector import EnvVector

__all__ = ["EnvVector", "make", "make_vector", "rendering"]

register_all()


def make_vector(
    task: D4RLTask,
    seeds: Sequence[int],
    render_mode: str | None = None,
    backend: str = "native",
    legacy_python: str = "",
) -> EnvVector:
    """As many environments of a task as there are seeds, for rollouts.

    Args:
        render_mode: "rgb_array" for environments that `render`; native ones only.
        backend: "native", in this process, or "d4rl", the original engine in another one.
        legacy_python: The interpreter for the latter, see `legacy.legacy_python`.
    """
    if backend == "d4rl":
        return LegacyEnvVector(task, seeds, legacy_python)
    return EnvVector(task, seeds, render_mode)
