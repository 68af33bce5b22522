"""MuJoCo as this package uses it: `from d4rl_envs.engine import mujoco`.

Importing MuJoCo loads an OpenGL backend (GLFW unless MUJOCO_GL selects another one) and fails if
that backend does not work. Here the import loads none; rendering.py chooses one when an image is
first rendered.
"""

from __future__ import annotations

import logging
import os
import re

TESTED_VERSION = "3.2.6"
GL_VARIABLE = "MUJOCO_GL"

_users_choice = os.environ.get(GL_VARIABLE)
os.environ[GL_VARIABLE] = "disable"
try:
    import mujoco
finally:
    if _users_choice is None:
        del os.environ[GL_VARIABLE]
    else:
        os.environ[GL_VARIABLE] = _users_choice

_logger = logging.getLogger(__name__)
# MuJoCo's warnings since the last environment step; the environment that stepped clears them
pending_warnings: list[str] = []
# logged warnings, without their numbers
_logged: set[str] = set()


def _on_warning(message: str) -> None:
    """Log each kind of warning once; by default MuJoCo appends every one to MUJOCO_LOG.TXT."""
    kind = re.sub(r"[-+.\w]*\d[-+.\w]*", "", message)
    if kind not in _logged:
        _logged.add(kind)
        _logger.warning("MuJoCo: %s", message)
    pending_warnings.append(message)


def check_version(version: str) -> None:
    """Warn about a MuJoCo release whose dynamics were not compared with the old engine's."""
    if version != TESTED_VERSION:
        _logger.warning(
            "MuJoCo %s: only %s is known to match the benchmark's dynamics; "
            "pip install mujoco==%s",
            version, TESTED_VERSION, TESTED_VERSION,
        )  # fmt: skip


mujoco.set_mju_user_warning(_on_warning)
check_version(mujoco.__version__)
