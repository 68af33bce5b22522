"""The progress of a sweep: a table updated in place in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED
from sweeps.attempt import status_of
from sweeps.plan import SweepRun
from sweeps.state import PLANNED, STATES, Status, last_row

# states with another name in the output
_WORDS = {PLANNED: "waiting", FINISHED: "done"}
_COLOURS = {RUNNING: "cyan", STOPPED: "yellow", FAILED: "red", KILLED: "red", DIVERGED: "red"}
# seconds between two lines about the runs in progress, without a terminal
_LINE_INTERVAL = 60.0
_SHOWN_FAILURES = 8


def counts(states: Sequence[str]) -> str:
    """ "3 waiting, 2 running, 4 done, 1 failed" """
    seen = Counter(states)
    always = (PLANNED, RUNNING, FINISHED)
    shown = [state for state in STATES if seen[state] or state in always]
    return ", ".join(f"{seen[state]} {_WORDS.get(state, state)}" for state in shown)


def progress(run: SweepRun) -> str:
    """The progress of a run: "online 12/1500, 24,000 steps, score 51.2" """
    row = last_row(run.folder)
    if not row:
        return ""
    phase = row.get("phase", "")
    of = run.settings.max_pretrain_iters if phase == "pretrain" else run.settings.max_online_iters
    text = f"{phase} {row.get('iteration')}/{of}"
    if row.get("total_transitions_sampled"):
        text += f", {row['total_transitions_sampled']:,} steps"
    with contextlib.suppress(KeyError, TypeError, ValueError):
        text += f", score {float(row['evaluation/normalized_score']):.1f}"
    return text


def describe(run: SweepRun, status: Status) -> str:
    """State and progress of a run in one line."""
    text = f"{run.label}: {_WORDS.get(status.state, status.state)}"
    if status.attempts > 1:
        text += f" (attempt {status.attempts})"
    details = [part for part in (progress(run), status.message) if part]
    return f"{text}, {'; '.join(details)}" if details else text


class Board:
    """Shows the progress of a sweep on standard output.

    Args:
        name: The sweep's name.
        runs: All of its runs, including finished ones.
    """

    def __init__(self, name: str, runs: Sequence[SweepRun]) -> None:
        self._name, self._runs = name, runs
        self._statuses = {run: status_of(run) for run in runs}
        self._live: Any = None
        self._last_line = time.monotonic()

    @contextlib.contextmanager
    def displayed(self) -> Iterator[None]:
        """Context in which `update` shows a table if standard output is a terminal."""
        if sys.stdout.isatty():
            with contextlib.suppress(ImportError):
                from rich.live import Live  # optional

                self._live = Live(self._table(), auto_refresh=False)
        with self._live or contextlib.nullcontext():
            yield
        self._live = None

    def update(self) -> None:
        """Read the states of all runs again and show changes."""
        changed = []
        for run, before in self._statuses.items():
            if before.state in (FINISHED, DIVERGED):
                continue
            self._statuses[run] = after = status_of(run)
            if (after.state, after.attempts) != (before.state, before.attempts):
                changed.append(run)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
            return
        for run in changed:
            _print(f"{describe(run, self._statuses[run])} [{self.counts()}]")
        if changed:
            self._last_line = time.monotonic()
        elif time.monotonic() - self._last_line > _LINE_INTERVAL:
            self._last_line = time.monotonic()
            running = [run for run, s in self._statuses.items() if s.state == RUNNING]
            _print("; ".join(f"{run.label}: {progress(run) or 'starting'}" for run in running))

    def counts(self) -> str:
        return counts([status.state for status in self._statuses.values()])

    def states(self) -> list[str]:
        """The states of all runs at the last update."""
        return [status.state for status in self._statuses.values()]

    def lines(self, done: bool = True) -> list[str]:
        """One line per run, without finished and waiting ones if not `done`, then the counts."""
        about = [
            describe(run, status)
            for run, status in self._statuses.items()
            if done or status.state not in (FINISHED, PLANNED)
        ]
        return [*about, f"{self._name}: {self.counts()}"]

    def _table(self) -> Any:
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        states = self.states()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("task", "method", "seed", "state", "progress"):
            table.add_column(title, justify="right" if title == "seed" else "left")
        broken = [run for run, s in self._statuses.items() if s.state in (FAILED, KILLED, DIVERGED)]
        hidden = set(broken[:-_SHOWN_FAILURES])
        for run, status in self._statuses.items():
            if status.state in (PLANNED, FINISHED) or run in hidden:
                continue
            colour = _COLOURS[status.state]
            attempt = f" ({status.attempts})" if status.attempts > 1 else ""
            details = "; ".join(part for part in (progress(run), status.message) if part)
            table.add_row(run.task, run.method, str(run.seed),
                          Text(status.state + attempt, style=colour), Text(details))  # fmt: skip
        ended = sum(state not in (PLANNED, RUNNING) for state in states)
        bar = ProgressBar(total=len(states), completed=ended, width=40)
        return Group(
            Text(f"{self._name}: {self.counts()}", style="bold"), Padding(bar, (0, 0, 1, 0)), table
        )


def _print(text: str) -> None:
    # a closed terminal or pipe must not stop the sweep
    with contextlib.suppress(OSError):
        print(time.strftime("%H:%M:%S"), text, flush=True)
