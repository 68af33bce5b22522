"""How a run ended, or that it still goes on: for whoever looks at its folder later.

The program at work on a run holds a lock on run.lock in the run's folder, which the system takes
back however that program ends. When it ends by itself, config.json gets the time and the outcome.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from run.files import CONFIG_FILE, LOCK_FILE
from utils import UserError, atomic_write, json_object

# by itself, all iterations done
FINISHED = "finished"
# on request (SIGTERM, Ctrl-C), to be resumed
STOPPED = "stopped"
# a loss was not finite any more
DIVERGED = "diverged"
# by an error; config.json says which
FAILED = "failed"
# a program is at work on it
RUNNING = "running"
# the program ended without a word: kill -9, a crash of the machine, a full disk
KILLED = "killed"
# by a version that kept no lock: nothing tells whether it still runs
UNFINISHED = "unfinished"

# another program may be looking at the lock just now
_PATIENCE = 5.0

logger = logging.getLogger(__name__)


class RunSession:
    """One program's work on a run, from its start to its recorded end.

    As a context it records on leaving how the work ended: the `outcome` of the exception's class
    ("stopped", "diverged"), else "failed", or "finished" where there was none.

    Args:
        run_dir: The run's folder.

    Raises:
        UserError: another program is at work on the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._lock = FileLock(run_dir / LOCK_FILE)
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise UserError(
                f"{run_dir}: another program is at work on this run; wait for it, or stop it"
            ) from None
        except OSError as error:
            # some file systems know no locks; the run is worth more than its lock
            logger.warning("%s: no lock (%s)", run_dir / LOCK_FILE, error.strerror or error)

    def __enter__(self) -> RunSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "outcome": FINISHED}
        if error is not None:
            stopped = STOPPED if isinstance(error, KeyboardInterrupt) else FAILED
            end["outcome"] = getattr(error, "outcome", stopped)
        if end["outcome"] not in (FINISHED, STOPPED):
            end["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        # a full disk may be why the run ends: then it looks like one that was killed
        with contextlib.suppress(OSError, ValueError):
            path = self._run_dir / CONFIG_FILE
            config = json_object(path.read_text())
            last_session(config).update(end)
            with atomic_write(path, "w") as file:
                json.dump(config, file, indent=2, allow_nan=False)
                file.write("\n")
        self._lock.release()


def last_session(config: dict[str, Any]) -> dict[str, Any]:
    """The part of config.json about the last program that worked on the run."""
    resumed = config.get("resumed")
    last = resumed[-1] if isinstance(resumed, list) and resumed else config
    return last if isinstance(last, dict) else config


def is_running(run_dir: Path) -> bool:
    """Whether a program on this machine, or on one that shares its locks, is at work on the run."""
    return is_locked(run_dir / LOCK_FILE)


def is_locked(path: Path) -> bool:
    """Whether a program holds the lock of a file."""
    if not path.is_file():
        return False
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def run_state(run_dir: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """How a run ended, or that it goes on.

    Args:
        run_dir: The run's folder.
        config: The content of its config.json.

    Returns:
        One of the names at the top of this file, and the error that ended the run ("" if none).
    """
    if is_running(run_dir):
        return RUNNING, ""
    session = last_session(dict(config))
    if "outcome" in session:
        return str(session["outcome"]), str(session.get("error", ""))
    return (KILLED if (run_dir / LOCK_FILE).exists() else UNFINISHED), ""
