"""The folders of a sweep's runs: their statuses, the runs to start, and checks before that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data import dataset_path
from get_args import FLAGS, flags_with
from run.checkpoint import state_files
from run.files import CONFIG_FILE, STATUS_FILE
from run.state import FAILED, FINISHED, KILLED, RUNNING
from sweeps.plan import Sweep, SweepRun
from sweeps.state import ENDED, PLANNED, Status, read_status
from utils import UserError, json_object

# flags that a later call may raise, to continue finished runs
BUDGETS = ("max_online_iters", "max_online_transitions")


def status_of(run: SweepRun) -> Status:
    """The recorded status of a run; a new one if there is no record yet."""
    new = Status(run.sweep, run.task, run.method, run.seed, sampled=dict(run.sampled))
    return read_status(run.folder) or new


def remaining(runs: Sequence[SweepRun]) -> list[SweepRun]:
    """The runs to start: neither ended nor running, or finished with a smaller budget."""

    def left(run: SweepRun) -> bool:
        state = status_of(run).state
        return (state == FINISHED and is_longer(run)) or state not in (*ENDED, RUNNING)

    return [run for run in runs if left(run)]


def with_pretraining(sweep: Sweep) -> Sweep:
    """The sweep with the shared pretraining that its runs still need, first."""
    starting = [run for run in remaining(sweep.runs) if not state_files(run.folder)]
    shared = dict.fromkeys(run.pretraining for run in starting if run.pretraining)
    return replace(sweep, runs=(*shared, *sweep.runs))


def is_ready(run: SweepRun) -> bool:
    """Whether a run can start; if its shared pretraining is not finished, it fails."""
    source = run.pretraining
    if source is None or state_files(run.folder) or status_of(source).state == FINISHED:
        return True
    status = status_of(run)
    status.state, status.message = FAILED, f"its shared pretraining is {status_of(source).state}"
    status.write(run.folder)
    return False


def plan(runs: Iterable[SweepRun]) -> None:
    """Record that attempts are waiting."""
    for run in runs:
        status = status_of(run)
        status.state, status.sampled = PLANNED, dict(run.sampled)
        status.write(run.folder)


def fail(run: SweepRun, problem: str) -> None:
    """Record why a run could not be started, or its machine was lost."""
    status = status_of(run)
    if status.state in (PLANNED, RUNNING, KILLED):
        status.state, status.message = KILLED, status.message or problem
        status.write(run.folder)


def problems(runs: Sequence[SweepRun], todo: Sequence[SweepRun]) -> list[str]:
    """Missing datasets and folders that belong to other runs, one line each.

    Args:
        runs: All runs of the sweep.
        todo: The runs to start.
    """
    found: dict[str, None] = {}
    starting = set(todo)
    for run in runs:
        try:
            _check_folder(run)
            if run in starting:
                _check_continued(run)
                settings = run.settings
                dataset_path(run.settings.task, Path(settings.data_dir), settings.dataset)
        except UserError as error:
            found[str(error)] = None
    return list(found)


def _check_folder(run: SweepRun) -> None:
    """Raise a UserError if the folder has other files, or a run with other settings."""
    path = run.folder / CONFIG_FILE
    if not path.exists():
        ours = not run.folder.exists() or not any(run.folder.iterdir())
        if not ours and not (run.folder / STATUS_FILE).exists():
            raise UserError(f"{run.folder}: contains files of something else; move them")
        return
    recorded = _recorded_settings(run)
    raised = BUDGETS if is_longer(run) else ()
    for name, value in recorded.items():
        expected = getattr(run.settings, name)
        if name not in (*flags_with("same_numbers"), *raised) and value != expected:
            raise UserError(
                f"{run.folder}: the run there has --{name} {value}, the sweep {expected}; give the "
                "sweep another name or move the folder"
            )


def _check_continued(run: SweepRun) -> None:
    """Raise a UserError if a finished run, to be continued, has no checkpoint to start from."""
    if status_of(run).state == FINISHED and not state_files(run.folder):
        raise UserError(
            f"{run.folder}: this run is finished and has no checkpoint to continue from; restore "
            "its checkpoints, or move the folder to start over"
        )


def is_longer(run: SweepRun) -> bool:
    """Whether the sweep has a larger budget for a run than its record in the folder.

    Raises:
        UserError: the record is not readable.
    """
    recorded = _recorded_settings(run)
    old, new = (
        (settings["max_online_iters"],
         settings["max_online_transitions"] or run.settings.task.online_budget)
        for settings in (vars(run.settings) | recorded, vars(run.settings))
    )  # fmt: skip
    return old != new and all(more >= less for more, less in zip(new, old, strict=True))


def _recorded_settings(run: SweepRun) -> dict[str, Any]:
    path = run.folder / CONFIG_FILE
    if not path.exists():
        return {}
    try:
        recorded = json_object(path.read_text())["settings"]
        return {name: recorded[name] for name in FLAGS if name in recorded}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's record ({error}); move the folder") from None
