"""Pictures: by which OpenGL, one line where there is none, and videos of what was played."""

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
from tasks import get_task
from tests.conftest import ROOT
from utils import UserError

MAZE = get_task("maze2d-umaze-v1")
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")


@pytest.fixture(scope="module", params=rendering.HEADLESS)
def working(request):
    """A backend for machines without a display that works here."""
    if sys.platform != "linux":
        pytest.skip("EGL and OSMesa are looked for on Linux only")
    reason = rendering.probe(request.param)
    if reason:
        pytest.skip(f"no {request.param} here: {reason}")
    return request.param


@pytest.fixture
def probed(monkeypatch):
    """On a Linux without display: what is probed, and reasons that a test can give."""
    for name in DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    reasons, asked = dict.fromkeys(("glfw", "egl", "osmesa"), ""), []

    def probe(backend):
        asked.append(backend)
        return reasons[backend]

    monkeypatch.setattr(rendering, "probe", probe)
    return reasons, asked


def in_a_process(code, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in DISPLAYS} | variables
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )


DRAW = """
import envs
from d4rl_envs.tasks import get_task
from utils import UserError
vector = d4rl_envs.make_vector(get_task("hopper-medium-v2"), [0], "rgb_array")
vector.reset()
try:
    print(vector.render().std() > 10, d4rl_envs.rendering._context_class().__module__)
except UserError as error:
    print("error:", error)
"""


PLAY = """
from pathlib import Path
import numpy as np
import envs
from d4rl_envs.tasks import get_task
from video import VideoRecorder
vector = d4rl_envs.make_vector(get_task("maze2d-umaze-v1"), [0], "rgb_array")
vector.reset()
recorder = VideoRecorder(vector)
for _ in range(80):
    vector.step(np.ones((1, 2)))
    recorder.after_step()
recorder.save(Path("{path}"))
"""


def test_draws_by_what_the_user_names(working):
    done = in_a_process(DRAW, MUJOCO_GL=working)
    assert (done.stdout, done.stderr) == (f"True mujoco.{working}\n", "")


def test_draws_without_display_and_variable(working):
    done = in_a_process(DRAW)
    first = next(name for name in rendering.HEADLESS if not rendering.probe(name))
    assert (done.stdout, done.stderr) == (f"True mujoco.{first}\n", "")


@pytest.mark.parametrize("value", ["nonsense", "disable", "glfw"])
def test_what_cannot_draw_is_one_line_and_trains_all_the_same(value):
    """MuJoCo by itself fails when it is imported with some of these."""
    done = in_a_process(DRAW, MUJOCO_GL=value)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert f"MUJOCO_GL={value}" in done.stdout and "unset it" in done.stdout


def test_order_without_display(probed):
    reasons, asked = probed
    assert rendering.choose_backend() == "egl"
    reasons["egl"] = "ImportError: no EGL"
    assert rendering.choose_backend() == "osmesa"
    assert asked == ["egl", "egl", "osmesa"]


def test_order_with_a_display(probed, monkeypatch):
    reasons, _ = probed
    monkeypatch.setenv("DISPLAY", ":0")
    assert rendering.choose_backend() == "glfw"
    reasons["glfw"] = "GLFWError: no such screen"
    assert rendering.choose_backend() == "egl"


def test_other_systems_have_their_own(probed, monkeypatch):
    _, asked = probed
    monkeypatch.setattr(sys, "platform", "darwin")
    assert rendering.choose_backend() == "cgl"
    monkeypatch.setattr(sys, "platform", "win32")
    assert rendering.choose_backend() == "glfw"
    assert asked == []


def test_no_opengl_is_one_line_with_the_remedy(probed):
    reasons, _ = probed
    reasons |= {"egl": "ImportError: no EGL", "osmesa": "AttributeError: no OSMesa"}
    with pytest.raises(UserError) as error:
        rendering.choose_backend()
    said = str(error.value)
    assert "egl: ImportError: no EGL; osmesa: AttributeError: no OSMesa" in said
    assert "apt install" in said and "\n" not in said


def test_the_users_choice_is_not_overruled(probed, monkeypatch):
    reasons, asked = probed
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    assert rendering.choose_backend() == "osmesa"
    reasons["osmesa"] = "AttributeError: no OSMesa"
    with pytest.raises(UserError, match="MUJOCO_GL=osmesa does not work here"):
        rendering.choose_backend()
    assert asked == ["osmesa", "osmesa"]


def test_probe_tells_why_not():
    assert "ModuleNotFoundError" in rendering.probe("vulkan")


def test_probe_survives_a_crash_and_a_hang(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.abort()")
    assert rendering.probe("egl") == "signal 6"
    monkeypatch.setattr(rendering, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(rendering, "_PROBE_SECONDS", 0.2)
    assert rendering.probe("egl") == "TimeoutExpired"


class Painted:
    """Stands for environments that draw: frame i is of the colour i."""

    class _Env:
        dt = 0.04

    def __init__(self):
        self.steps, self.faulted, self.envs = np.zeros(1, int), np.zeros(1, bool), [self._Env()]

    def render(self, index):
        return np.full((30, 50, 3), 8 * self.steps[index], np.uint8)


def record(steps):
    painted = Painted()
    recorder = VideoRecorder(painted)  # type: ignore[arg-type]
    for step in range(1, steps + 1):
        painted.steps[:] = step
        recorder.after_step()
    return recorder


def test_gif_has_the_frames_and_their_times(tmp_path):
    record(20).save(tmp_path / "new" / "a.gif")
    with Image.open(tmp_path / "new" / "a.gif") as picture:
        assert (picture.size, picture.info["duration"]) == ((240, 144), 80)
    frames = iio.imread(tmp_path / "new" / "a.gif")
    colours = frames[..., :3].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(colours, [16.0 * (i + 1) for i in range(10)], atol=2)


def test_mp4_has_the_frames_and_their_times(tmp_path):
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


def test_a_real_episode(working, tmp_path):
    done = in_a_process(PLAY.format(path=tmp_path / "a.gif"), MUJOCO_GL=working)
    assert done.stderr == ""
    frames = iio.imread(tmp_path / "a.gif")[..., :3].astype(float)
    # pictures that are the same are one frame that lasts
    assert 3 <= len(frames) <= 10
    assert frames[0].std() > 20  # walls, ball and goal
    moved = np.abs(frames[0] - frames[-1]).max(axis=-1) > 50
    assert 0 < moved.mean() < 0.05  # the ball


def test_kinds(monkeypatch, tmp_path):
    check_kind(tmp_path / "a.GIF")
    with pytest.raises(UserError, match=r"--video .*a.avi: unknown kind .* .gif or .mp4"):
        check_kind(tmp_path / "a.avi")
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    check_kind(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"MP4 needs imageio and av; pip install"):
        check_kind(tmp_path / "a.mp4")


def test_vectors_without_pictures_say_so():
    with pytest.raises(UserError, match="do not render"):
        d4rl_envs.make_vector(MAZE, [0]).render()
