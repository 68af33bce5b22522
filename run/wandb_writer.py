"""A run on Weights & Biases: on the service, or in local files that can be uploaded later.

Runs are grouped by task and method, and can be filtered by both, by seed and by every setting. A
resumed run goes on under the id that its config.json holds. docs/WANDB.md tells more.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from get_args import Settings
from run.files import CHECKPOINT_FOLDER, CONFIG_FILE, METRICS_FILE
from tasks import get_task

STEP = "total_transitions_sampled"
_SCORE = "evaluation/normalized_score"
# of metrics, docs/METRICS.md
_GROUPS = ("evaluation", "aug_traj", "training", "replay", "time")
# longest that wandb takes for a tag
_TAG_LENGTH = 64


class WandbWriter:
    """A writer for log_writers.InBackground.

    Args:
        run_dir: The run's folder.
        settings: The run's settings.
        method: Its method, suffix included.
        run_id: The id that all sessions of the run share.

    Attributes:
        problem: Why the service could not be used; "" if it could, or was not asked for.
        address: Web address of the run; None when it is kept locally.

    Raises:
        Exception: (from every method) whatever wandb raises.
    """

    def __init__(self, run_dir: Path, settings: Settings, method: str, run_id: str) -> None:
        import wandb  # slow to import, so only when wanted

        self._wandb, self._run_dir = wandb, run_dir
        self._artifacts = bool(settings.wandb_artifacts)
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, init_timeout=60, finish_timeout=120
        )
        # silent from the start: otherwise a terminal without an account is asked to make one
        wandb.setup(quiet)
        # of an agent of a wandb sweep, which has given the run its id already
        given_id = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        about: dict[str, Any] = {
            "mode": settings.wandb_mode,
            "entity": settings.wandb_entity or None,
            "project": settings.wandb_project,
            "dir": str(run_dir),
            "name": f"{settings.env}-{method}-seed{settings.seed}",
            "group": f"{settings.env}-{method}",
            "job_type": "finetune" if settings.max_online_iters else "pretrain",
            "tags": tags(settings, method),
            "id": given_id or run_id,
            "resume": "allow",
            "config": config_of(settings, method),
            "settings": quiet,
        }
        self.problem = ""
        try:
            self._run = wandb.init(**about)
        except Exception as error:
            if settings.wandb_mode == "offline":
                raise
            self.problem = " ".join(str(error).split())
            self._run = wandb.init(**about | {"mode": "offline"})
        self.address = self._run.url
        self._define_metrics()

    def _define_metrics(self) -> None:
        for group in _GROUPS:
            self._run.define_metric(f"{group}/*", step_metric=STEP)
        self._run.define_metric(_SCORE, step_metric=STEP, summary="last,max")

    def write(self, row: Mapping[str, Any], number: int) -> None:
        # a number of our own: rows that a resumed run repeats are the same, and are taken once
        self._run.log(dict(row), step=number)

    def close(self) -> None:
        if self._artifacts:
            self._log_artifact()
        self._run.finish()

    def _log_artifact(self) -> None:
        """The files that `--resume` and the export of a policy need, as one artifact."""
        folder = self._run_dir / CHECKPOINT_FOLDER
        if not folder.is_dir():
            return
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="checkpoint")
        files = [*sorted(folder.glob("*.pt")), self._run_dir / CONFIG_FILE]
        for path in [*files, self._run_dir / METRICS_FILE]:
            artifact.add_file(str(path), name=str(path.relative_to(self._run_dir)))
        self._run.log_artifact(artifact)


def tags(settings: Settings, method: str) -> list[str]:
    """What runs can be picked by on the service's pages."""
    words = [settings.env, get_task(settings.env).family, method, f"seed{settings.seed}"]
    if settings.exp_name not in ("", "default"):
        words.append(settings.exp_name)
    if settings.delayed_reward:
        words.append(f"delayed{settings.delayed_reward}")
    return [word[:_TAG_LENGTH] for word in dict.fromkeys(words)]


def config_of(settings: Settings, method: str) -> dict[str, Any]:
    """All settings, and under names of their own what tables are made by."""
    about = {"task": settings.env, "method": method, "sweep": settings.exp_name}
    return dataclasses.asdict(settings) | about | {"family": get_task(settings.env).family}
