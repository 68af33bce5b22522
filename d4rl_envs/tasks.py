"""The 34 D4RL tasks: dimensions, horizons, reference scores, download URLs.

Source: D4RL (Fu et al. 2020, arXiv 2004.07219).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from d4rl_envs.errors import UserError

Reward = TypeVar("Reward", float, np.ndarray)

_HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


@dataclass(frozen=True)
class Family:
    """What all tasks of an environment family share.

    Attributes:
        obs_dim, act_dim: Dimensions of observations and actions; actions are in [-1, 1].
        ref_min_score, ref_max_score: Raw returns of a random and an expert policy, which define
            the normalised scores 0 and 100.
    """

    obs_dim: int
    act_dim: int
    ref_min_score: float
    ref_max_score: float


@dataclass(frozen=True)
class D4RLTask:
    """A dataset of the benchmark and the environment in which it was collected.

    Attributes:
        name: D4RL id, for example "hopper-medium-v2".
        family: Environment family; maze2d and antmaze have one environment per maze.
        horizon: Time limit of an episode, in steps.
        ref_min_score, ref_max_score: As in `Family` (maze2d: per layout).
        published_steps: Transitions of the published dataset after splitting.
        published_score: Mean normalised return of the published dataset.
        url: Download URL of the published dataset.
    """

    name: str
    family: str
    horizon: int
    ref_min_score: float
    ref_max_score: float
    published_steps: int
    published_score: float
    url: str

    @property
    def obs_dim(self) -> int:
        return FAMILIES[self.family].obs_dim

    @property
    def act_dim(self) -> int:
        return FAMILIES[self.family].act_dim

    @property
    def layout(self) -> str:
        """The maze of a maze2d or antmaze task ("umaze", "medium", ...); "" for other families."""
        return self.name.split("-")[1] if self.family in ("maze2d", "antmaze") else ""

    def normalized_score(self, raw_return: Reward) -> Reward:
        """D4RL's normalised score of a raw return: 0 random, 100 expert."""
        span = self.ref_max_score - self.ref_min_score
        return (raw_return - self.ref_min_score) / span * 100.0


FAMILIES: dict[str, Family] = {
    "hopper": Family(11, 3, -20.272305, 3234.3),
    "halfcheetah": Family(17, 6, -280.178953, 12135.0),
    "walker2d": Family(17, 6, 1.629008, 4592.3),
    "ant": Family(111, 8, -325.6, 3879.7),
    "maze2d": Family(4, 2, np.nan, np.nan),
    "antmaze": Family(29, 8, 0.0, 1.0),
    "pen": Family(45, 24, 96.262799, 3076.8331017826877),
    "hammer": Family(46, 26, -274.856578, 12794.134825156867),
    "door": Family(39, 28, -56.512833, 2880.5693087298737),
    "relocate": Family(39, 30, -6.425911, 4233.877797728884),
}

# family, level, published transitions after splitting, published mean score
_GYM = [
    ("hopper", "random", 999_996, 1.19),
    ("hopper", "medium-replay", 402_000, 14.98),
    ("hopper", "medium", 999_906, 44.32),
    ("halfcheetah", "random", 1_000_000, 0.07),
    ("halfcheetah", "medium-replay", 202_000, 27.17),
    ("halfcheetah", "medium", 1_000_000, 40.68),
    ("walker2d", "random", 999_997, 0.01),
    ("walker2d", "medium-replay", 302_000, 14.84),
    ("walker2d", "medium", 999_995, 62.09),
    ("ant", "random", 999_930, 6.36),
    ("ant", "medium-replay", 302_000, 30.95),
    ("ant", "medium", 999_946, 80.3),
]
# task, horizon, reference scores, published transitions, published mean score, file
_MAZE2D = [
    ("maze2d-open-v0", 150, 0.01, 20.66, 999_999, 30.08, "maze2d-open-sparse"),
    ("maze2d-umaze-v1", 300, 23.85, 161.86, 999_869, -12.55, "maze2d-umaze-sparse-v1"),
    ("maze2d-medium-v1", 600, 13.13, 277.39, 1_999_733, -3.46, "maze2d-medium-sparse-v1"),
    ("maze2d-large-v1", 800, 6.7, 273.99, 3_999_692, -1.71, "maze2d-large-sparse-v1"),
]
# task, horizon, published transitions, published mean score, and parts of the file name: maze,
# multistart, multigoal
_ANTMAZE = [
    ("antmaze-umaze-v2", 700, 998_573, 86.14, ("u", False, False)),
    ("antmaze-umaze-diverse-v2", 700, 999_000, 3.48, ("u", True, True)),
    ("antmaze-medium-play-v2", 1000, 999_000, 90.85, ("big", True, False)),
    ("antmaze-medium-diverse-v2", 1000, 999_000, 66.29, ("big", True, True)),
    ("antmaze-large-play-v2", 1000, 999_000, 92.73, ("hardest", True, False)),
    ("antmaze-large-diverse-v2", 1000, 999_000, 86.17, ("hardest", True, True)),
]
# family, level, horizon, published transitions, published mean score
_ADROIT = [
    ("pen", "human", 100, 4_800, 202.69),
    ("pen", "cloned", 100, 499_886, 108.63),
    ("pen", "expert", 100, 499_106, 107.4),
    ("hammer", "human", 200, 10_948, 23.8),
    ("hammer", "cloned", 200, 999_872, 8.11),
    ("hammer", "expert", 200, 999_800, 96.95),
    ("door", "human", 200, 6_504, 28.35),
    ("door", "cloned", 200, 999_939, 12.29),
    ("door", "expert", 200, 999_800, 101.19),
    ("relocate", "human", 200, 9_614, 87.22),
    ("relocate", "cloned", 200, 999_724, 28.99),
    ("relocate", "expert", 200, 999_800, 102.25),
]


def _task(
    name: str,
    family: str,
    horizon: int,
    steps: int,
    score: float,
    file: str,
    refs: tuple[float, float] | None = None,
) -> D4RLTask:
    low, high = refs or (FAMILIES[family].ref_min_score, FAMILIES[family].ref_max_score)
    return D4RLTask(name, family, horizon, low, high, steps, score, f"{_HOST}{file}.hdf5")


def _antmaze_file(maze: str, multistart: bool, multigoal: bool) -> str:
    return (
        f"ant_maze_v2/Ant_maze_{maze}-maze_noisy_multistart_{multistart}"
        f"_multigoal_{multigoal}_sparse_fixed"
    )


def _table() -> list[D4RLTask]:
    gym = [
        _task(f"{family}-{level}-v2", family, 1000, steps, score,
              f"gym_mujoco_v2/{family}_{level.replace('-', '_')}-v2")
        for family, level, steps, score in _GYM
    ]  # fmt: skip
    maze2d = [
        _task(name, "maze2d", horizon, steps, score, f"maze2d/{file}", (low, high))
        for name, horizon, low, high, steps, score, file in _MAZE2D
    ]
    antmaze = [
        _task(name, "antmaze", horizon, steps, score, _antmaze_file(*maze))
        for name, horizon, steps, score, maze in _ANTMAZE
    ]
    adroit = [
        _task(f"{family}-{level}-v1", family, horizon, steps, score,
              f"hand_dapg_v1/{family}-{level}-v1")
        for family, level, horizon, steps, score in _ADROIT
    ]  # fmt: skip
    return gym + maze2d + antmaze + adroit


TASKS: dict[str, D4RLTask] = {task.name: task for task in _table()}

# other names in use
ALIASES = {"hopper-medium-random-v2": "hopper-random-v2"}


def get_task(name: str) -> D4RLTask:
    """The task with this name or alias.

    Raises:
        UserError: no such task; the message lists the closest names.
    """
    name = ALIASES.get(name, name)
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4) or sorted(TASKS)
    raise UserError(f"{name}: unknown task; closest names: {', '.join(near)}")
