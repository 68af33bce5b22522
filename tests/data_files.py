"""Small datasets with random content, and a loop that splits them row by row as a reference."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from data import load_dataset
from offline_data.split import GYM_FAMILIES
from tasks import Task
from utils import UserError


def random_arrays(task: Task, rows: int, seed: int, ends: float = 0.2) -> dict[str, np.ndarray]:
    """Arrays of a dataset whose episodes end at random, by terminal or timeout.

    Observations barely move within an episode, so that all steps are possible.
    """
    rng = np.random.default_rng(seed)
    terminals, timeouts = rng.random(rows) < ends, rng.random(rows) < ends
    last = terminals | timeouts
    places = rng.normal(size=(rows + 1, task.obs_dim), scale=0.5)[np.cumsum(last) - last]
    arrays: dict[str, np.ndarray] = {
        "observations": (places + 0.01 * rng.normal(size=places.shape)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    if task.family in ("maze2d", "antmaze") and not task.dense:
        arrays["rewards"] = (arrays["rewards"] > 0).astype(np.float32)
    if task.family in GYM_FAMILIES:
        following = np.roll(arrays["observations"], -1, axis=0)
        following[last] = rng.normal(size=(last.sum(), task.obs_dim))
        arrays["next_observations"] = following
    return arrays


def write(path: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return path


def dataset_fault(path: Path | None, task: Task) -> str:
    """The error message of loading, which must be one line that begins with the path."""
    with pytest.raises(UserError) as error:
        load_dataset(path, task)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def split_by_loop(task: Task, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Trajectories in file order, by the rules of docs/DATASETS.md."""
    rows = len(arrays["rewards"])
    gym = task.family in GYM_FAMILIES
    timeouts = arrays.get("timeouts")
    steps, taken = 0, []
    for i in range(rows):
        steps += 1
        terminal = bool(arrays["terminals"][i])
        at_horizon = steps == task.horizon and not terminal
        timeout = at_horizon if timeouts is None else bool(timeouts[i])
        end = terminal or timeout
        if end:
            steps = 0
        if not gym and i == rows - 1:
            break  # no next row
        following = arrays["next_observations"][i] if gym else arrays["observations"][i + 1]
        taken.append((i, timeout, end, following))
    if task.family == "antmaze":
        taken = [row for row in taken if not row[1]]
    trajectories, current = [], []
    for position, (i, _, end, following) in enumerate(taken):
        current.append(i)
        if task.family == "antmaze":
            last = position == len(taken) - 1
            jump = not last and bool(
                np.linalg.norm(arrays["observations"][taken[position + 1][0]] - following) > 1e-6
            )
            end = bool(arrays["terminals"][i]) or last or jump
        if end:
            terminals = arrays["terminals"][current].copy()
            if task.family == "antmaze":
                terminals[:] = False
                terminals[-1] = True
            trajectories.append(
                {
                    "observations": arrays["observations"][current],
                    "actions": arrays["actions"][current],
                    "raw_rewards": arrays["rewards"][current],
                    "terminals": terminals,
                    "final_observation": following,
                }
            )
            current = []
    return trajectories
