"""Rendering: choice of the OpenGL backend, errors without one, videos."""

import os
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

import d4rl_envs
from d4rl_envs import rendering
from run import video
from run.video import VideoRecorder, check_kind
from tests.conftest import ROOT
from utils import UserError

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")


@pytest.fixture(scope="module", params=rendering.HEADLESS)
def working(request):
    """A headless backend that works on this machine."""
    if sys.platform != "linux":
        pytest.skip("EGL and OSMesa are used on Linux only")
    reason = rendering.probe(request.param)
    if reason:
        pytest.skip(f"{request.param} does not work here: {reason}")
    return request.param


@pytest.fixture
def probed(monkeypatch):
    """Linux without a display: reasons that `probe` returns, which tests set, and its calls."""
    for name in DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    reasons, calls = dict.fromkeys(("glfw", "egl", "osmesa"), ""), []

    def probe(backend):
        calls.append(backend)
        return reasons[backend]

    monkeypatch.setattr(rendering, "probe", probe)
    return reasons, calls


def in_a_process(code, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in DISPLAYS} | variables
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )


DRAW = """
from d4rl_envs import UserError, get_task, make_vector, rendering
vector = make_vector(get_task("hopper-medium-v2"), [0], "rgb_array")
vector.reset()
try:
    print(vector.render().std() > 10, rendering._context_class().__module__)
except UserError as error:
    print("error:", error)
"""


def test_selected_backend_renders(working):
    done = in_a_process(DRAW, MUJOCO_GL=working)
    assert (done.stdout, done.stderr) == (f"True mujoco.{working}\n", "")


def test_first_working_backend_renders_by_default(working):
    done = in_a_process(DRAW)
    first = next(name for name in rendering.HEADLESS if not rendering.probe(name))
    assert (done.stdout, done.stderr) == (f"True mujoco.{first}\n", "")


@pytest.mark.parametrize("value", ["nonsense", "disable", "glfw"])
def test_unusable_backend_fails_only_when_rendering(value):
    """With some of these values, importing MuJoCo directly fails."""
    done = in_a_process(DRAW, MUJOCO_GL=value)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert f"MUJOCO_GL={value}" in done.stdout and "unset it" in done.stdout


def test_backend_order_without_display(probed):
    reasons, calls = probed
    assert rendering.choose_backend() == "egl"
    reasons["egl"] = "ImportError: no EGL"
    assert rendering.choose_backend() == "osmesa"
    assert calls == ["egl", "egl", "osmesa"]


def test_backend_order_with_display(probed, monkeypatch):
    reasons, _ = probed
    monkeypatch.setenv("DISPLAY", ":0")
    assert rendering.choose_backend() == "glfw"
    reasons["glfw"] = "GLFWError: no such screen"
    assert rendering.choose_backend() == "egl"


def test_other_systems_use_their_native_backend(probed, monkeypatch):
    _, calls = probed
    monkeypatch.setattr(sys, "platform", "darwin")
    assert rendering.choose_backend() == "cgl"
    monkeypatch.setattr(sys, "platform", "win32")
    assert rendering.choose_backend() == "glfw"
    assert calls == []


def test_no_working_backend_is_a_one_line_error(probed):
    reasons, _ = probed
    reasons |= {"egl": "ImportError: no EGL", "osmesa": "AttributeError: no OSMesa"}
    with pytest.raises(UserError) as error:
        rendering.choose_backend()
    message = str(error.value)
    assert "egl: ImportError: no EGL; osmesa: AttributeError: no OSMesa" in message
    assert "apt install" in message and "\n" not in message


def test_selected_backend_is_the_only_one_tried(probed, monkeypatch):
    reasons, calls = probed
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    assert rendering.choose_backend() == "osmesa"
    reasons["osmesa"] = "AttributeError: no OSMesa"
    with pytest.raises(UserError, match=r"MUJOCO_GL=osmesa: .* \(AttributeError: no OSMesa\)"):
        rendering.choose_backend()
    assert calls == ["osmesa", "osmesa"]


def test_probe_returns_the_error():
    assert "ModuleNotFoundError" in rendering.probe("vulkan")


def test_probe_handles_a_crash_and_a_hang(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.abort()")
    assert rendering.probe("egl") == "signal 6"
    monkeypatch.setattr(rendering, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(rendering, "_PROBE_SECONDS", 0.2)
    assert rendering.probe("egl") == "TimeoutExpired"


class FakeVector:
    """Environments whose image at step i has the grey value 8 i."""

    class _Env:
        dt = 0.04

    def __init__(self):
        self.steps, self.faulted, self.envs = np.zeros(1, int), np.zeros(1, bool), [self._Env()]

    def render(self, index):
        return np.full((30, 50, 3), 8 * self.steps[index], np.uint8)


def record(steps):
    vector = FakeVector()
    recorder = VideoRecorder(vector)  # type: ignore[arg-type]
    for step in range(1, steps + 1):
        vector.steps[:] = step
        recorder.after_step()
    return recorder


def test_gif_has_frames_and_durations(tmp_path):
    record(20).save(tmp_path / "new" / "a.gif")
    with Image.open(tmp_path / "new" / "a.gif") as picture:
        assert (picture.size, picture.info["duration"]) == ((240, 144), 80)
    frames = iio.imread(tmp_path / "new" / "a.gif")
    colours = frames[..., :3].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(colours, [16.0 * (i + 1) for i in range(10)], atol=2)


def test_mp4_has_frames_and_rate(tmp_path):
    pytest.importorskip("av")
    record(20).save(tmp_path / "a.mp4")
    frames = iio.imread(tmp_path / "a.mp4", plugin="pyav")
    assert frames.shape == (10, 144, 240, 3)
    assert iio.immeta(tmp_path / "a.mp4", plugin="pyav")["fps"] == 12.5
    np.testing.assert_allclose(
        frames.mean(axis=(1, 2, 3)), [16.0 * (i + 1) for i in range(10)], atol=4
    )


def test_saving_starts_a_new_video(tmp_path):
    recorder = record(4)
    recorder.save(tmp_path / "a.gif")
    recorder.save(tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_video_of_an_episode(tmp_path):
    vector = d4rl_envs.make_vector(d4rl_envs.get_task("maze2d-umaze-v1"), [0], "rgb_array")
    recorder = VideoRecorder(vector)
    vector.reset()
    for _ in range(80):
        vector.step(np.ones((1, 2)))
        recorder.after_step()
    if recorder.problem:
        pytest.skip(recorder.problem)
    recorder.save(tmp_path / "a.gif")
    frames = iio.imread(tmp_path / "a.gif")[..., :3].astype(float)
    # GIF merges identical frames
    assert 3 <= len(frames) <= 10
    assert frames[0].std() > 20  # walls, ball and goal
    moved = np.abs(frames[0] - frames[-1]).max(axis=-1) > 50
    assert 0 < moved.mean() < 0.05  # the ball


def test_unsupported_video_file_is_rejected(monkeypatch, tmp_path):
    check_kind(tmp_path / "a.GIF")
    with pytest.raises(UserError, match=r"--video .*a.avi: unknown kind .* .gif or .mp4"):
        check_kind(tmp_path / "a.avi")
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    check_kind(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"MP4 needs imageio and av; pip install"):
        check_kind(tmp_path / "a.mp4")


def test_vector_without_render_mode_does_not_render():
    with pytest.raises(UserError, match="do not render"):
        d4rl_envs.make_vector(d4rl_envs.get_task("maze2d-umaze-v1"), [0]).render()
