"""Run a sweep: submit its runs, retry those that crashed, stop on request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED
from run.stopping import EXIT_USER_ERROR
from sweeps.attempt import Allocation, attempt, status_of
from sweeps.plan import Sweep, SweepRun
from sweeps.state import PLANNED

# the run, and the error of the executor ("" if main.py ended by itself)
Outcome = tuple[SweepRun, str]


class Executor(Protocol):
    """Runs attempts."""

    def submit(self, run: SweepRun) -> None:
        """Queue an attempt."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Attempts that ended; waits for one, normally for at most this time."""

    def cancel(self) -> None:
        """Drop queued attempts and stop running ones; `wait` still returns all of them."""


class LocalExecutor:
    """Runs attempts one after another on this machine, without Ray."""

    def __init__(self, allocation: Allocation, stop: Callable[[], bool]) -> None:
        self._allocation, self._stop = allocation, stop
        self._queue: deque[SweepRun] = deque()

    def submit(self, run: SweepRun) -> None:
        self._queue.append(run)

    def wait(self, seconds: float) -> list[Outcome]:
        run = self._queue.popleft()
        try:
            if not self._stop():
                attempt(run, self._allocation, self._stop)
        except OSError as error:
            return [(run, f"{error.filename or run.folder}: {error.strerror}")]
        return [(run, "")]

    def cancel(self) -> None:
        """Nothing to do: `wait` checks `stop` itself."""


def remaining(runs: Sequence[SweepRun]) -> list[SweepRun]:
    """The runs that are neither finished nor running in another process.

    Diverged runs are left out: they would diverge again, at the same update.
    """
    states = {run: status_of(run).state for run in runs}
    return [run for run in runs if states[run] not in (FINISHED, DIVERGED, RUNNING)]


def with_pretraining(sweep: Sweep) -> Sweep:
    """The sweep with the shared pretraining that its remaining runs start from, first."""
    shared = dict.fromkeys(run.pretraining for run in remaining(sweep.runs) if run.pretraining)
    return replace(sweep, runs=(*shared, *sweep.runs))


def run_all(
    executor: Executor,
    runs: Sequence[SweepRun],
    retries: int,
    stop: Callable[[], bool],
    show: Callable[[], None],
) -> None:
    """Run all runs to the end and retry those that crash.

    Args:
        executor: Runs the attempts.
        runs: The runs.
        retries: Additional attempts for a run that crashed. A run that main.py refused or that
            diverged would fail again and is not retried.
        stop: Whether to stop early.
        show: Called repeatedly to show the progress.
    """
    for run in runs:
        _plan(run)
    attempts, waiting, stopping = dict.fromkeys(runs, 1), set(runs), False
    held = _submit_ready(executor, runs, waiting)
    show()
    while waiting:
        if stop() and not stopping:
            stopping = True
            executor.cancel()
            waiting -= set(held)
            held = []
        for run, problem in executor.wait(1.0):
            waiting.discard(run)
            again = _settle(run, problem) and attempts[run] <= retries
            if again and not (stopping or stop()):
                attempts[run] += 1
                waiting.add(run)
                _plan(run)
                executor.submit(run)
        held = _submit_ready(executor, held, waiting)
        show()


def _submit_ready(
    executor: Executor, held: Sequence[SweepRun], waiting: set[SweepRun]
) -> list[SweepRun]:
    """Submit the runs that can start; returns those whose pretraining is still to come.

    Runs whose pretraining has failed are removed from `waiting`.
    """
    later = []
    for run in held:
        if run.pretraining is None or status_of(run.pretraining).state == FINISHED:
            executor.submit(run)
        elif run.pretraining in waiting:
            later.append(run)
        else:
            status, cause = status_of(run), status_of(run.pretraining).state
            status.state, status.message = FAILED, f"its shared pretraining is {cause}"
            status.write(run.folder)
            waiting.discard(run)
    return later


def _plan(run: SweepRun) -> None:
    """Record that an attempt is waiting."""
    status = status_of(run)
    if status.state != RUNNING:
        status.state = PLANNED
        status.write(run.folder)


def _settle(run: SweepRun, problem: str) -> bool:
    """Record an executor's error; returns whether to retry."""
    status = status_of(run)
    if problem and status.state != RUNNING:
        status.state, status.message = KILLED, problem
        status.write(run.folder)
    ended_early = status.state in (FAILED, KILLED, STOPPED, RUNNING)
    return ended_early and status.exit_code != EXIT_USER_ERROR
