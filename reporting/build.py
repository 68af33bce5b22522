"""Everything a report shows, computed from its runs: curves, intervals and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reporting.curves import Curve, mean_curve
from reporting.intervals import Interval
from reporting.paper import TITLES, PaperRow, find_row, paper_rows
from reporting.runs import RunResult, state_warnings
from reporting.scores import Comparison, compare, metric_intervals
from reporting.style import order_methods


@dataclass(frozen=True)
class Report:
    """The content of a report's page, figures and CSV files.

    Attributes:
        runs: All runs.
        tasks, methods: Names in the order of presentation.
        paper_rows: The rows of the paper's tables by task, for those that have one.
        curves: Mean curves by task and method.
        intervals: `METRICS` with intervals by task and method.
        comparisons: Methods compared over all tasks, then over those of each of the paper's tables.
        warnings: What to know before trusting the numbers.
    """

    runs: Sequence[RunResult]
    tasks: Sequence[str]
    methods: Sequence[str]
    paper_rows: Mapping[str, PaperRow]
    curves: Mapping[str, Mapping[str, Curve]]
    intervals: Mapping[tuple[str, str], Mapping[str, Interval]]
    comparisons: Sequence[Comparison]
    warnings: Sequence[str]

    def members(self, task: str, method: str) -> list[RunResult]:
        """The runs of a task and method, one per seed."""
        return [
            run
            for run in self.runs
            if (run.task, run.method) == (task, method) and not run.superseded
        ]


def build(runs: Sequence[RunResult], warnings: Sequence[str]) -> Report:
    """Compute a report.

    Args:
        runs: All runs.
        warnings: Warnings from reading them.
    """
    methods = order_methods([run.method for run in runs])
    rows = {run.task: find_row(run.env, run.delayed_reward) for run in runs}
    tasks = _order_tasks(rows)
    runs = sorted(
        runs,
        key=lambda run: (tasks.index(run.task), methods.index(run.method), run.seed, run.started),
    )
    counting = [run for run in runs if run.counts]
    intervals = {}
    for task, method in dict.fromkeys((run.task, run.method) for run in counting):
        members = [run for run in counting if (run.task, run.method) == (task, method)]
        finals = np.array([run.final for run in members])
        intervals[task, method] = metric_intervals([finals], members[0].scored)
    return Report(
        runs=runs,
        tasks=tasks,
        methods=methods,
        paper_rows={task: row for task in tasks if (row := rows[task]) is not None},
        curves={task: task_curves(runs, task) for task in tasks},
        intervals=intervals,
        comparisons=_compare_all(counting, tasks, methods, rows),
        warnings=[*state_warnings(runs), *warnings],
    )


def task_curves(runs: Sequence[RunResult], task: str) -> dict[str, Curve]:
    """Mean curves over the finished runs of a task, by method; a single run's own curve."""
    counting = [run for run in runs if run.counts and run.task == task]
    found = {}
    for method in order_methods([run.method for run in counting]):
        curves = [run.curve for run in counting if run.method == method]
        curve = curves[0] if len(curves) == 1 else mean_curve([curves])
        if curve is not None:
            found[method] = curve
    return found


def offline_score(runs: Sequence[RunResult], task: str) -> float | None:
    """Mean score of a task's offline data; None if unknown, or if runs had different data."""
    known = {run.offline for run in runs if run.task == task and run.offline is not None}
    score = known.pop() if len(known) == 1 else math.nan
    return score if math.isfinite(score) else None


def _order_tasks(rows: Mapping[str, PaperRow | None]) -> list[str]:
    """Tasks in the order of the paper's tables, then all others by name."""
    places = {row: i for i, row in enumerate(paper_rows())}

    def rank(task: str) -> tuple[int, str]:
        row = rows[task]
        return (places[row] if row else len(places), task)

    return sorted(rows, key=rank)


def _compare_all(
    counting: Sequence[RunResult],
    tasks: Sequence[str],
    methods: Sequence[str],
    rows: Mapping[str, PaperRow | None],
) -> list[Comparison]:
    returns = [task for task in tasks if any(r.task == task and not r.scored for r in counting)]
    done = [task for task in tasks if any(r.task == task and r.scored for r in counting)]
    sets = {}
    if done:
        few = f"{len(done)} tasks with scores" if returns else f"All tasks ({len(done)})"
        sets[few if len(done) > 1 else done[0]] = done
    for key, title in TITLES.items():
        members = [task for task in done if (row := rows[task]) and row.table == key]
        if 1 < len(members) < len(done):
            sets[f"{len(members)} tasks of {title}"] = members
    sets |= {f"{task} (returns)": [task] for task in returns}
    found = [compare(title, counting, methods, members) for title, members in sets.items()]
    return [each for each in found if each is not None]
