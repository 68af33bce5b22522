"""OpenGL for MuJoCo's renderer, with or without a display.

The first image chooses a backend: the one that MUJOCO_GL selects; if it is unset, the first of GLFW
(only with a display), EGL and OSMesa that renders a test image. The test runs in a subprocess,
because a failing library may crash the process or stay loaded and break the next one.
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

from d4rl_envs.engine import GL_VARIABLE, mujoco
from d4rl_envs.errors import UserError

HEADLESS = ("egl", "osmesa")
INSTALL = "install one (Debian: apt install libegl1 libgl1-mesa-dri, or libosmesa6)"
# the values of MUJOCO_GL that MuJoCo documents, and the backend of each
_OFF = dict.fromkeys(("disable", "disabled", "off", "false", "0"), "")
_ON = dict.fromkeys(("enable", "enabled", "on", "true", "1"), "glfw")
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
assert renderer.render().any(), "its images are black"
renderer.close()
"""
_PROBE_SECONDS = 60


def probe(backend: str) -> str:
    """Why a backend ("glfw", "egl", "osmesa") cannot render here; empty if it can."""
    environment = os.environ | {GL_VARIABLE: "disable"}
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
    # the first error; later ones come from cleaning up
    reason = re.search(r"^(?! ).*?\b(\w*Error\b.*)", done.stderr, re.MULTILINE)
    return " ".join(reason[1].split())[:100] if reason else f"exit code {done.returncode}"


def choose_backend() -> str:
    """The backend to render with.

    Raises:
        UserError: no backend works, or the one selected by MUJOCO_GL does not.
    """
    selected = os.environ.get(GL_VARIABLE, "").lower().strip()
    if selected:
        return _selected_backend(selected)
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


def _selected_backend(selected: str) -> str:
    setting, backend = f"{GL_VARIABLE}={selected}", BACKENDS.get(selected)
    if backend is None:
        raise UserError(
            f"{setting}: unknown backend; use egl, osmesa or glfw, or unset it to choose one "
            "automatically"
        )
    if not backend:
        raise UserError(f"{setting}: rendering is disabled; unset it")
    if sys.platform == "darwin":
        return "cgl"
    reason = probe(backend)
    if reason:
        raise UserError(f"{setting}: this backend does not work ({reason}); unset it to try others")
    return backend


@functools.cache
def _context_class() -> Any:
    return importlib.import_module(f"mujoco.{choose_backend()}").GLContext


# mujoco.Renderer creates its OpenGL context with these
mujoco.GLContext = mujoco.gl_context.GLContext = lambda *size: _context_class()(*size)


def make_renderer(model: mujoco.MjModel, size: tuple[int, int]) -> mujoco.Renderer:
    """A renderer of images (height, width).

    Raises:
        UserError: no OpenGL context can be created.
    """
    _context_class()  # first: a renderer that fails halfway raises again when it is deleted
    try:
        renderer = mujoco.Renderer(model, *size)
    except Exception as error:  # each OpenGL backend has its own exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"rendering needs OpenGL ({reason}); {INSTALL}") from None
    # exit handlers run in reverse order: this one before MuJoCo's, which shuts EGL down
    atexit.register(_close, weakref.ref(renderer))
    return renderer


def _close(reference: weakref.ref[mujoco.Renderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()
