"""The D4RL benchmark environments on modern MuJoCo with the old dynamics.

Importing this package registers every task with Gymnasium under its D4RL id.
"""

from __future__ import annotations

from collections.abc import Sequence

from envs.registration import make, register_all
from envs.tasks import Task
from envs.vector import EnvVector

__all__ = ["EnvVector", "make", "make_vector"]

register_all()


def make_vector(task: Task, seeds: Sequence[int], render_mode: str | None = None) -> EnvVector:
    """As many environments of a task as there are seeds, for rollouts in this process."""
    return EnvVector(task, seeds, render_mode)
