"""The progress of a sweep: a table updated in place in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from evaluation import SCORE, headline
from run.state import DIVERGED, FAILED, FINISHED, KILLED, RUNNING, STOPPED
from sweeps.folders import status_of
from sweeps.plan import SweepRun
from sweeps.state import PLANNED, STATES, metric_rows

# states with another name in the output
_WORDS = {PLANNED: "waiting", FINISHED: "done"}
_COLOURS = {RUNNING: "cyan", STOPPED: "yellow", FAILED: "red", KILLED: "red", DIVERGED: "red"}
# seconds between two updates, and between two lines without a terminal
_INTERVAL, _LINE_INTERVAL = 1.0, 60.0


def progress(run: SweepRun) -> str:
    """The progress of a run: "online 12/1500, 24,000 steps, score 51.2" """
    # a row is a few kilobytes, and by default every tenth one has an evaluation
    rows = metric_rows(run.folder, last_bytes=65536)
    if not rows:
        return ""
    phase, settings = rows[-1]["phase"], run.settings
    of = settings.max_pretrain_iters if phase == "pretrain" else settings.max_online_iters
    parts = [f"{phase} {rows[-1]['iteration']}/{of}"]
    if steps := rows[-1].get("total_transitions_sampled"):
        parts.append(f"{steps:,} steps")
    evaluated = [found for row in rows if (found := headline(row))[0] in row]
    parts += [f"{'score' if k == SCORE else 'return'} {x:.1f}" for k, x in evaluated][-1:]
    return ", ".join(parts)


class Board:
    """Shows the progress of a sweep on standard output.

    Args:
        name: The sweep's name.
        runs: All of its runs, including finished ones.
    """

    def __init__(self, name: str, runs: Sequence[SweepRun]) -> None:
        self._name = name
        self._statuses = {run: status_of(run) for run in runs}
        self._live: Any = None
        self._updated = self._last_line = time.monotonic()

    @contextlib.contextmanager
    def displayed(self) -> Iterator[None]:
        """Context in which `update` shows a table if standard output is a terminal."""
        if sys.stdout.isatty():
            with contextlib.suppress(ImportError):
                from rich.live import Live  # optional

                self._live = Live(self.table(), auto_refresh=False)
        with self._live or contextlib.nullcontext():
            yield
        self._live = None

    def update(self) -> None:
        """Once per second, read the states of all runs again and show changes."""
        if time.monotonic() - self._updated < _INTERVAL:
            return
        before, self._statuses = self._statuses, {run: status_of(run) for run in self._statuses}
        self._updated = time.monotonic()
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
            return
        for run, status in self._statuses.items():
            if (status.state, status.attempts) != (before[run].state, before[run].attempts):
                self._print(f"{self._line(run)} [{self.counts()}]")
        running = [run for run, s in self._statuses.items() if s.state == RUNNING]
        if running and time.monotonic() - self._last_line > _LINE_INTERVAL:
            self._print("; ".join(f"{run.label}: {progress(run) or 'starting'}" for run in running))

    def _print(self, text: str) -> None:
        self._last_line = time.monotonic()
        print(time.strftime("%H:%M:%S"), text, flush=True)

    def counts(self) -> str:
        """ "3 waiting, 2 running, 4 done, 1 failed" """
        seen = Counter(self.states())
        always = (PLANNED, RUNNING, FINISHED)
        shown = [state for state in STATES if seen[state] or state in always]
        return ", ".join(f"{seen[state]} {_WORDS.get(state, state)}" for state in shown)

    def states(self) -> list[str]:
        """The states of all runs at the last update."""
        return [status.state for status in self._statuses.values()]

    def lines(self, done: bool = True) -> list[str]:
        """One line per run, without finished and waiting ones if not `done`, then the counts."""
        about = [
            self._line(run)
            for run, status in self._statuses.items()
            if done or status.state not in (FINISHED, PLANNED)
        ]
        return [*about, f"{self._name}: {self.counts()}"]

    def _describe(self, run: SweepRun) -> tuple[str, str]:
        """State and details of a run."""
        status = self._statuses[run]
        attempt = f" (attempt {status.attempts})" if status.attempts > 1 else ""
        sampled = ", ".join(f"{name} {value}" for name, value in status.sampled.items())
        details = "; ".join(filter(None, (progress(run), sampled, status.message)))
        return _WORDS.get(status.state, status.state) + attempt, details

    def _line(self, run: SweepRun) -> str:
        return f"{run.label}: {', '.join(filter(None, self._describe(run)))}"

    def table(self) -> Any:
        """The counts and the runs that are neither waiting nor finished, for a terminal."""
        from rich.table import Table
        from rich.text import Text

        title = Text(f"{self._name}: {self.counts()}", style="bold")
        table = Table(box=None, pad_edge=False, header_style="dim", title=title,
                      title_justify="left")  # fmt: skip
        for heading in ("task", "method", "run", "state", "progress"):
            table.add_column(heading)
        for run, status in self._statuses.items():
            if status.state not in (PLANNED, FINISHED):
                state, details = self._describe(run)
                colour = _COLOURS.get(status.state, "")
                cells = (run.task, run.method, run.folder.name)
                # as text, because brackets are markup
                table.add_row(*map(Text, cells), Text(state, colour), Text(details))
        return table
