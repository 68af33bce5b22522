"""Ending a run early: signals, exit codes, and what to do next."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from run.checkpoint import state_files
from run.files import DIVERGENCE_FILE
from run.state import STOPPED
from run.training_log import Divergence

if TYPE_CHECKING:
    from run.snapshot import Parts

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
# stopped by SIGTERM or SIGINT, with a checkpoint to resume from
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130

# the learning rate suggested after a divergence is lower by this factor
_LOWER_RATE = 3.0


class Stopped(Exception):
    """The run was stopped on request and wrote a checkpoint."""

    # recorded in config.json
    outcome = STOPPED


class StopSignal:
    """Notes SIGTERM and SIGINT, so that a run can stop between updates.

    A second signal raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle both signals; does nothing outside a program's main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kinds = (signal.SIGTERM, signal.SIGINT)
        before = {kind: signal.signal(kind, self._note) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        sys.stderr.write("Stopping after this update (Ctrl-C again to quit immediately).\n")


def next_step(run: Parts | None, recurrent: bool) -> str:
    """How to continue a run that was stopped, in one sentence.

    Args:
        run: The run; None if it had not started.
        recurrent: Whether the critics are recurrent.
    """
    if run is None:
        return "Nothing was trained yet; run the same command again."
    if not state_files(run.run_dir):
        return f"There is no checkpoint yet; delete {run.run_dir} and run the same command again."
    return f"Resume with: {_resume_command(run.run_dir, recurrent)}"


def explain_divergence(error: Divergence, run: Parts) -> str:
    """Report the error in the run's folder; returns one line on what broke and what to do."""
    error.write_report(run.run_dir)
    flag = error.flag_to_try
    used = getattr(run.settings, flag)
    advice = f"start again with a lower --{flag} (it was {used:g})"
    if state_files(run.run_dir):
        lower = (f"--{flag}", f"{used / _LOWER_RATE:.2g}")
        command = _resume_command(run.run_dir, run.settings.recurrent, *lower)
        advice = f"resume from the last checkpoint with a lower --{flag}: {command}"
    return (
        f"training diverged in {run.progress.phase} iteration {run.progress.iteration + 1}: "
        f"{error} not finite; {run.run_dir / DIVERGENCE_FILE} describes the batch; {advice}"
    )


def _resume_command(run_dir: Path, recurrent: bool, *flags: str) -> str:
    script = "recurrent_main.py" if recurrent else "main.py"
    return shlex.join(["python", script, "--resume", str(run_dir), *flags])
