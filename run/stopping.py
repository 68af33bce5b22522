"""Exit codes, and ending a run early, at a good place."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
# stopped by SIGTERM or SIGINT, with a checkpoint to go on from
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130


class Stopped(Exception):
    """The run ended early, on request, and left a checkpoint of where it was."""

    # what config.json says of the run's end
    outcome = "stopped"


def resume_command(run_dir: Path, recurrent: bool, *flags: str) -> str:
    """What to type to go on from a run's last checkpoint, with these flags changed."""
    script = "recurrent_main.py" if recurrent else "main.py"
    return shlex.join(["python", script, "--resume", str(run_dir), *flags])


class StopSignal:
    """Notes SIGTERM and SIGINT, so that a run can end at a good place.

    A second signal interrupts at once.
    """

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take both signals over; only a program's main thread can."""
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
        sys.stderr.write("stopping after this update; once more to stop at once\n")
