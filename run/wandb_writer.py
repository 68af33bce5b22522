"""Weights & Biases: a run on the service, or in local files to upload later.

Runs are grouped by task and method and can be filtered by every setting. A resumed run keeps the
id stored in its config.json. See docs/WANDB.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation import RETURN, SCORE
from get_args import Settings
from run.files import CHECKPOINT_FOLDER, CONFIG_FILE, GUIDE_FOLDER, METRICS_FILE

STEP = "total_transitions_sampled"
# prefixes of metrics, see docs/METRICS.md
_GROUPS = ("evaluation", "aug_traj", "training", "replay", "time")
# wandb's limit
_TAG_LENGTH = 64


class WandbWriter:
    """A writer for `run.writers.InBackground`.

    Args:
        run_dir: The run's folder.
        settings: The run's settings.
        config: The content of its config.json.

    Attributes:
        problem: Why the service could not be reached; "" if it could or was not requested.
        address: Web address of the run; None if it is kept locally.

    Raises:
        Exception: (from every method) whatever wandb raises.
    """

    def __init__(self, run_dir: Path, settings: Settings, config: Mapping[str, Any]) -> None:
        import wandb  # slow to import

        method = config["method"] + settings.suffix
        self._wandb, self._run_dir = wandb, run_dir
        self._artifacts = bool(settings.wandb_artifacts)
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, init_timeout=60, finish_timeout=120
        )
        # before init, which otherwise prompts for an account in a terminal
        wandb.setup(quiet)
        about: dict[str, Any] = {
            "mode": settings.wandb_mode,
            "entity": settings.wandb_entity or None,
            "project": settings.wandb_project,
            "dir": str(run_dir),
            "name": f"{settings.env}-{method}-seed{settings.seed}",
            "group": f"{settings.env}-{method}",
            "job_type": "finetune" if settings.max_online_iters else "pretrain",
            "tags": tags(settings, method),
            "id": config["wandb_id"],
            "resume": "allow",
            "config": config_of(settings, config),
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
        for group in _GROUPS:
            self._run.define_metric(f"{group}/*", step_metric=STEP)
        score = SCORE if settings.task.scored else RETURN
        self._run.define_metric(score, step_metric=STEP, summary="last,max")

    def write(self, row: Mapping[str, Any], number: int) -> None:
        # with explicit steps wandb counts a row that a resumed run repeats only once
        self._run.log(dict(row), step=number)

    def close(self) -> None:
        if self._artifacts:
            self._log_artifact()
        self._run.finish()

    def _log_artifact(self) -> None:
        """Log the files needed to resume the run or export its policy as one artifact."""
        folder = self._run_dir / CHECKPOINT_FOLDER
        if not folder.is_dir():
            return
        artifact = self._wandb.Artifact(f"run-{self._run.id}", type="checkpoint")
        guide = sorted((self._run_dir / GUIDE_FOLDER).glob("*"))
        files = [*sorted(folder.glob("*.pt")), *guide, self._run_dir / CONFIG_FILE]
        for path in [*files, self._run_dir / METRICS_FILE]:
            artifact.add_file(str(path), name=str(path.relative_to(self._run_dir)))
        self._run.log_artifact(artifact)


def tags(settings: Settings, method: str) -> list[str]:
    """Tags to filter runs by."""
    words = [settings.env, settings.task.family, method, f"seed{settings.seed}"]
    if settings.exp_name not in ("", "default"):
        words.append(settings.exp_name)
    if settings.delayed_reward:
        words.append(f"delayed{settings.delayed_reward}")
    return [word[:_TAG_LENGTH] for word in dict.fromkeys(words)]


def config_of(settings: Settings, config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings, plus `task`, `family`, `method` and `sweep` to group tables by.

    With --init_from also `origin`, as in config.json.
    """
    method = config["method"] + settings.suffix
    about = {"task": settings.env, "method": method, "sweep": settings.exp_name}
    about |= {"origin": config["origin"]} if "origin" in config else {}
    return dataclasses.asdict(settings) | about | {"family": settings.task.family}
