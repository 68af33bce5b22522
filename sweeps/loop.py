"""The life of a sweep: submit its runs, try again those that crashed, end well when asked to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED
from run.stopping import EXIT_USER_ERROR
from sweeps.attempt import Share, attempt, status_of
from sweeps.plan import Run
from sweeps.state import PLANNED

# one outcome: the run, and what went wrong around it ("" where main.py itself ended)
Outcome = tuple[Run, str]


class Executor(Protocol):
    """What runs attempts, somewhere."""

    def submit(self, run: Run) -> None:
        """Queue an attempt."""

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended, after this time at most where that can be kept."""

    def cancel(self) -> None:
        """Drop what is queued, ask what runs to stop; `wait` still tells the ends of all."""


class Here:
    """Runs attempts one after the other, in this process."""

    def __init__(self, share: Share, stop: Callable[[], bool]) -> None:
        self._share, self._stop = share, stop
        self._queue: deque[Run] = deque()

    def submit(self, run: Run) -> None:
        self._queue.append(run)

    def wait(self, seconds: float) -> list[Outcome]:
        run = self._queue.popleft()
        try:
            if not self._stop():
                attempt(run, self._share, self._stop)
        except OSError as error:
            return [(run, f"{error.filename or run.folder}: {error.strerror}")]
        return [(run, "")]

    def cancel(self) -> None:
        """`wait` sees the signal itself."""


def to_do(runs: Sequence[Run]) -> list[Run]:
    """The runs that are not done yet, nor at work in another process.

    One that diverged is done: it would diverge again, at the same update.
    """
    states = {run: status_of(run).state for run in runs}
    return [run for run in runs if states[run] not in (FINISHED, DIVERGED, RUNNING)]


def run_all(
    executor: Executor,
    runs: Sequence[Run],
    retries: int,
    stop: Callable[[], bool],
    show: Callable[[], None],
) -> None:
    """Run all of them to their ends; those that crash again, `retries` times at most.

    Args:
        executor: What runs them.
        runs: Those to run.
        retries: More attempts for a run that crashed. One that main.py refused, or whose losses
            diverged, would fail again and is not tried again.
        stop: Whether to end early.
        show: Called again and again, to show how far they are.
    """
    for run in runs:
        _plan(run)
        executor.submit(run)
    attempts, waiting, stopping = dict.fromkeys(runs, 1), set(runs), False
    show()
    while waiting:
        if stop() and not stopping:
            stopping = True
            executor.cancel()
        for run, problem in executor.wait(1.0):
            waiting.discard(run)
            again = _settle(run, problem) and attempts[run] <= retries
            if again and not (stopping or stop()):
                attempts[run] += 1
                waiting.add(run)
                _plan(run)
                executor.submit(run)
        show()


def _plan(run: Run) -> None:
    """Write down that an attempt is to come."""
    status = status_of(run)
    if status.state != RUNNING:
        status.state = PLANNED
        status.write(run.folder)


def _settle(run: Run, problem: str) -> bool:
    """Write down what an attempt did not live to; returns whether another one may help."""
    status = status_of(run)
    if problem and status.state != RUNNING:
        status.state, status.message = KILLED, problem
        status.write(run.folder)
    ended_early = status.state in (FAILED, KILLED, STOPPED, RUNNING)
    return ended_early and status.exit_code != EXIT_USER_ERROR
