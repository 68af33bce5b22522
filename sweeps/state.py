"""The status of each run of a sweep: status.json in its folder.

    {"sweep": "table1", "task": "hopper-medium-v2", "method": "ODT", "seed": 16,
     "state": "running", "exit_code": null, "attempts": 1, "message": "", "host": "node3",
     "started": "2026-01-31T12:00:00+00:00", "ended": null}

The states are those of run/state.py, and "planned" for a run that is waiting. The file is replaced
atomically.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, fields
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
    is_locked,
    is_running,
    run_state,
)
from run.stopping import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_STOPPED
from utils import atomic_write, json_object

PLANNED = "planned"
STATES = (PLANNED, RUNNING, FINISHED, STOPPED, FAILED, KILLED, DIVERGED)


@dataclass
class Status:
    """Content of status.json.

    Attributes:
        state: One of `STATES`.
        exit_code: Of the last attempt, 128 + N if signal N ended it; None if there is none yet.
        attempts: How often main.py was started.
        message: Why the run ended early, otherwise "".
        sweep, task, method, seed: Identify the run.
        host: Machine of the last attempt.
        started, ended: Times of the last attempt, ISO 8601.
    """

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

    def write(self, folder: Path) -> None:
        """Write status.json atomically.

        Raises:
            OSError: it cannot be written; the old file is unchanged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / STATUS_FILE, "w") as file:
            json.dump(asdict(self), file, indent=1)
            file.write("\n")


def read_status(folder: Path) -> Status | None:
    """The status of a run; None without a readable status.json.

    If the recorded state is "running" but no process is working on the run, the state is taken from
    the run's own record.
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
        status.state, status.message = _end_unseen(folder)
    return status


def _end_unseen(folder: Path) -> tuple[str, str]:
    """State and message of a run whose sweep died before the run ended."""
    with contextlib.suppress(OSError, ValueError):
        state, message = run_state(folder, json_object((folder / CONFIG_FILE).read_text()))
        if state in STATES:
            return state, message
    return KILLED, ""


def state_of_end(folder: Path, code: int) -> str:
    """The state of a run after main.py exited with this code."""
    if code > 128 and code != EXIT_INTERRUPTED:
        # the signal may have come after the end of training
        return FINISHED if _end_unseen(folder)[0] == FINISHED else KILLED
    known = {0: FINISHED, EXIT_DIVERGED: DIVERGED, EXIT_STOPPED: STOPPED, EXIT_INTERRUPTED: STOPPED}
    return known.get(code, FAILED)


def now() -> str:
    """The current time in seconds, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def in_use(folder: Path) -> bool:
    """Whether a process is working on a run, or a sweep is about to start one."""
    return is_locked(folder / SWEEP_LOCK_FILE) or is_running(folder)


def last_row(folder: Path) -> dict[str, Any]:
    """The last row of metrics.jsonl, with the score of the last evaluation; {} if there is none."""
    try:
        with (folder / METRICS_FILE).open("rb") as file:
            # a row is a few kilobytes, and by default every tenth one has an evaluation
            file.seek(max(0, file.seek(0, 2) - 65536))
            lines = file.read().splitlines()
    except OSError:
        return {}
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(json_object(line))
    if not rows:
        return {}
    key = "evaluation/normalized_score"
    scores = [row[key] for row in rows if key in row]
    return rows[-1] | ({key: scores[-1]} if scores else {})
