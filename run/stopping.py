"""Ending a run early: signals, exit codes, and what to do next."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from run.checkpoint import state_files
from run.files import DIVERGENCE_FILE
from run.state import STOPPED
from run.training_log import Divergence
from run.writers import leave
from utils import UserError, make_output_lasting, shell_command

if TYPE_CHECKING:
    from run.snapshot import Parts

# an error that the user can fix: trying again would fail again
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_OUT_OF_MEMORY = 4
# stopped by a signal, with a checkpoint to resume from
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130

# SIGTERM and SIGHUP end a job or its terminal; schedulers announce a time limit with the others
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
# a launcher and the scheduler may both deliver the same request within this time, in seconds
_ONE_REQUEST = 4.0
# handlers of signals that arrived during one long computation run within this time, in seconds
_SAME_MOMENT = 1.0
# the learning rate suggested after a divergence is lower by this factor
_LOWER_RATE = 3.0
_OUT_OF_MEMORY = re.compile("out of memory|(can't|cannot) allocate memory|ALLOC_FAILED", re.I)


class Stopped(Exception):
    """The run was stopped on request and wrote a checkpoint."""

    # recorded in config.json
    outcome = STOPPED


class Complete(Exception):
    """The run to resume has nothing left to do; the text says which flag gives more."""


class StopSignal:
    """Notes signals that end a run, so that it can stop between updates.

    A second Ctrl-C, or any signal some seconds after the first, raises KeyboardInterrupt. Python
    runs handlers only between instructions, so their times do not tell when a signal came. An alarm
    is delayed alike: a signal is a later one if its handler runs well after that of the alarm.
    """

    def __init__(self) -> None:
        self.requested = False
        self._ctrl_c, self._request_over = 0, math.inf
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        return self.requested

    def install(self) -> None:
        """Handle the signals, except a SIGHUP that nohup ignores.

        Does nothing outside a program's main thread.
        """
        if threading.current_thread() is threading.main_thread():
            self._before = {kind: signal.getsignal(kind) for kind in _SIGNALS}
            if self._before[signal.SIGHUP] == signal.SIG_IGN:
                del self._before[signal.SIGHUP]
            self._handle(self._note)

    def ignore(self) -> None:
        """Ignore the signals, if they are handled: the program is about to exit with its code."""
        self._handle(signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals within a context."""
        self.install()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for kind, handler in self._before.items():
                signal.signal(kind, handler)

    def _handle(self, handler: Any) -> None:
        for kind in self._before:
            signal.signal(kind, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._ctrl_c += number == signal.SIGINT
        if not self.requested:
            self.requested = True
            signal.signal(signal.SIGALRM, self._note_alarm)
            signal.setitimer(signal.ITIMER_REAL, _ONE_REQUEST)
            line = "Stopping after this update (Ctrl-C again to quit immediately).\n"
            # not by sys.stderr, which the signal may have interrupted
            with contextlib.suppress(OSError):
                os.write(2, ("\n" * os.isatty(2) + line).encode())
            return
        late = time.monotonic() - self._request_over > _SAME_MOMENT
        # the system repeats SIGXCPU every second
        again = number == signal.SIGINT and self._ctrl_c > 1
        if again or (late and number != signal.SIGXCPU):
            raise KeyboardInterrupt

    def _note_alarm(self, number: int, frame: FrameType | None) -> None:
        self._request_over = time.monotonic()


def run_program(main: Callable[..., int]) -> NoReturn:
    """Run `main(stop=...)` as this process: handle signals and output, exit with its code."""
    make_output_lasting()
    stop = StopSignal()
    stop.install()
    try:
        code = main(stop=stop)
    except SystemExit as ended:  # argparse
        code = int(ended.code or 0)
    stop.ignore()
    leave(code)


def explain(error: BaseException, run: Parts | None, recurrent: bool) -> tuple[str, int]:
    """What to print about the end of a run, and the exit code.

    Args:
        error: What ended it.
        run: The run; None if it had not started.
        recurrent: Whether the critics are recurrent.

    Raises:
        BaseException: the error itself, if it is none of those that a user can expect.
    """
    if isinstance(error, Complete):
        return str(error), 0
    if isinstance(error, UserError):
        return f"error: {error}", EXIT_USER_ERROR
    if isinstance(error, Stopped):
        return f"Stopped. {_next_step(run, recurrent)}", EXIT_STOPPED
    if isinstance(error, KeyboardInterrupt):
        return f"Interrupted. {_next_step(run, recurrent)}", EXIT_INTERRUPTED
    if isinstance(error, Divergence) and run is not None:
        return f"error: {_explain_divergence(error, run)}", EXIT_DIVERGED
    full = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))
    if full or isinstance(error, MemoryError):
        return f"error: out of memory{_explain_memory(error, run)}", EXIT_OUT_OF_MEMORY
    raise error


def _next_step(run: Parts | None, recurrent: bool) -> str:
    """How to continue a run that was stopped, in one sentence."""
    if run is None:
        return "Nothing was trained yet; run the same command again."
    if not state_files(run.run_dir):
        return f"There is no checkpoint yet; delete {run.run_dir} and run the same command again."
    return f"Resume with: {_resume_command(run.run_dir, recurrent)}"


def _explain_divergence(error: Divergence, run: Parts) -> str:
    """Report the error in the run's folder; returns one line on what broke and what to do."""
    error.write_report(run.run_dir)
    used = {flag: getattr(run.settings, flag) for flag in error.flags_to_try}
    rates = " and ".join(f"--{flag} (it was {rate:g})" for flag, rate in used.items())
    advice = f"start again with a lower {rates}"
    if state_files(run.run_dir):
        lower = [w for f, x in used.items() for w in (f"--{f}", f"{x / _LOWER_RATE:.2g}")]
        command = _resume_command(run.run_dir, run.settings.recurrent, *lower)
        advice = f"resume from the last checkpoint with a lower {rates}: {command}"
    return (
        f"training diverged in {run.progress.place}: {error} not finite; "
        f"{run.run_dir / DIVERGENCE_FILE} describes the batch; {advice}"
    )


def _explain_memory(error: BaseException, run: Parts | None) -> str:
    """Where memory ran out, for how much, and what to do."""
    size = re.search(r"allocate ([\d.]+ \w+)", str(error))
    amount = f" (tried to allocate {size[1]})" if size else ""
    if run is None:
        return f"{amount}; use a smaller --batch_size, --embed_dim or --K"
    s, place = run.settings, f" on {run.device} in {run.progress.place}"
    advice = f"use a smaller --batch_size ({s.batch_size}), --embed_dim ({s.embed_dim}) or "
    advice += f"--K ({s.K})"
    if state_files(run.run_dir):
        smaller = ("--batch_size", str(max(1, s.batch_size // 2)))
        advice += f"; resume with: {_resume_command(run.run_dir, s.recurrent, *smaller)}"
    return f"{place}{amount}; {advice}"


def _resume_command(run_dir: Path, recurrent: bool, *flags: str) -> str:
    script = "recurrent_main.py" if recurrent else "main.py"
    return shell_command(script, "--resume", str(run_dir), *flags)
