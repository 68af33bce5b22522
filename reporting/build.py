"""Everything a report says, computed from its runs: curves, comparisons and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reporting.paper import TITLES, find_row, paper_rows
from reporting.runs import Run, mixed_settings
from reporting.scores import (
    METRICS,
    Bootstrap,
    Comparison,
    Interval,
    MeanCurve,
    compare,
    curve_over_runs,
    improvement,
    task_intervals,
)
from reporting.scores import aggregate as aggregate_metrics
from reporting.style import order_methods
from run.state import FINISHED


@dataclass(frozen=True)
class Compared:
    """A comparison of methods with its numbers.

    Attributes:
        comparison: Tasks and runs.
        curves: Mean over tasks and runs, by method; none for a single task.
        metrics: (4, 3) of `METRICS` by method: point, lower, upper.
        improvements: Probability that X improves on Y, by (X, Y).
    """

    comparison: Comparison
    curves: Sequence[MeanCurve]
    metrics: Mapping[str, np.ndarray]
    improvements: Mapping[tuple[str, str], Interval]


@dataclass(frozen=True)
class Report:
    """What the pages, pictures and files are made of.

    Attributes:
        runs: All runs.
        tasks, methods: Their names, in the order of presentation.
        curves: Mean curves by task.
        intervals: `METRICS` with intervals by task and method.
        compared: Comparisons over tasks: of all, then of each suite.
        warnings: What to know before believing any of it.
        bootstrap: How intervals were estimated.
    """

    runs: Sequence[Run]
    tasks: Sequence[str]
    methods: Sequence[str]
    curves: Mapping[str, Sequence[MeanCurve]]
    intervals: Mapping[tuple[str, str], Mapping[str, Interval]]
    compared: Sequence[Compared]
    warnings: Sequence[str]
    bootstrap: Bootstrap

    def members(self, task: str, method: str) -> list[Run]:
        """The runs of a task and method that stand for a seed each."""
        return [
            run
            for run in self.runs
            if (run.task, run.method) == (task, method) and not run.superseded
        ]


def build(runs: Sequence[Run], warnings: Sequence[str], bootstrap: Bootstrap) -> Report:
    """Compute a report.

    Args:
        runs: All runs.
        warnings: What reading them brought up.
        bootstrap: How to estimate intervals.
    """
    methods = order_methods([run.method for run in runs])
    tasks = _order_tasks(runs)
    runs = sorted(
        runs,
        key=lambda run: (tasks.index(run.task), methods.index(run.method), run.seed, run.started),
    )
    counting = [run for run in runs if run.counts]
    curves: dict[str, list[MeanCurve]] = {task: [] for task in tasks}
    intervals: dict[tuple[str, str], Mapping[str, Interval]] = {}
    for method in methods:
        groups = {
            task: [run for run in counting if (run.task, run.method) == (task, method)]
            for task in tasks
        }
        groups = {task: members for task, members in groups.items() if members}
        finals = {
            task: np.array([run.final for run in members]) for task, members in groups.items()
        }
        for task, found in task_intervals(finals, bootstrap).items():
            intervals[task, method] = found
            curve = curve_over_runs(method, [groups[task]], bootstrap)
            if curve is not None:
                curves[task].append(curve)
    return Report(
        runs=runs,
        tasks=tasks,
        methods=methods,
        curves=curves,
        intervals=intervals,
        compared=_compare_all(counting, tasks, methods, bootstrap),
        warnings=[*_state_warnings(runs), *mixed_settings(runs), *warnings],
        bootstrap=bootstrap,
    )


def _order_tasks(runs: Sequence[Run]) -> list[str]:
    """Tasks in the order of the paper's tables, then those it does not have."""
    places = {(row.env, row.delayed_reward): i for i, row in enumerate(paper_rows())}
    ranked = {
        run.task: places.get((run.env, run.delayed_reward), len(places))
        for run in sorted(runs, key=lambda run: run.task)
    }
    return sorted(ranked, key=lambda task: ranked[task])


def _state_warnings(runs: Sequence[Run]) -> list[str]:
    used = [run for run in runs if not run.superseded]
    others = Counter(run.state for run in used if run.state != FINISHED)
    lines = []
    if others:
        states = ", ".join(f"{count} {state}" for state, count in sorted(others.items()))
        lines.append(
            f"{others.total()} of {len(used)} runs are not finished ({states}): tables and means "
            "are of finished runs only, curves show the others as dotted lines"
        )
    for run in used:
        if run.state == FINISHED and not run.counts:
            what = "its final score is not finite" if len(run.steps) else "it was never evaluated"
            lines.append(f"{run.folder}: finished, but {what}; not counted")
    return lines


def _compare_all(
    counting: Sequence[Run], tasks: Sequence[str], methods: Sequence[str], bootstrap: Bootstrap
) -> list[Compared]:
    """Over all tasks, then over each of the paper's tables where there are several of its tasks."""
    done = [task for task in tasks if any(run.task == task for run in counting)]
    if not done:
        return []
    title = f"All tasks ({len(done)})" if len(done) > 1 else done[0]
    sets = {title: done}
    tables = {run.task: find_row(run.env, run.delayed_reward) for run in counting}
    for key, name in TITLES.items():
        rows = [(task, tables[task]) for task in done]
        members = [task for task, row in rows if row is not None and row.table == key]
        if 1 < len(members) < len(done):
            sets[f"{len(members)} tasks of {name}"] = members
    found = [compare(name, counting, methods, members) for name, members in sets.items()]
    return [_numbers(each, bootstrap) for each in found if each is not None]


def _numbers(comparison: Comparison, bootstrap: Bootstrap) -> Compared:
    names = list(comparison.runs)
    scores = {method: comparison.scores(method) for method in names}
    curves = [
        curve_over_runs(method, comparison.runs[method], bootstrap)
        for method in names
        if len(comparison.tasks) > 1
    ]
    improvements = {}
    for i, x in enumerate(names):
        for y in names[i + 1 :]:
            row = bootstrap.intervals([scores[x], scores[y]], improvement)[0]
            improvements[x, y] = (float(row[0]), float(row[1]), float(row[2]))
    return Compared(
        comparison,
        [curve for curve in curves if curve is not None],
        {method: bootstrap.intervals(scores[method], aggregate_metrics) for method in names},
        improvements,
    )


def interval_of(compared: Compared, method: str, metric: str) -> Interval:
    """A metric of a method with its interval."""
    row = compared.metrics[method][METRICS.index(metric)]
    return float(row[0]), float(row[1]), float(row[2])
