"""The task table: everything the program knows about each of the 34 D4RL datasets.

Sources: reference scores, horizons and download addresses are D4RL's (Fu et al. 2020,
arXiv 2004.07219); reward transforms, return-to-go scales, critic LayerNorm and transition
budgets are those of the published runs (Yan, Schwing, Wang 2024, arXiv 2410.24108).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from utils import UserError

Reward = TypeVar("Reward", float, np.ndarray)

_HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"


@dataclass(frozen=True)
class Family:
    """What all datasets of one environment share.

    Attributes:
        obs_dim: Length of an observation.
        act_dim: Length of an action; every action lies in [-1, 1].
        ref_min_score, ref_max_score: Raw returns of a random and an expert policy (score 0, 100).
        reward_divisor, reward_shift: The training reward is `raw / reward_divisor + reward_shift`.
        rtg_scale: Factor on return-to-go before it conditions the policy.
        critic_layernorm: Whether critics normalise their hidden layers by default.
        online_budget: Online transitions after which a run ends by default.
        script: The script under data/ that gets the family's datasets.
    """

    obs_dim: int
    act_dim: int
    ref_min_score: float
    ref_max_score: float
    reward_divisor: float = 1.0
    reward_shift: float = 0.0
    rtg_scale: float = 0.001
    critic_layernorm: bool = True
    online_budget: int = 1_050_000
    script: str = "download_gym_datasets.py"


@dataclass(frozen=True)
class Task:
    """One dataset of the benchmark and the environment it was collected in.

    Attributes:
        name: D4RL task id, for example "hopper-medium-v2".
        family: Environment family; a maze2d or antmaze family has one environment per layout.
        horizon: Steps after which an episode is cut.
        ref_min_score, ref_max_score: As in `Family` (maze2d: per layout).
        published_steps: Transitions of the published dataset after splitting.
        published_score: Mean normalised return of the published dataset.
        url: Where the published dataset is downloaded from.
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
    def spec(self) -> Family:
        """The family's row of the table."""
        return FAMILIES[self.family]

    @property
    def obs_dim(self) -> int:
        return self.spec.obs_dim

    @property
    def act_dim(self) -> int:
        return self.spec.act_dim

    @property
    def layout(self) -> str:
        """The maze of a maze2d or antmaze task ("umaze", "medium", ...); "" for others."""
        return self.name.split("-")[1] if self.family in ("maze2d", "antmaze") else ""

    def training_reward(self, raw: Reward) -> Reward:
        """The reward that training sees, from the environment's or dataset's raw reward."""
        return raw / self.spec.reward_divisor + self.spec.reward_shift

    def normalized_score(self, raw_return: Reward) -> Reward:
        """D4RL's normalised score (0 random, 100 expert) of an episode's raw return."""
        span = self.ref_max_score - self.ref_min_score
        return (raw_return - self.ref_min_score) / span * 100.0


_LOCOMOTION: dict[str, Any] = {"critic_layernorm": False, "online_budget": 600_000}
_HAND: dict[str, Any] = {"script": "download_advanced.py"}

FAMILIES: dict[str, Family] = {
    "hopper": Family(11, 3, -20.272305, 3234.3, **_LOCOMOTION),
    "halfcheetah": Family(17, 6, -280.178953, 12135.0, **_LOCOMOTION),
    "walker2d": Family(17, 6, 1.629008, 4592.3, **_LOCOMOTION),
    "ant": Family(111, 8, -325.6, 3879.7, **_LOCOMOTION),
    "maze2d": Family(4, 2, np.nan, np.nan, rtg_scale=1.0, script="download_d4rl_basic.py"),
    "antmaze": Family(29, 8, 0.0, 1.0, reward_shift=-1.0, script="download_antmaze_datasets.py"),
    "pen": Family(45, 24, 96.262799, 3076.8331017826877, 100.0, rtg_scale=1.0, **_HAND),
    "hammer": Family(46, 26, -274.856578, 12794.134825156867, 1000.0, rtg_scale=1.0, **_HAND),
    "door": Family(39, 28, -56.512833, 2880.5693087298737, 100.0, **_HAND),
    "relocate": Family(39, 30, -6.425911, 4233.877797728884, 100.0, rtg_scale=1.0, **_HAND),
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
# task, horizon, published transitions, published mean score, maze / multistart / multigoal of the
# file's name
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
) -> Task:
    low, high = refs or (FAMILIES[family].ref_min_score, FAMILIES[family].ref_max_score)
    return Task(name, family, horizon, low, high, steps, score, f"{_HOST}{file}.hdf5")


def _antmaze_file(maze: str, multistart: bool, multigoal: bool) -> str:
    return (
        f"ant_maze_v2/Ant_maze_{maze}-maze_noisy_multistart_{multistart}"
        f"_multigoal_{multigoal}_sparse_fixed"
    )


def _table() -> list[Task]:
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


TASKS: dict[str, Task] = {task.name: task for task in _table()}

# names that are in use elsewhere for a task of the table
ALIASES = {"hopper-medium-random-v2": "hopper-random-v2"}


def get_task(name: str) -> Task:
    """The task of this name or alias.

    Raises:
        UserError: no such task; the message has the nearest names.
    """
    name = ALIASES.get(name, name)
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4) or sorted(TASKS)
    raise UserError(f"--env {name}: unknown task; the nearest names are {', '.join(near)}")
