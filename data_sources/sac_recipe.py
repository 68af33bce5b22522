"""The recipe of gym `medium` and `medium-replay`: what a half-trained SAC agent does, and did.

Both come from one training, which stays in a folder beside the datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from d4rl_envs.registration import make
from data_sources.blocks import BLOCK_ROWS, Block
from data_sources.episodes import Actor, episode_rows
from tasks import Task
from utils import UserError

if TYPE_CHECKING:
    from data_sources.sac_training import SacTraining

MAX_TRAINING_STEPS = 2_000_000


class SacActor(Actor):
    """Samples of the trained policy."""

    def __init__(self, training: SacTraining) -> None:
        self._training = training

    def act(self, obs: np.ndarray) -> np.ndarray:
        return self._training.act(obs)


def is_replay(task: Task) -> bool:
    """Whether the rows are those of the training itself: there are as many as it took."""
    return "replay" in task.name


def trained(task: Task, data_dir: Path, seed: int, max_steps: int) -> SacTraining:
    """The training of the task's environment that reached the medium level.

    It is loaded from `<family>-sac-seed<seed>.training` in `data_dir`, or goes on from there.

    Raises:
        UserError: Stable-Baselines3 is missing, or the level is not reached within `max_steps`.
    """
    try:
        from data_sources.sac_training import SacTraining
    except ModuleNotFoundError as error:
        raise UserError(
            f"{task.name}: training SAC needs {error.name}, which is not installed; "
            "pip install -r requirements-optional.txt"
        ) from None
    folder = data_dir / f"{task.family}-sac-seed{seed}.training"
    training = SacTraining(task, folder, seed, max_steps)
    with tqdm(desc=f"{task.family} SAC", initial=training.steps, total=max_steps,
              unit="step", unit_scale=True, disable=None) as bar:  # fmt: skip
        while not training.reached:
            if training.steps >= max_steps:
                raise UserError(f"{task.name}: {_shortfall(training)}; {folder} goes on from there "
                                "with a larger --max_training_steps")  # fmt: skip
            training.collect(min(training.interval, max_steps - training.steps), bar)
            training.evaluate()
            training.save()
            steps, score = training.history[-1]
            bar.write(f"{task.family} SAC: {steps:,} steps, score {score:.2f} of {training.level}")
    return training


def _shortfall(training: SacTraining) -> str:
    steps, score = training.history[-1]
    best = max(score for _, score in training.history)
    return (f"SAC scores {score:.2f} after {steps:,} steps (at best {best:.2f}), "
            f"and not {training.level}")  # fmt: skip


def sac_rows(task: Task, training: SacTraining, steps: int, seed: int) -> Iterator[Block]:
    """Rows of `medium`, samples of the policy, or of `medium-replay`, the first of the training."""
    if is_replay(task):
        for start in range(0, steps, BLOCK_ROWS):
            yield training.rows(start, min(start + BLOCK_ROWS, steps))
    else:
        torch.manual_seed(seed)  # the same whether the training was loaded or has just ended
        yield from episode_rows(task, make(task), SacActor(training), steps, seed)


def sac_attributes(task: Task, training: SacTraining) -> dict[str, Any]:
    """What a file says of the training its rows come from."""
    import stable_baselines3

    steps, score = training.history[-1]
    span = task.ref_max_score - task.ref_min_score
    return {
        "training_steps": steps,
        "reached_score": score,
        "reached_return": task.ref_min_score + score / 100 * span,
        "stable_baselines3_version": stable_baselines3.__version__,
        "torch_version": str(torch.__version__),
    }
