"""The run to resume: its settings, overridden by the command line, and its newest checkpoint."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d4rl_envs.tasks import ALIASES
from get_args import (
    FLAGS,
    PRETRAIN,
    Settings,
    flags_with,
    given_flags,
    make_settings,
    parse_args,
    to_argv,
)
from run.checkpoint import load_best, load_checkpoint
from run.config import last_session
from run.files import CONFIG_FILE
from run.progress import Progress, online_budget
from run.state import FINISHED, RunSession
from run.stopping import Complete
from tasks.task_file import recorded_task
from trajectories import Moments
from utils import UserError, json_object


def read_settings(argv: Sequence[str] | None = None, recurrent: bool = False) -> Settings:
    """Settings of a command line; with --resume, the run's saved settings are the defaults.

    A usage error exits with code 2 and one line on standard error.

    Args:
        argv: The command line; None for the program's own.
        recurrent: Whether the critics are recurrent.

    Raises:
        UserError: --resume names a folder without readable settings or a run with the other kind
            of critics, or a flag passed with it contradicts the checkpoint.
    """
    settings = parse_args(argv, recurrent)
    if not settings.resume:
        return settings
    recorded = vars(_recorded_settings(_read_config(settings), settings))
    given = given_flags(argv, recurrent)
    for name in flags_with("fixed"):
        value = given.get(name, recorded[name])
        if ALIASES.get(value, value) != recorded[name]:
            raise UserError(
                f"--{name} {given[name]}: the resumed run has {recorded[name]}, which cannot "
                "change; drop the flag, or start a new run"
            )
    if settings.run_dir and Path(settings.run_dir).resolve() != Path(settings.resume).resolve():
        raise UserError(
            f"--run_dir {settings.run_dir}: a resumed run stays in its folder; drop the flag"
        )
    flags = {name: recorded[name] for name in FLAGS} | given | {"run_dir": settings.resume}
    return make_settings(flags, recurrent, recorded["own_task"])


def _read_config(settings: Settings) -> dict[str, Any]:
    """The config.json of the run to resume, with settings under known names only."""
    path = Path(settings.resume) / CONFIG_FILE
    try:
        config = json_object(path.read_text())
        config["settings"] = {n: x for n, x in config["settings"].items() if n in FLAGS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--resume {settings.resume}: no run settings in {path} ({type(error).__name__}); "
            "pass the folder of a run"
        ) from None
    return config


def _recorded_settings(config: Mapping[str, Any], settings: Settings) -> Settings:
    """The settings in config.json."""
    was_recurrent = bool(config.get("recurrent"))
    if was_recurrent != settings.recurrent:
        kind, script = ("has", "recurrent_main.py") if was_recurrent else ("has no", "main.py")
        raise UserError(
            f"--resume {settings.resume}: this run {kind} recurrent critics; use {script}"
        )
    path = Path(settings.resume) / CONFIG_FILE
    task = recorded_task(config["task"], path) if "task" in config else None
    return parse_args(to_argv(config["settings"]), was_recurrent, task)


@dataclass
class ResumedRun:
    """The run of --resume, locked.

    Attributes:
        session: Holds the lock.
        state: The newest intact checkpoint.
        progress: How far the run had come then.
        normalization: Mean and standard deviation of the states, if those are not the dataset's.
    """

    session: RunSession
    state: dict[str, Any]
    progress: Progress
    normalization: Moments | None

    @property
    def summary(self) -> str:
        """Where the run continues, in one line."""
        within = self.progress.collected or self.state["trainer"]["tick"]
        place = f"within {self.progress.place}" if within else f"from {self.progress.reached}"
        return f"Resuming {place}"


def open_run(settings: Settings) -> ResumedRun:
    """Lock the run of --resume and read its newest checkpoint; changes no files.

    Raises:
        UserError: another program is working on the run, it has no usable checkpoint, or a flag
            passed with --resume would have no effect any more.
        Complete: nothing is left to do.
    """
    run_dir = Path(settings.resume)
    session = RunSession(run_dir)
    config, state = _read_config(settings), load_checkpoint(run_dir)
    for name in ("env", "rl_algo", "recurrent"):
        theirs, ours = state.get(name), getattr(settings, name)
        if theirs != ours:
            raise UserError(f"--resume: the checkpoint has {name} {theirs}, {CONFIG_FILE} {ours}")
    progress = Progress.of_checkpoint(state)
    with contextlib.suppress(UserError):
        if sum(load_best(run_dir)["iterations"].values()) > sum(progress.iterations.values()):
            # from the iterations after this checkpoint, which the run may not repeat exactly
            progress.best_score = -math.inf
    saved = _recorded_settings(config, settings)
    for problem in _flags_without_effect(settings, saved, progress, state):
        raise UserError(problem)
    if last_session(config).get("outcome") == FINISHED:
        _check_unfinished(settings, progress)
    normalization = None
    if settings.init_from:
        mean, std = (state["normalization"][name].numpy() for name in ("mean", "std"))
        normalization = mean, std
    return ResumedRun(session, state, progress, normalization)


def _flags_without_effect(
    settings: Settings, saved: Settings, progress: Progress, state: Mapping[str, Any]
) -> Iterator[str]:
    """One line on each changed flag that the run has already passed."""
    changed = {n: x for n in FLAGS if (x := getattr(settings, n)) != getattr(saved, n)}
    online, updates = progress.iterations["online"], state["trainer"]["actor_updates"]
    for name in flags_with("group", PRETRAIN):
        if name in changed and progress.phase == "online":
            yield f"--{name} {changed[name]}: pretraining of this run is over; drop the flag"
    for name, limit, done in (
        ("max_pretrain_iters", settings.max_pretrain_iters, progress.iterations["pretrain"]),
        ("max_online_iters", settings.max_online_iters, online),
        ("max_online_transitions", online_budget(settings), progress.transitions),
    ):
        if name in changed and limit < done:
            yield f"--{name} {changed[name]}: this run already has {done}; use at least that many"
    for name, length, done in (
        ("warmup_steps", "warmup_steps", updates),
        ("jump_start_iters", "jump_start_iters", online),
        ("rtg_curriculum_iters", "rtg_curriculum_iters", online),
        ("rtg_curriculum_start", "rtg_curriculum_iters", online),
    ):
        if name == "rtg_curriculum_start" and settings.rtg_curriculum_decay:
            continue
        if name in changed and max(getattr(settings, length), getattr(saved, length)) <= done:
            yield f"--{name} {changed[name]}: the schedule is over in this run; drop the flag"


def _check_unfinished(settings: Settings, progress: Progress) -> None:
    """Raise `Complete` if nothing is left to do."""
    if any(progress.iterations_left(settings).values()):
        return
    limits = []
    if progress.iterations["online"] >= settings.max_online_iters:
        limits.append(f"--max_online_iters ({settings.max_online_iters})")
    if progress.transitions >= online_budget(settings):
        limits.append(f"--max_online_transitions ({online_budget(settings)})")
    if progress.phase == "pretrain":
        limits.append(f"--max_pretrain_iters ({settings.max_pretrain_iters})")
    choice = " or " if progress.phase == "pretrain" else " and "
    raise Complete(
        f"{settings.resume}: this run is complete, at {progress.reached}. To continue it, "
        f"increase {choice.join(limits)}."
    )
