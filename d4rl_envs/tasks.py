"""D4RL's tasks: dimensions, horizons, reference scores, download URLs of the datasets.

Source: D4RL (Fu et al. 2020, arXiv 2004.07219) and its package d4rl 1.1. The table has every id
with a dataset that the environments here can serve, deprecated versions included.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
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
        ref_min_score, ref_max_score: As in `Family` (maze2d: per layout and reward).
        published_steps: Transitions of the published dataset after splitting; 0 if unknown.
        published_score: Mean normalised return of the published dataset; NaN if unknown.
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
        """The maze of a maze2d or antmaze task ("umaze", "eval-umaze"); "" for other families."""
        if self.family not in ("maze2d", "antmaze"):
            return ""
        _, first, second, *_ = self.name.split("-")
        return f"eval-{second}" if first == "eval" else first

    @property
    def dense(self) -> bool:
        """Whether a maze2d task rewards the distance to the goal."""
        return "-dense-" in self.name

    @property
    def published(self) -> bool:
        """Whether it is one of the 34 tasks of the published runs (arXiv 2410.24108)."""
        return self.name in _PUBLISHED

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

_GYM_FAMILIES = ("hopper", "halfcheetah", "walker2d", "ant")
_GYM_LEVELS = ("random", "medium-replay", "medium", "full-replay", "medium-expert", "expert")
# layout and version: horizon, reference scores of sparse and of dense rewards
_MAZE2D = {
    "open-v0": (150, (0.01, 20.66), (11.17817, 27.166538620695782)),
    "umaze-v1": (300, (23.85, 161.86), (68.537689, 193.66285642381482)),
    "medium-v1": (600, (13.13, 277.39), (44.264742, 297.4552547777125)),
    "large-v1": (800, (6.7, 273.99), (30.569041, 303.4857382709002)),
    "eval-umaze-v1": (300, (36.63, 141.4), (56.95455, 178.21373133248397)),
    "eval-medium-v1": (600, (13.07, 204.93), (42.28578, 235.5658957482388)),
    "eval-large-v1": (800, (16.4, 302.22), (56.95455, 326.09647655082637)),
}
# layout and kind: horizon, and parts of the file name: maze, multistart, multigoal
_ANTMAZE = {
    "umaze": (700, "u", False, False),
    "umaze-diverse": (700, "u", True, True),
    "medium-play": (1000, "big", True, False),
    "medium-diverse": (1000, "big", True, True),
    "large-play": (1000, "hardest", True, False),
    "large-diverse": (1000, "hardest", True, True),
}
_ADROIT_HORIZONS = {"pen": 100, "hammer": 200, "door": 200, "relocate": 200}
# level: pattern of the file name of version 0
_ADROIT_V0 = {
    "human": "{}-v0_demos_clipped",
    "cloned": "{}-demos-v0-bc-combined",
    "expert": "{}-v0_expert_clipped",
}
# published transitions after splitting, published mean score
_PUBLISHED = {
    "hopper-random-v2": (999_996, 1.19),
    "hopper-medium-replay-v2": (402_000, 14.98),
    "hopper-medium-v2": (999_906, 44.32),
    "halfcheetah-random-v2": (1_000_000, 0.07),
    "halfcheetah-medium-replay-v2": (202_000, 27.17),
    "halfcheetah-medium-v2": (1_000_000, 40.68),
    "walker2d-random-v2": (999_997, 0.01),
    "walker2d-medium-replay-v2": (302_000, 14.84),
    "walker2d-medium-v2": (999_995, 62.09),
    "ant-random-v2": (999_930, 6.36),
    "ant-medium-replay-v2": (302_000, 30.95),
    "ant-medium-v2": (999_946, 80.3),
    "maze2d-open-v0": (999_999, 30.08),
    "maze2d-umaze-v1": (999_869, -12.55),
    "maze2d-medium-v1": (1_999_733, -3.46),
    "maze2d-large-v1": (3_999_692, -1.71),
    "antmaze-umaze-v2": (998_573, 86.14),
    "antmaze-umaze-diverse-v2": (999_000, 3.48),
    "antmaze-medium-play-v2": (999_000, 90.85),
    "antmaze-medium-diverse-v2": (999_000, 66.29),
    "antmaze-large-play-v2": (999_000, 92.73),
    "antmaze-large-diverse-v2": (999_000, 86.17),
    "pen-human-v1": (4_800, 202.69),
    "pen-cloned-v1": (499_886, 108.63),
    "pen-expert-v1": (499_106, 107.4),
    "hammer-human-v1": (10_948, 23.8),
    "hammer-cloned-v1": (999_872, 8.11),
    "hammer-expert-v1": (999_800, 96.95),
    "door-human-v1": (6_504, 28.35),
    "door-cloned-v1": (999_939, 12.29),
    "door-expert-v1": (999_800, 101.19),
    "relocate-human-v1": (9_614, 87.22),
    "relocate-cloned-v1": (999_724, 28.99),
    "relocate-expert-v1": (999_800, 102.25),
}


def _task(
    name: str, family: str, horizon: int, file: str, refs: tuple[float, float] | None = None
) -> D4RLTask:
    low, high = refs or (FAMILIES[family].ref_min_score, FAMILIES[family].ref_max_score)
    steps, score = _PUBLISHED.get(name, (0, np.nan))
    return D4RLTask(name, family, horizon, low, high, steps, score, f"{_HOST}{file}.hdf5")


def _gym() -> Iterator[D4RLTask]:
    for family in _GYM_FAMILIES:
        for version in ("v1", "v2"):
            for level in _GYM_LEVELS:
                file = f"gym_mujoco_{version}/{family}_{level.replace('-', '_')}-{version}"
                yield _task(f"{family}-{level}-{version}", family, 1000, file)
        levels = [level for level in _GYM_LEVELS if level != "full-replay"]
        for level in [*levels, "random-expert"] if family == "ant" else levels:
            stem = f"{family}_{level.replace('-', '_')}"
            if level == "medium-replay":
                stem = f"{family.removesuffix('2d')}_mixed"
            yield _task(f"{family}-{level}-v0", family, 1000, f"gym_mujoco/{stem}")


def _maze2d() -> Iterator[D4RLTask]:
    for maze, (horizon, *references) in _MAZE2D.items():
        layout, _, version = maze.rpartition("-")
        suffix = "" if version == "v0" else "-v1"
        for reward, refs in zip(("sparse", "dense"), references, strict=True):
            name = f"maze2d-{layout}-dense-{version}" if reward == "dense" else f"maze2d-{maze}"
            yield _task(name, "maze2d", horizon, f"maze2d/maze2d-{layout}-{reward}{suffix}", refs)


def _antmaze() -> Iterator[D4RLTask]:
    for version, folder, end in (("v0", "ant_maze_new", ""), ("v2", "ant_maze_v2", "_fixed")):
        for kind, (horizon, maze, multistart, multigoal) in _ANTMAZE.items():
            file = (
                f"{folder}/Ant_maze_{maze}-maze_noisy_multistart_{multistart}"
                f"_multigoal_{multigoal}_sparse{end}"
            )
            yield _task(f"antmaze-{kind}-{version}", "antmaze", horizon, file)


def _adroit() -> Iterator[D4RLTask]:
    for family, horizon in _ADROIT_HORIZONS.items():
        for level, pattern in _ADROIT_V0.items():
            name = f"{family}-{level}"
            yield _task(f"{name}-v0", family, horizon, f"hand_dapg/{pattern.format(family)}")
            yield _task(f"{name}-v1", family, horizon, f"hand_dapg_v1/{name}-v1")


TASKS: dict[str, D4RLTask] = {
    task.name: task for group in (_gym, _maze2d, _antmaze, _adroit) for task in group()
}

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
    near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.4)
    known = f"closest names: {', '.join(near)}" if near else f"families: {', '.join(FAMILIES)}"
    raise UserError(f"{name}: unknown task; {known}")
