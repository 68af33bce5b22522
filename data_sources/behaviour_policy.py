"""Behaviour policies from .npz files: the goal-reaching ant and the Adroit experts.

docs/DATASETS.md lists the arrays of both kinds of file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks import Task
from utils import UserError

# length of the goal direction in the ant's training
GOAL_NORM = 10.0
_LOG_STD_RANGE = (-20.0, 2.0)
_SCALE_FLOOR = 1e-8

_ANT_SHAPES = {
    "fc0/weight": ("h0", "in"), "fc0/bias": ("h0",),
    "fc1/weight": ("h1", "h0"), "fc1/bias": ("h1",),
    "last_fc/weight": ("act", "h1"), "last_fc/bias": ("act",),
    "last_fc_log_std/weight": ("act", "h1"), "last_fc_log_std/bias": ("act",),
}  # fmt: skip
_HAND_SHAPES = {
    "in_shift": ("in",), "in_scale": ("in",),
    "W0": ("h0", "in"), "b0": ("h0",),
    "W1": ("h1", "h0"), "b1": ("h1",),
    "W2": ("act", "h1"), "b2": ("act",),
    "out_shift": ("act",), "out_scale": ("act",), "log_std": ("act",),
}  # fmt: skip


class AntPolicy:
    """A tanh-squashed Gaussian policy that walks an ant in a given direction."""

    def __init__(self, path: Path, task: Task) -> None:
        # the direction replaces x and y, so that the width is the same
        sizes = {"in": task.obs_dim, "act": task.act_dim}
        self._arrays = load_arrays(path, _ANT_SHAPES, sizes)

    def sample(
        self, obs: np.ndarray, direction: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """An action (8,) in (-1, 1).

        Args:
            obs: (29,) positions, beginning with x and y, and velocities.
            direction: (2,) from the ant to its waypoint, of any length.
        """
        a = self._arrays
        length = max(float(np.linalg.norm(direction)), _SCALE_FLOOR)
        x = np.concatenate((obs[2:], direction * (GOAL_NORM / length)))
        for layer in ("fc0", "fc1"):
            x = np.maximum(a[f"{layer}/weight"] @ x + a[f"{layer}/bias"], 0.0)
        mean = a["last_fc/weight"] @ x + a["last_fc/bias"]
        log_std = a["last_fc_log_std/weight"] @ x + a["last_fc_log_std/bias"]
        noise = rng.standard_normal(mean.shape)
        return np.tanh(mean + np.exp(np.clip(log_std, *_LOG_STD_RANGE)) * noise)


class HandPolicy:
    """A Gaussian policy with a fixed standard deviation and two tanh layers."""

    def __init__(self, path: Path, task: Task) -> None:
        sizes = {"in": task.obs_dim, "act": task.act_dim}
        self._arrays = load_arrays(path, _HAND_SHAPES, sizes)

    def mean(self, obs: np.ndarray) -> np.ndarray:
        """Unclipped mean actions (..., act_dim) for observations (..., obs_dim)."""
        a = self._arrays
        x = (obs - a["in_shift"]) / (a["in_scale"] + _SCALE_FLOOR)
        x = np.tanh(x @ a["W0"].T + a["b0"])
        x = np.tanh(x @ a["W1"].T + a["b1"])
        return (x @ a["W2"].T + a["b2"]) * a["out_scale"] + a["out_shift"]

    def sample(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Sampled actions (..., act_dim), clipped to [-1, 1], for observations (..., obs_dim)."""
        mean = self.mean(obs)
        noise = rng.standard_normal(mean.shape)
        return np.clip(mean + np.exp(self._arrays["log_std"]) * noise, -1.0, 1.0)


def load_arrays(
    path: Path, shapes: dict[str, tuple[str, ...]], sizes: dict[str, int]
) -> dict[str, np.ndarray]:
    """Read a policy's arrays as float64; nothing in the file is unpickled.

    Args:
        shapes: Names of each array's dimensions; dimensions of equal names have equal sizes.
        sizes: Sizes that are known in advance, by name.

    Raises:
        UserError: not an .npz file, or an array is missing, has the wrong shape or is not finite.
    """
    sizes = dict(sizes)
    arrays = {}
    for name, array in _read(path, list(shapes)).items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise UserError(f"--policy {path}: {name} is not an array of finite numbers")
        expected = tuple(sizes.get(dimension, "any") for dimension in shapes[name])
        good = array.ndim == len(expected) and all(
            wanted in ("any", found) for wanted, found in zip(expected, array.shape, strict=True)
        )
        if not good:
            form = ", ".join(map(str, expected))
            raise UserError(f"--policy {path}: {name} has shape {array.shape} instead of ({form})")
        sizes |= dict(zip(shapes[name], array.shape, strict=True))
        arrays[name] = array.astype(np.float64)
    return arrays


def _read(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file."""
    if not path.is_file():
        raise UserError(f"--policy {path}: no such file")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"--policy {path}: not an .npz file of arrays")
        with file:
            missing = [name for name in names if name not in file]
            if missing:
                raise UserError(f"--policy {path}: no {', '.join(missing)} in this file")
            return {name: np.asarray(file[name]) for name in names}
    except UserError:
        raise
    except Exception as error:  # damaged files raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--policy {path}: not an .npz file of arrays ({reason})") from None
