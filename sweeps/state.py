"""The status of each run of a sweep: status.json in its folder, see docs/SWEEPS.md."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from run.files import CONFIG_FILE, METRICS_FILE, STATUS_FILE, SWEEP_LOCK_FILE
from run.state import (
    DIVERGED,
    FAILED,
    FINISHED,
    KILLED,
    RUNNING,
    STOPPED,
    UNFINISHED,
    is_locked,
    is_running,
    run_state,
)
from run.stopping import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_STOPPED
from utils import UserError, atomic_write, json_object

# in addition to the states of run/state.py: waiting, and a trial ended early because of its score
PLANNED, PRUNED = "planned", "pruned"
STATES = (PLANNED, RUNNING, FINISHED, PRUNED, STOPPED, FAILED, KILLED, DIVERGED, UNFINISHED)
# nothing is left to do; a diverged run would diverge again, at the same update
ENDED = (FINISHED, PRUNED, DIVERGED)


@dataclass
class Status:
    """Content of status.json; `exit_code` to `ended` are of the last attempt."""

    sweep: str
    task: str
    method: str
    seed: int
    state: str = PLANNED
    exit_code: int | None = None
    attempts: int = 0
    message: str = ""
    host: str = ""
    started: str | None = None
    ended: str | None = None
    sampled: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write status.json atomically.

        Raises:
            UserError: it cannot be written; the old file is unchanged.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(folder / STATUS_FILE, "w") as file:
                json.dump(asdict(self), file, indent=1)
                file.write("\n")
        except OSError as error:
            raise UserError(
                f"{folder / STATUS_FILE}: cannot be written ({error.strerror}); choose another "
                "--save_dir, free disk space or fix the permissions"
            ) from None


def read_status(folder: Path) -> Status | None:
    """The status of a run; None without a readable status.json.

    If the recorded state is "running" but no process is working on the run, its sweep died; the
    state is then taken from the run's own record.
    """
    try:
        content = json_object((folder / STATUS_FILE).read_text())
        names = {field.name for field in fields(Status)}
        status = Status(**{key: value for key, value in content.items() if key in names})
    except (OSError, ValueError, TypeError):
        return None
    if status.state not in STATES:
        return None
    if status.state == RUNNING and not in_use(folder):
        status.state, status.message = _recorded_state(folder)
    return status


def _recorded_state(folder: Path) -> tuple[str, str]:
    """State and message according to the run's own record."""
    with contextlib.suppress(OSError, ValueError):
        state, message = run_state(folder, json_object((folder / CONFIG_FILE).read_text()))
        if state in STATES:
            return state, message
    return KILLED, ""


def state_of_end(folder: Path, code: int) -> str:
    """The state of a run after main.py exited with this code."""
    if code > 128 and code != EXIT_INTERRUPTED:
        # the signal may have come after the end of training
        return FINISHED if _recorded_state(folder)[0] == FINISHED else KILLED
    known = {0: FINISHED, EXIT_DIVERGED: DIVERGED, EXIT_STOPPED: STOPPED, EXIT_INTERRUPTED: STOPPED}
    return known.get(code, FAILED)


def now() -> str:
    """The current time in seconds, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def in_use(folder: Path) -> bool:
    """Whether a process is working on a run, or a sweep is about to start one."""
    return is_locked(folder / SWEEP_LOCK_FILE) or is_running(folder)


def metric_rows(folder: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, or those within its last bytes; [] if there are none."""
    try:
        with (folder / METRICS_FILE).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - last_bytes) if last_bytes else 0)
            lines = file.read().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        # the first and last line may be incomplete
        with contextlib.suppress(ValueError):
            rows.append(json_object(line))
    return rows
