"""The numbers of a report as CSV, without rounding; missing values are empty."""

from __future__ import annotations

import math

import numpy as np

from reporting import contents
from reporting.build import Report
from reporting.paper import METHODS, published_interval, published_score
from reporting.scores import METRICS
from reporting.tables import to_csv


def csv_files(report: Report) -> dict[str, str]:
    """Content by file name."""
    return {
        "runs.csv": _runs(report),
        "curves.csv": _curves(report),
        "scores.csv": _scores(report),
        "intervals.csv": _intervals(report),
        "aggregates.csv": _aggregates(report),
        "improvement.csv": _improvement(report),
        **{
            f"{table.name}.csv": to_csv(
                table.columns, [[c.text for c in row] for row in table.rows]
            )
            for table in contents.score_tables(report)
        },
    }


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
    """Mean curves with intervals, then the evaluations of every run."""
    sets = [(each.title, each.curves, "percent") for each in report.comparisons]
    sets += [(task, report.curves[task], "steps") for task in report.tasks]
    rows: list[list[object]] = []
    for title, curves, unit in sets:
        for method, curve in curves.items():
            points = np.stack([curve.steps, curve.values, curve.low, curve.high], axis=1)
            rows += [[title, method, "mean", curve.runs, unit, *point] for point in points.tolist()]
    for run in report.runs:
        label = f"seed {run.seed}, {run.state}" + ", not used" * run.superseded
        points = np.stack([run.curve.steps, run.curve.values], axis=1)
        head = [run.task, run.method, label, 1, "steps"]
        rows += [[*head, *point, None, None] for point in points.tolist()]
    columns = ["task", "method", "curve", "runs", "unit", "at", "score", "ci_low", "ci_high"]
    return to_csv(columns, rows)


def _scores(report: Report) -> str:
    """Final score and increase of every task and method, then the published ones."""
    rows: list[list[object]] = []
    for (task, method), metrics in report.intervals.items():
        members = report.members(task, method)
        gains = [run.final - run.before for run in members if run.counts]
        final, low, high = metrics["Mean"]
        size = [len(gains), len(members)]
        rows.append([task, method, "runs", final, float(np.mean(gains)), low, high, *size])
    for task, row in report.paper_rows.items():
        for method in METHODS:
            score = published_score(row.table, row.label, method)
            if score:
                _, low, high = published_interval(row, "Mean", method) or [math.nan] * 3
                rows.append([task, method, "paper", *score, low, high, None, None])
    columns = ["task", "method", "source", "final", "increase", "ci_low", "ci_high", "runs", "of"]
    return to_csv(columns, rows)


def _intervals(report: Report) -> str:
    rows: list[list[object]] = []
    for (task, method), metrics in report.intervals.items():
        size = sum(run.counts for run in report.members(task, method))
        rows += [[task, method, "runs", metric, *metrics[metric], size] for metric in METRICS]
    for task, row in report.paper_rows.items():
        for method in METHODS:
            for metric in METRICS:
                if known := published_interval(row, metric, method):
                    rows.append([task, method, "paper", metric, *known, None])
    columns = ["task", "method", "source", "metric", "point", "ci_low", "ci_high", "runs"]
    return to_csv(columns, rows)


def _aggregates(report: Report) -> str:
    rows = [
        [each.title, method, metric, *interval, each.runs[method]]
        for each in report.comparisons
        for method, metrics in each.metrics.items()
        for metric, interval in metrics.items()
    ]
    return to_csv(["tasks", "method", "metric", "point", "ci_low", "ci_high", "runs"], rows)


def _improvement(report: Report) -> str:
    rows = [
        [each.title, x, y, *interval]
        for each in report.comparisons
        for (x, y), interval in each.improvements.items()
    ]
    return to_csv(["tasks", "x", "y", "probability", "ci_low", "ci_high"], rows)
