"""How far a run has come, and how that is shown while an iteration is running."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tqdm import tqdm

from get_args import Settings

# seconds before the first line and between two lines without a terminal
_FIRST_LINE, _LINE_INTERVAL = 15.0, 60.0
_MAX_WIDTH = 100


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        phase: "pretrain" or "online"; "" before the first iteration.
        iterations: Finished iterations of each phase; online -1 during the evaluation that
            `--init_from` logs as iteration 0.
        transitions: Environment steps collected online.
        collected: Metrics of the episodes collected in the current online iteration, else empty.
        best_score: Best normalised score of an evaluation.
        rows: Logged rows.
        episodes: Episodes collected online.
        started: Start of training by `time.perf_counter`, minus the time of earlier sessions.
    """

    phase: str = ""
    iterations: dict[str, int] = field(default_factory=lambda: {"pretrain": 0, "online": 0})
    transitions: int = 0
    collected: dict[str, float] = field(default_factory=dict)
    best_score: float = -math.inf
    rows: int = 0
    episodes: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def iteration(self) -> int:
        """Finished iterations of the current phase."""
        return self.iterations[self.phase]

    @property
    def place(self) -> str:
        """The current iteration, such as "online iteration 3"."""
        return f"{self.phase} iteration {self.iteration + 1}"

    @property
    def reached(self) -> str:
        """The last finished iteration, such as "online iteration 40 (48,000 transitions)"."""
        steps = f" ({self.transitions:,} transitions)" if self.transitions else ""
        return f"{self.phase} iteration {self.iteration}{steps}"

    @property
    def seconds(self) -> float:
        """Time since the start of training, without interruptions."""
        return time.perf_counter() - self.started

    @classmethod
    def of_checkpoint(cls, state: Mapping[str, Any]) -> Progress:
        """The progress that a checkpoint recorded, see `run.snapshot.checkpoint_state`."""
        names = ("phase", "iterations", "transitions", "collected_metrics", "best_score",
                 "rows_logged")  # fmt: skip
        progress = cls(*(state[name] for name in names))
        # checkpoints of earlier versions lack the episodes, which only newer schedules count
        progress.episodes = state.get("episodes", 0)
        return progress

    def iterations_left(self, settings: Settings) -> dict[str, int]:
        """Unfinished iterations of each phase.

        If the budget of transitions ends fine-tuning early, the number of online iterations is an
        estimate; it is 0 if and only if fine-tuning is over.
        """
        pretrain = settings.max_pretrain_iters - self.iterations["pretrain"]
        online = settings.max_online_iters - self.iterations["online"]
        # an iteration that was stopped during training has already collected
        current = bool(self.collected)
        begun = self.iterations["online"] + current
        if begun > 0:
            budget = online_budget(settings) - self.transitions
            online = min(online, current + max(0, math.ceil(budget * begun / self.transitions)))
        return {"pretrain": max(pretrain, 0), "online": max(online, 0)}


def online_budget(settings: Settings) -> int:
    """Environment steps after which fine-tuning ends."""
    return settings.max_online_transitions or settings.task.online_budget


def online_rows(settings: Settings) -> int:
    """Buffer rows to reserve for collected transitions."""
    horizon = settings.task.horizon
    iteration = settings.minimum_sapairs_per_iter + settings.num_online_rollouts * horizon
    # twice the buffer's capacity, so that old rows are dropped in large blocks
    capacity = 2 * settings.replay_size * horizon
    limit = settings.max_online_iters * iteration
    return min(online_budget(settings), capacity, limit) + iteration


class ProgressDisplay:
    """Shows the progress of an iteration, and the time left of the run, on standard error.

    In a terminal this is a bar; elsewhere a line with the time, after 15 s and then once a minute.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings, self._progress = settings, progress
        # the current phase, its start in this session, and the actor updates since then
        self._phase, self._since, self._updates = "", 0.0, 0
        # actor updates of the current iteration
        self._done = 0
        self._next_line = time.monotonic() + _FIRST_LINE

    @contextmanager
    def training(self, updates: int) -> Iterator[Callable[[], object]]:
        """Show an iteration of `updates` actor updates; yields a function to call after each."""
        self._begin()
        with self._shown(self._progress.place, updates, "updates") as show:

            def after_update() -> None:
                self._updates, self._done = self._updates + 1, self._done + 1
                show()

            yield after_update

    @contextmanager
    def evaluation(self, steps: int) -> Iterator[Callable[[], object]]:
        """Show an evaluation of `steps` steps; yields a function to call after each."""
        with self._shown(f"{self._progress.place}, evaluation", steps, "steps") as show:
            yield show

    @contextmanager
    def collection(self) -> Iterator[Callable[[int], object]]:
        """Show a collection; yields a function to call with the environment steps so far."""
        self._begin()
        s = self._settings
        steps = max(s.minimum_sapairs_per_iter, s.num_online_rollouts * s.task.horizon)
        with self._shown(f"{self._progress.place}, collection", steps, "steps") as show:
            yield show

    def _begin(self) -> None:
        """Begin an iteration's collection or training."""
        if self._phase != self._progress.phase:
            self._phase, self._since, self._updates = self._progress.phase, time.monotonic(), 0
        self._done = 0

    @contextmanager
    def _shown(self, place: str, total: int, unit: str) -> Iterator[Callable[..., object]]:
        """Yields a function to call with the count so far; without it, the count rises by 1."""
        width = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
        silent, count = not sys.stderr.isatty(), 0
        with tqdm(total=total, desc=place, leave=False, ncols=width, disable=silent) as bar:

            def show(reached: int | None = None) -> None:
                nonlocal count
                before, count = count, min(total, count + 1 if reached is None else reached)
                now = time.monotonic()
                if silent and now >= self._next_line:
                    self._next_line = now + _LINE_INTERVAL
                    time_of_day = datetime.now().isoformat(" ", timespec="seconds")
                    line = f"{time_of_day} {place}: {count:,}/{total:,} {unit}, {self._left(now)}"
                    tqdm.write(line, file=sys.stderr)
                elif not silent:
                    bar.set_postfix_str(self._left(now), refresh=False)
                    bar.update(count - before)

            yield show

    def _left(self, now: float) -> str:
        """The time left of the run, if its updates keep the mean pace of the current phase."""
        if not self._updates:
            return "run: ? left"
        s, left = self._settings, self._progress.iterations_left(self._settings)
        updates = left["pretrain"] * s.num_updates_per_pretrain_iter - self._done
        updates += left["online"] * s.num_updates_per_online_iter
        seconds = (now - self._since) * max(updates, 0) / self._updates
        return f"run: {timedelta(seconds=round(seconds))} left"
