"""Recipe of gym `medium` (samples of a half-trained SAC agent) and `medium-replay` (its training).

Both use the same training, which is stored in a folder next to the datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from d4rl_envs.registration import make
from data_sources.blocks import BLOCK_ROWS, Block
from data_sources.episodes import episode_rows
from tasks import Task
from utils import UserError

if TYPE_CHECKING:
    from data_sources.sac_training import SacTraining

MAX_TRAINING_STEPS = 2_000_000


def is_replay(task: Task) -> bool:
    """Whether the rows are those collected in training."""
    return "replay" in task.name


def trained(task: Task, data_dir: Path, seed: int, max_steps: int) -> SacTraining:
    """Train SAC up to the return of `medium`, resuming from the training's folder.

    The folder is `<family>-sac-seed<seed>.training` in `data_dir`.

    Raises:
        UserError: Stable-Baselines3 is missing, or the return is not reached within `max_steps`.
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
                steps, score = training.history[-1]
                best = max(score for _, score in training.history)
                raise UserError(
                    f"{task.name}: SAC scores {score:.2f} after {steps:,} steps (best: "
                    f"{best:.2f}), but needs {training.level}; raise --max_training_steps to resume"
                )
            training.collect(min(training.interval, max_steps - training.steps), bar)
            training.evaluate()
            training.save()
            steps, score = training.history[-1]
            bar.write(f"{task.family} SAC: {steps:,} steps, score {score:.2f} of {training.level}")
    return training


def sac_rows(task: Task, training: SacTraining, steps: int, seed: int) -> Iterator[Block]:
    """Rows of `medium` or `medium-replay`."""
    if is_replay(task):
        for start in range(0, steps, BLOCK_ROWS):
            yield training.rows(start, min(start + BLOCK_ROWS, steps))
    else:
        torch.manual_seed(seed)  # same rows whether training was loaded or has just ended
        yield from episode_rows(task, make(task), training.act, steps, seed)


def sac_attributes(task: Task, training: SacTraining) -> dict[str, Any]:
    """Attributes that describe the training in the dataset's file."""
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
