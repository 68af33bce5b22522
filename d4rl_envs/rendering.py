"""Pictures of MuJoCo models, with or without a screen.

MuJoCo reads the environment variable MUJOCO_GL when it is imported, and draws by GLFW, which needs
a window system, where it is not set. Here OpenGL is left alone until the first picture is asked
for. Then the user's MUJOCO_GL counts; without it, the first of GLFW (only where there is a
display), EGL and OSMesa that draws a test picture. It is drawn in a process of its own, because a
library that fails can take the process with it, or stay loaded in place of the next one.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import re
import subprocess
import sys
import weakref
from typing import Any

VARIABLE = "MUJOCO_GL"
_set_by_user = os.environ.get(VARIABLE)
# without a context of its own MuJoCo imports everywhere, whatever libraries are missing
os.environ[VARIABLE] = "disable"
import mujoco  # noqa: E402

if _set_by_user is None:
    del os.environ[VARIABLE]
else:
    os.environ[VARIABLE] = _set_by_user

from d4rl_envs.errors import UserError  # noqa: E402

HEADLESS = ("egl", "osmesa")
INSTALL = "install one (Debian: apt install libegl1 libgl1-mesa-dri, or libosmesa6)"
# the values that MuJoCo documents, and what draws then
_OFF = dict.fromkeys(("disable", "disabled", "off", "false", "0"), "")
_ON = dict.fromkeys(("", "enable", "enabled", "on", "true", "1"), "glfw")
BACKENDS = {**_OFF, **_ON, "glfw": "glfw", "glx": "glfw", "egl": "egl", "osmesa": "osmesa"}
_PROBE = """
import importlib, mujoco, sys
mujoco.gl_context.GLContext = importlib.import_module(f"mujoco.{sys.argv[1]}").GLContext
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().any(), "its pictures are black"
renderer.close()
"""
_PROBE_SECONDS = 60


def probe(backend: str) -> str:
    """Why a backend ("glfw", "egl", "osmesa") cannot draw here; empty where it can."""
    environment = os.environ | {VARIABLE: "disable"}
    command = [sys.executable, "-c", _PROBE, backend]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=_PROBE_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    # the first error; those after it come from cleaning up
    said = re.search(r"^(?! ).*?\b(\w*Error\b.*)", done.stderr, re.MULTILINE)
    return " ".join(said[1].split())[:100] if said else f"exit code {done.returncode}"


def choose_backend() -> str:
    """What to draw with.

    Raises:
        UserError: nothing draws here, or not what MUJOCO_GL asks for.
    """
    named = os.environ.get(VARIABLE, "").lower().strip()
    if named:
        return _named_backend(named)
    if sys.platform == "darwin":
        return "cgl"
    if sys.platform != "linux":
        return "glfw"
    display = not {"DISPLAY", "WAYLAND_DISPLAY"}.isdisjoint(os.environ)
    reasons = []
    for backend in (*(["glfw"] if display else []), *HEADLESS):
        reason = probe(backend)
        if not reason:
            return backend
        reasons.append(f"{backend}: {reason}")
    raise UserError(
        f"rendering needs OpenGL, and none works here ({'; '.join(reasons)}); {INSTALL}"
    )


def _named_backend(named: str) -> str:
    backend = BACKENDS.get(named)
    if backend is None:
        raise UserError(
            f"{VARIABLE}={named}: unknown; use egl, osmesa or glfw, or unset it to have one chosen"
        )
    if not backend:
        raise UserError(f"{VARIABLE}={named} turns rendering off; unset it to have one chosen")
    if sys.platform == "darwin":
        return "cgl"
    reason = probe(backend)
    if reason:
        raise UserError(
            f"rendering needs OpenGL, and {VARIABLE}={named} does not work here ({reason}); "
            "unset it to have another chosen"
        )
    return backend


@functools.cache
def _context_class() -> Any:
    return importlib.import_module(f"mujoco.{choose_backend()}").GLContext


def _make_context(width: int, height: int) -> Any:
    """An OpenGL context for MuJoCo's own renderer, whoever makes one."""
    return _context_class()(width, height)


mujoco.GLContext = mujoco.gl_context.GLContext = _make_context


def make_renderer(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.Renderer:
    """A renderer of pictures (height, width).

    Raises:
        UserError: no OpenGL context could be made.
    """
    _context_class()  # before the renderer, which is not made in halves
    try:
        renderer = mujoco.Renderer(model, *size)
    except Exception as error:  # every OpenGL backend raises exceptions of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"rendering needs OpenGL ({reason}); {INSTALL}") from None
    # exit handlers run in reverse: this one before MuJoCo's own, which shuts EGL down
    atexit.register(_close, weakref.ref(renderer))
    return renderer


def _close(reference: weakref.ref[mujoco.Renderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()
