"""Evaluation of a trained policy: play episodes and summarise them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import Episode, evaluation_metrics, rollout
from policy_export.policy import Policy
from run.video import VideoRecorder
from tasks import Task, make_vector
from utils import UserError

# environments that run in parallel
_PARALLEL = 32


def play(
    policy: Policy,
    episodes: int,
    target_return: float,
    *,
    seed: int = 0,
    context_length: int | None = None,
    video: Path | None = None,
) -> list[Episode]:
    """Play episodes with the policy's mean action; episode i has an environment of seed `seed` + i.

    Args:
        policy: The policy.
        episodes: Number of episodes.
        target_return: Initial return-to-go, in training rewards.
        seed: Seed of the first environment.
        context_length: Steps of history the policy sees; by default as in the run's evaluations.
        video: GIF or MP4 file to record of the first episode.

    Raises:
        UserError: the context is too long, the policy output is NaN, or no video can be recorded.
    """
    settings = policy.rollout_settings(context_length)
    played: list[Episode] = []
    if video is not None:
        # in a vector of its own, because models that render are large
        vector = make_vector(policy.task, [seed], "rgb_array")
        vector.render()  # fails here, before the episode, if OpenGL does not work
        recorder = VideoRecorder(vector)
        played += rollout(
            policy.actor, vector, settings, target_return, after_step=recorder.after_step
        )
        if recorder.problem:
            raise UserError(f"--video {video}: {recorder.problem}")
        try:
            recorder.save(video)
        except OSError as error:
            raise UserError(f"--video {video}: cannot be written ({error.strerror})") from None
        vector.close()
    while len(played) < episodes:
        first, last = len(played), min(len(played) + _PARALLEL, episodes)
        vector = make_vector(policy.task, range(seed + first, seed + last))
        played += rollout(policy.actor, vector, settings, target_return)
    return played


def summarise(episodes: Sequence[Episode], task: Task) -> dict[str, Any]:
    """Means over the episodes, and the results of each.

    The spread of a single episode is None, and so are scores without reference scores.
    """
    raw = np.array([episode.raw_return for episode in episodes])
    scores = task.normalized_score(raw) if task.scored else None
    metrics = evaluation_metrics(list(episodes), task)
    return {
        "episodes": len(episodes),
        "return_mean": raw.mean(),
        "return_std": raw.std() if len(raw) > 1 else None,
        "training_return_mean": metrics["evaluation/return_mean_gm"],
        "normalized_score": None if scores is None else scores.mean(),
        "length_mean": metrics["evaluation/length_mean_gm"],
        "success_rate": metrics.get("evaluation/success_rate"),
        "env_faults": int(metrics["evaluation/env_faults"]),
        "per_episode": {
            "return": raw,
            "training_return": [episode.training_return for episode in episodes],
            "normalized_score": scores,
            "length": [episode.length for episode in episodes],
            "success": [episode.success for episode in episodes],
            "faulted": [episode.faulted for episode in episodes],
        },
    }
