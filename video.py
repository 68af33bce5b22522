"""Videos of evaluation episodes, as GIF files that any viewer shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from envs import EnvVector
from utils import UserError, atomic_write


class VideoRecorder:
    """Keeps frames of the first environment of a vector.

    Args:
        envs: Environments made with `render_mode="rgb_array"`.
        every: Steps between frames.
        width: Width of the video in pixels.
    """

    def __init__(self, envs: EnvVector, every: int = 4, width: int = 240) -> None:
        self._envs, self._every, self._width = envs, every, width
        self._frames: list[Image.Image] = []
        self._seen = 0  # steps of the episode at the last frame
        self.problem = ""

    def after_step(self) -> None:
        """Take a frame where one is due; without OpenGL say why in `problem` and go on."""
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

    def save(self, path: Path, seconds_per_step: float = 0.02) -> None:
        """Write the frames taken since the last call, if any."""
        frames, self._frames, self._seen = self._frames, [], 0
        if not frames:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        duration = round(1000 * seconds_per_step * self._every)
        with atomic_write(path) as file:
            frames[0].save(
                file, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0
            )
