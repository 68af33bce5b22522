"""The module `d4rl` for programs that `python -m d4rl_envs` runs.

It is on the path of these programs and of all processes that they start, and nowhere else.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import d4rl_envs
except ModuleNotFoundError:  # in a checkout
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    import d4rl_envs

from d4rl_envs import datasets
from d4rl_envs.gym_env import OfflineEnv
from d4rl_envs.hdf5 import array_keys as get_keys

TASKS = d4rl_envs.TASKS
REF_MIN_SCORE = {name: task.ref_min_score for name, task in TASKS.items()}
REF_MAX_SCORE = {name: task.ref_max_score for name, task in TASKS.items()}
DATASET_URLS = {name: task.url for name, task in TASKS.items()}


def get_normalized_score(env_name: str, score: Any) -> Any:
    """0 for a random policy's return, 1 for an expert's."""
    return d4rl_envs.get_task(env_name).normalized_score(score) / 100.0


def reverse_normalized_score(env_name: str, score: Any) -> Any:
    """The return with this normalised score."""
    task = d4rl_envs.get_task(env_name)
    return score * (task.ref_max_score - task.ref_min_score) + task.ref_min_score


def qlearning_dataset(
    env: Any,
    dataset: dict[str, np.ndarray] | None = None,
    terminate_on_end: bool = False,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Transitions for Q-learning, see `datasets.qlearning`."""
    dataset = env.get_dataset(**kwargs) if dataset is None else dataset
    return datasets.qlearning(dataset, _horizon(env, dataset), terminate_on_end)


def sequence_dataset(
    env: Any, dataset: dict[str, np.ndarray] | None = None, **kwargs: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Whole episodes, see `datasets.sequences`."""
    dataset = env.get_dataset(**kwargs) if dataset is None else dataset
    return datasets.sequences(dataset, _horizon(env, dataset))


def _horizon(env: Any, dataset: dict[str, np.ndarray]) -> int | None:
    return None if "timeouts" in dataset else env._max_episode_steps


def set_dataset_path(path: str) -> None:
    """Keep datasets in this folder, in this process and in those it starts."""
    os.makedirs(path, exist_ok=True)  # noqa: PTH103 - accepts what D4RL accepts
    os.environ[datasets.FOLDER_VARIABLE] = str(path)


def download_dataset_from_url(dataset_url: str) -> str:
    """The local file of the dataset with this address, downloaded if it is missing."""
    return str(datasets.local_file(next(t for t in TASKS.values() if t.url == dataset_url)))


# d4rl is a package; these are the modules of it that programs import, with what they use of them
_MODULES: dict[str, dict[str, Any]] = {
    "infos": {
        "REF_MIN_SCORE": REF_MIN_SCORE,
        "REF_MAX_SCORE": REF_MAX_SCORE,
        "DATASET_URLS": DATASET_URLS,
    },
    "offline_env": {
        "OfflineEnv": OfflineEnv,
        "set_dataset_path": set_dataset_path,
        "get_keys": get_keys,
        "download_dataset_from_url": download_dataset_from_url,
    },
    "gym_mujoco": {},
    "gym_mujoco.gym_envs": {"OfflineEnv": OfflineEnv},
    "hand_manipulation_suite": {},
    "locomotion": {},
    "locomotion.wrappers": {"NormalizedBoxEnv": OfflineEnv},
    "pointmaze": {"MazeEnv": OfflineEnv},
    "pointmaze.maze_model": {"MazeEnv": OfflineEnv},
    "utils": {},
    "utils.wrappers": {"NormalizedBoxEnv": OfflineEnv},
}
__path__: list[str] = []
for _name, _content in _MODULES.items():
    _module = types.ModuleType(f"{__name__}.{_name}")
    _module.__path__ = []
    vars(_module).update(_content)
    sys.modules[_module.__name__] = _module
    _parent, _, _leaf = _module.__name__.rpartition(".")
    setattr(sys.modules[_parent], _leaf, _module)
