"""Whether a run is running, and how it ended.

A program working on a run holds a lock on run.lock in the run's folder, which the system releases
however the program ends. A program that ends by itself writes the time and outcome to config.json.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from run.config import last_session, write_config
from run.files import CONFIG_FILE, LOCK_FILE
from utils import UserError, json_object

# completed all iterations
FINISHED = "finished"
# on request (SIGTERM, Ctrl-C), to be resumed
STOPPED = "stopped"
# a loss was no longer finite
DIVERGED = "diverged"
# ended by an error, which config.json records
FAILED = "failed"
# a program is working on it
RUNNING = "running"
# the program ended without writing an outcome: kill -9, a crash of the machine, a full disk
KILLED = "killed"
# there is no lock, or it cannot be probed: the run may still be running
UNFINISHED = "unfinished"

# seconds to wait for the lock: `is_locked` holds it for a moment
_PATIENCE = 5.0

logger = logging.getLogger(__name__)


class RunSession:
    """One program's work on a run, from taking the lock to recording the outcome.

    Used as a context manager, it records on exit the `outcome` attribute of the exception
    ("stopped", "diverged"), else "failed", or "finished" without an exception.

    Args:
        run_dir: The run's folder.

    Raises:
        UserError: another program is working on the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        # a soft lock would remain after a crash and block the run for ever
        self._lock = FileLock(run_dir / LOCK_FILE, fallback_to_soft=False)
        try:
            self._lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise UserError(
                f"{run_dir}: another program is working on this run; wait for it or stop it"
            ) from None
        except OSError as error:
            # some file systems do not support locks
            logger.warning(
                "%s: cannot lock (%s); make sure that no other program works on this run",
                run_dir / LOCK_FILE, error.strerror or error,
            )  # fmt: skip

    def __enter__(self) -> RunSession:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        end = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "outcome": FINISHED}
        if error is not None:
            stopped = STOPPED if isinstance(error, KeyboardInterrupt) else FAILED
            end["outcome"] = getattr(error, "outcome", stopped)
        if end["outcome"] not in (FINISHED, STOPPED):
            end["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        # if a full disk ended the run, it counts as killed
        with contextlib.suppress(OSError, ValueError):
            config = json_object((self._run_dir / CONFIG_FILE).read_text())
            last_session(config).update(end)
            write_config(self._run_dir, config)
        self._lock.release()


def is_running(run_dir: Path) -> bool:
    """Whether a program on this machine, or on one sharing its locks, is working on the run."""
    return is_locked(run_dir / LOCK_FILE)


def is_locked(path: Path) -> bool:
    """Whether a program is known to hold the lock of a file."""
    return _probe(path) is True


def _probe(path: Path) -> bool | None:
    """Whether a program holds the lock of a file; needs only permission to read it.

    None without that permission, or on a file system without locks.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None


def run_state(run_dir: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """How a run ended, or that it is running.

    Args:
        run_dir: The run's folder.
        config: The content of its config.json.

    Returns:
        One of the states at the top of this file, and the error that ended the run ("" if none).
    """
    running = _probe(run_dir / LOCK_FILE)
    if running:
        return RUNNING, ""
    session = last_session(dict(config))
    if "outcome" in session:
        return str(session["outcome"]), str(session.get("error", ""))
    locks = running is False and (run_dir / LOCK_FILE).exists()
    return (KILLED if locks else UNFINISHED), ""
