"""Behaviour policies from files of NumPy arrays: the goal-reaching ant and the Adroit experts.

antmaze: `fc0/weight, fc0/bias, fc1/weight, fc1/bias` (ReLU), `last_fc/*` (mean) and
`last_fc_log_std/*`; input: the observation without x and y, and the direction of the goal.
Adroit: `in_shift, in_scale, W0, b0, W1, b1` (tanh), `W2, b2, out_shift, out_scale, log_std`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks import Task
from utils import UserError

# the length of the goal direction that the ant was trained with
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
    """A tanh-squashed Gaussian that walks an ant in a direction."""

    def __init__(self, path: Path, task: Task) -> None:
        # x and y are left out, two numbers of direction come in
        sizes = {"in": task.obs_dim, "act": task.act_dim}
        self._arrays = load_arrays(path, _ANT_SHAPES, sizes)

    def sample(
        self, obs: np.ndarray, direction: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """An action (8,) in (-1, 1).

        Args:
            obs: (29,) positions, of which the first two are x and y, and velocities.
            direction: (2,) from the ant to where it should go; its length does not matter.
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
    """A Gaussian with a fixed deviation around a network of two tanh layers."""

    def __init__(self, path: Path, task: Task) -> None:
        sizes = {"in": task.obs_dim, "act": task.act_dim}
        self._arrays = load_arrays(path, _HAND_SHAPES, sizes)

    def mean(self, obs: np.ndarray) -> np.ndarray:
        """Mean actions (..., act_dim), not clipped, for observations (..., obs_dim)."""
        a = self._arrays
        x = (obs - a["in_shift"]) / (a["in_scale"] + _SCALE_FLOOR)
        x = np.tanh(x @ a["W0"].T + a["b0"])
        x = np.tanh(x @ a["W1"].T + a["b1"])
        return (x @ a["W2"].T + a["b2"]) * a["out_scale"] + a["out_shift"]

    def sample(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions (..., act_dim) clipped to [-1, 1] for observations (..., obs_dim)."""
        mean = self.mean(obs)
        noise = rng.standard_normal(mean.shape)
        return np.clip(mean + np.exp(self._arrays["log_std"]) * noise, -1.0, 1.0)


def load_arrays(
    path: Path, shapes: dict[str, tuple[str, ...]], sizes: dict[str, int]
) -> dict[str, np.ndarray]:
    """Read a policy's arrays as float64; nothing in the file is unpickled.

    Args:
        shapes: For each array the names of its dimensions; equal names have equal sizes.
        sizes: The sizes that are known beforehand.

    Raises:
        UserError: not a file of arrays, an array is missing, has another shape, or is not finite.
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
    """These arrays of an .npz file, in this order."""
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
    except Exception as error:  # of a damaged file zipfile, zlib and tokenize raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"--policy {path}: not an .npz file of arrays ({reason})") from None
