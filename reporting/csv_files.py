"""The report's numbers as CSV: what is absent is empty, nothing is rounded."""

from __future__ import annotations

import numpy as np

from reporting import contents
from reporting.build import Report
from reporting.paper import METHODS, PaperRow, find_row, published_interval, published_score
from reporting.scores import METRICS
from reporting.tables import Table, to_csv


def csv_files(report: Report) -> dict[str, str]:
    """Content by name."""

    return {
        "runs.csv": _runs(report),
        "curves.csv": _curves(report),
        "scores.csv": _scores(report),
        "intervals.csv": _intervals(report),
        "aggregates.csv": _aggregates(report),
        "improvement.csv": _improvement(report),
        **{f"{table.name}.csv": _as_shown(table) for table in contents.score_tables(report)},
    }


def _as_shown(table: Table) -> str:
    """The table in the form of the paper, for a spreadsheet."""
    return to_csv(table.columns, [[cell.text for cell in row] for row in table.rows])


def _runs(report: Report) -> str:
    columns = [
        "task", "env", "delayed_reward", "method", "seed", "state", "used", "online_iterations",
        "online_steps", "before", "last_score", "counts", "started", "note", "folder",
    ]  # fmt: skip
    rows = [
        [
            run.task, run.env, run.delayed_reward, run.method, run.seed, run.state,
            int(not run.superseded), run.iterations, run.online_steps, run.before, run.final,
            int(run.counts), run.started, run.note, run.folder,
        ]
        for run in report.runs
    ]  # fmt: skip
    return to_csv(columns, rows)


def _curves(report: Report) -> str:
    """Means with intervals, then the evaluations of every run that is not part of one."""
    rows: list[list[object]] = []
    sets = [(each.comparison.title, each.curves, "percent") for each in report.compared]
    sets += [(task, report.curves[task], "steps") for task in report.tasks]
    for title, curves, unit in sets:
        for curve in curves:
            points = zip(curve.steps, curve.mean, curve.low, curve.high, strict=True)
            head = [title, curve.method, "mean", curve.runs, unit]
            rows += [[*head, *map(float, point)] for point in points]
    for run in report.runs:
        label = f"seed {run.seed}, {run.state}" + ", not used" * run.superseded
        points_of_run = zip(run.steps.tolist(), run.scores.tolist(), strict=True)
        head = [run.task, run.method, label, 1, "steps"]
        rows += [[*head, *point, None, None] for point in points_of_run]
    columns = ["task", "method", "curve", "runs", "unit", "at", "score", "ci_low", "ci_high"]
    return to_csv(columns, rows)


def _scores(report: Report) -> str:
    """Score and increase of every task and method, then the paper's."""
    rows: list[list[object]] = []
    for (task, method), found in report.intervals.items():
        members = report.members(task, method)
        counting = [run for run in members if run.counts]
        increase = float(np.mean([run.final - run.before for run in counting]))
        size = [len(counting), len(members)]
        rows.append([task, method, "runs", found["Mean"][0], increase, *found["Mean"][1:], *size])
    for task, row in _paper_rows(report).items():
        for method in METHODS:
            score = published_score(row.table, row.label, method)
            if score is not None:
                ends = (published_interval(row, "Mean", method) or (None, None, None))[1:]
                rows.append([task, method, "paper", *score, *ends, None, None])
    columns = ["task", "method", "source", "final", "increase", "ci_low", "ci_high", "runs", "of"]
    return to_csv(columns, rows)


def _intervals(report: Report) -> str:
    rows: list[list[object]] = []
    for (task, method), found in report.intervals.items():
        size = sum(run.counts for run in report.members(task, method))
        rows += [[task, method, "runs", metric, *found[metric], size] for metric in METRICS]
    for task, row in _paper_rows(report).items():
        for method in METHODS:
            for metric in METRICS:
                known = published_interval(row, metric, method)
                rows += [[task, method, "paper", metric, *known, None]] if known else []
    columns = ["task", "method", "source", "metric", "point", "ci_low", "ci_high", "runs"]
    return to_csv(columns, rows)


def _paper_rows(report: Report) -> dict[str, PaperRow]:
    found = {run.task: find_row(run.env, run.delayed_reward) for run in report.runs}
    return {task: row for task in report.tasks if (row := found[task]) is not None}


def _aggregates(report: Report) -> str:
    rows: list[list[object]] = []
    for each in report.compared:
        for method, found in each.metrics.items():
            size = each.comparison.scores(method).size
            rows += [
                [each.comparison.title, method, metric, *map(float, row), size]
                for metric, row in zip(METRICS, found, strict=True)
            ]
    return to_csv(["tasks", "method", "metric", "point", "ci_low", "ci_high", "runs"], rows)


def _improvement(report: Report) -> str:
    rows = [
        [each.comparison.title, x, y, *interval]
        for each in report.compared
        for (x, y), interval in each.improvements.items()
    ]
    return to_csv(["tasks", "x", "y", "probability", "ci_low", "ci_high"], rows)
