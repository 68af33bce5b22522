"""Videos of evaluation episodes: GIF or MP4 (H.264)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils import UserError, atomic_write

if TYPE_CHECKING:
    from PIL import Image

    from d4rl_envs.vector import EnvVector

KINDS = (".gif", ".mp4")


def check_kind(path: Path) -> None:
    """Check that a video can be written to a file of this name.

    Raises:
        UserError: unknown file type, or a type whose packages are not installed.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"--video {path}: unknown kind of video; end it in {' or '.join(KINDS)}")
    missing = [name for name in ("imageio", "av") if importlib.util.find_spec(name) is None]
    if kind == ".mp4" and missing:
        raise UserError(
            f"--video {path}: MP4 needs {' and '.join(missing)}; "
            "pip install -r requirements-video.txt, or use .gif"
        )


class VideoRecorder:
    """Records frames of the first environment of a vector.

    Args:
        envs: Environments made with `render_mode="rgb_array"`.
        seconds: Approximate time between frames; rounded to whole steps.
        width: Width of the video in pixels.

    Attributes:
        problem: Why frames cannot be rendered; "" if they can.
    """

    def __init__(self, envs: EnvVector, seconds: float = 0.08, width: int = 240) -> None:
        step = float(envs.envs[0].dt)
        self._envs, self._width = envs, width
        self._every = max(1, round(seconds / step))
        self._seconds = self._every * step
        self._frames: list[Image.Image] = []
        self._seen = 0  # steps of the episode at the last frame
        self.problem = ""

    def after_step(self) -> None:
        """Record a frame every few steps; without OpenGL, set `problem` instead."""
        from PIL import Image  # only if videos are recorded

        steps = int(self._envs.steps[0])
        if self.problem or steps == self._seen or steps % self._every or self._envs.faulted[0]:
            return
        self._seen = steps
        try:
            image = Image.fromarray(np.asarray(self._envs.render(0)))
        except UserError as error:
            self.problem = str(error)
            return
        height = round(image.height * self._width / image.width)
        self._frames.append(image.resize((self._width, height)))

    def save(self, path: Path) -> None:
        """Write the frames recorded since the last call, if any, in real time.

        Args:
            path: GIF or MP4 file, see `check_kind`.

        Raises:
            OSError: it cannot be written.
        """
        frames, self._frames, self._seen = self._frames, [], 0
        if not frames:
            return
        encode = _mp4 if path.suffix.lower() == ".mp4" else _gif
        video = encode(frames, self._seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(video)


def save_or_warn(
    recorder: VideoRecorder, run_dir: Path, name: str, warn: Callable[[str], object]
) -> VideoRecorder | None:
    """Write a run's video, or warn; returns None if no more videos can be recorded."""
    try:
        recorder.save(run_dir / name)
    except OSError as error:
        warn(f"{name} not written: {error}")
    if recorder.problem:
        warn(f"no videos: {recorder.problem}")
    return None if recorder.problem else recorder


def _gif(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """A looping GIF that shows each frame for `seconds`."""
    video = io.BytesIO()
    frames[0].save(
        video, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * seconds),
        loop=0,
    )  # fmt: skip
    return video.getvalue()


def _mp4(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """An MP4; H.264 requires even width and height."""
    import imageio.v3  # optional

    width, height = (size - size % 2 for size in frames[0].size)
    images = np.stack([np.asarray(frame.convert("RGB"))[:height, :width] for frame in frames])
    return imageio.v3.imwrite(
        "<bytes>", images, extension=".mp4", plugin="pyav", codec="libx264", fps=1 / seconds,
        out_pixel_format="yuv420p",
    )  # fmt: skip
