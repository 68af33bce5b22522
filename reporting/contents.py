"""The tables of a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from get_args import Settings, parse_args
from reporting.build import Report
from reporting.differences import unusual_flags
from reporting.intervals import Interval
from reporting.paper import (
    AVERAGE,
    METHODS,
    PUBLISHED_AS,
    TITLES,
    PaperRow,
    paper_rows,
    published_interval,
    published_score,
)
from reporting.runs import RunResult, describe_states
from reporting.scores import METRICS, Comparison
from reporting.style import order_methods
from reporting.tables import Cell, Table, format_interval, format_score, number, words
from sweeps.published import METHOD_FLAGS, TASK_FLAGS

SCORE_NOTE = (
    "Normalised score after online fine-tuning (increase over pretraining): mean over finished "
    "runs, its 95% interval, and the number of finished runs. Columns marked (paper) are published "
    "results; some published intervals are around means that differ slightly from the published "
    "tables. The paper's IQL uses an MLP policy, as IQL-MLP does here; a method called IQL is the "
    "RL gradient of a decision transformer. The section Settings shows where these runs differ "
    "from the published commands."
)
_PAPER = " (paper)"


def overview(report: Report) -> Table:
    """Finished runs by task and method."""
    rows = []
    for task in report.tasks:
        row = [words(task)]
        for method in report.methods:
            members = report.members(task, method)
            done = sum(run.counts for run in members)
            kind = "complete" if done == len(members) else "incomplete"
            row.append(
                Cell(f"{done} of {len(members)}", done, _lines(describe_states(members)), kind)
                if members
                else Cell("–", 0)
            )
        rows.append(row)
    note = "Finished runs out of all runs, and the states of the others."
    return Table("overview", "Runs by task and method", ["Task", *report.methods], rows, note)


def score_tables(report: Report) -> list[Table]:
    """The paper's tables with the scores of these runs, then a table of all other tasks."""
    tables = []
    for key, title in TITLES.items():
        rows = {
            row: task
            for row in paper_rows()
            for task in report.tasks
            if row.table == key and report.paper_rows.get(task) == row
        }
        if rows:
            tables.append(_paper_table(report, key, title, rows))
    others = [task for task in report.tasks if task not in report.paper_rows]
    if others:
        body = [[words(t), *(_score_cell(report, [t], m) for m in report.methods)] for t in others]
        columns = ["Task", *report.methods]
        tables.append(Table("other", "Tasks without published scores", columns, body))
    return tables


def _paper_table(report: Report, key: str, title: str, rows: Mapping[PaperRow, str]) -> Table:
    bases = {run.method: run.base for run in report.runs}
    present = [m for m in report.methods if any(report.members(t, m) for t in rows.values())]
    # (method, whether it is the paper's): each of ours is followed by its published counterpart
    columns: list[tuple[str, bool]] = []
    for method in present:
        columns.append((method, False))
        name = PUBLISHED_AS.get(bases[method], "")
        if published_score(key, AVERAGE, name):
            columns.append((name, True))
    columns += [(m, True) for m in METHODS if published_score(key, AVERAGE, m)]
    # the first of several variants gets the published column
    columns = list(dict.fromkeys(columns))
    body = []
    for row, task in rows.items():
        cells = [Cell(task, task, (row.label,))]
        for method, published in columns:
            cells.append(
                _published_cell(row, method) if published else _score_cell(report, [task], method)
            )
        body.append(cells)
    complete = len(rows) == sum(row.table == key for row in paper_rows())
    if len(rows) > 1:
        body.append(_average_row(report, rows, columns))
    if complete:
        body.append(_published_average(key, columns))
    headings = ["Task", *(method + _PAPER * published for method, published in columns)]
    return Table(key, title, headings, body, totals=(len(rows) > 1) + complete)


def _score_cell(report: Report, tasks: Sequence[str], method: str) -> Cell:
    """Mean over the finished runs of each task, averaged over tasks; a dash if a task has none."""
    members = [report.members(task, method) for task in tasks]
    counting = [[run for run in runs if run.counts] for runs in members]
    total, done = sum(map(len, members)), sum(map(len, counting))
    if not total:
        return Cell("", -math.inf)
    share = f"{done} of {total}"
    if not all(counting):
        states = describe_states([run for runs in members for run in runs])
        return Cell("–", -math.inf, _lines(share, states))
    final = float(np.mean([np.mean([run.final for run in runs]) for runs in counting]))
    gains = [np.mean([run.final - run.before for run in runs]) for runs in counting]
    interval = ""
    if len(tasks) == 1:
        interval = format_interval(*report.intervals[tasks[0], method]["Mean"][1:])
    return Cell(format_score(final, float(np.mean(gains))), final, _lines(interval, share))


def _lines(*texts: str) -> tuple[str, ...]:
    return tuple(text for text in texts if text)


def _published_cell(row: PaperRow, method: str) -> Cell:
    score = published_score(row.table, row.label, method)
    if score is None:
        return Cell("", -math.inf, kind="paper")
    interval = published_interval(row, "Mean", method)
    detail = _lines(format_interval(*interval[1:])) if interval else ()
    return Cell(format_score(*score), score[0], detail, "paper")


def _average_row(
    report: Report, rows: Mapping[PaperRow, str], columns: Sequence[tuple[str, bool]]
) -> list[Cell]:
    """Averages over the rows shown, of our scores and of the published ones."""
    cells = [Cell("Average of these rows", "~")]
    for method, published in columns:
        if not published:
            cells.append(_score_cell(report, list(rows.values()), method))
            continue
        scores = [published_score(row.table, row.label, method) for row in rows]
        known = np.array([score for score in scores if score is not None])
        if len(known) < len(rows):
            cells.append(Cell("", -math.inf, kind="paper"))
            continue
        final, gain = known.mean(axis=0)
        cells.append(Cell(format_score(final, gain), float(final), kind="paper"))
    return cells


def _published_average(key: str, columns: Sequence[tuple[str, bool]]) -> list[Cell]:
    """The paper's own last row; a few of its averages do not match its rows."""
    cells = [Cell("Average, as published", "~~")]
    for method, published in columns:
        score = published_score(key, AVERAGE, method) if published else None
        text = format_score(*score) if score else ""
        cells.append(Cell(text, score[0] if score else -math.inf, kind="paper" * published))
    return cells


def aggregate_table(comparison: Comparison, index: int) -> Table:
    """The aggregate metrics of each method over the tasks of a comparison."""
    rows = [
        [words(method), number(runs, 0), *_metric_cells(comparison.metrics[method])]
        for method, runs in comparison.runs.items()
    ]
    notes = [f"Tasks: {', '.join(comparison.tasks)}."]
    if comparison.left_out:
        notes.append(f"Left out: {'; '.join(comparison.left_out)}.")
    columns = ["Method", "Runs", *METRICS]
    return Table(f"aggregates-{index}", comparison.title, columns, rows, " ".join(notes))


def improvement_table(comparison: Comparison, index: int) -> Table:
    """The probability of improvement of each pair of methods."""
    rows = [
        [words(x), words(y), _interval_cell(interval)]
        for (x, y), interval in comparison.improvements.items()
    ]
    title = f"Probability of improvement, {comparison.title[0].lower()}{comparison.title[1:]}"
    return Table(f"improvement-{index}", title, ["X", "Y", "P(X > Y)"], rows)


def _metric_cells(metrics: Mapping[str, Interval]) -> list[Cell]:
    return [_interval_cell(metrics[metric]) for metric in METRICS]


def _interval_cell(interval: Interval, kind: str = "") -> Cell:
    point, low, high = interval
    return dataclasses.replace(number(point, kind=kind), detail=_lines(format_interval(low, high)))


def interval_table(report: Report) -> Table:
    """The aggregate metrics of each task and method, each followed by the published ones."""
    bases = {run.method: run.base for run in report.runs}
    rows: list[list[Cell]] = []
    for task in report.tasks:
        published = _published_intervals(task, report.paper_rows.get(task))
        for method in report.methods:
            if found := report.intervals.get((task, method)):
                done = sum(run.counts for run in report.members(task, method))
                rows.append([words(task), words(method), number(done, 0), *_metric_cells(found)])
            name = PUBLISHED_AS.get(bases[method], "")
            if name in published:
                rows.append(published.pop(name))
        rows += published.values()
    note = (
        "Over the runs of each task. The median is that of the tasks' means, as in rliable and in "
        "the published results; for a single task it equals the mean."
    )
    columns = ["Task", "Method", "Runs", *METRICS]
    return Table("intervals", "Scores by task", columns, rows, note)


def _published_intervals(task: str, row: PaperRow | None) -> dict[str, list[Cell]]:
    """Rows of published results by method."""
    rows = {}
    for method in METHODS if row else ():
        known = {metric: row and published_interval(row, metric, method) for metric in METRICS}
        if all(known.values()):
            # NaN is sorted last
            runs = number(math.nan, kind="paper")
            cells = [_interval_cell(each, "paper") for each in known.values() if each]
            rows[method] = [words(task), words(method + _PAPER, "paper"), runs, *cells]
    return rows


def run_table(report: Report) -> Table:
    """All runs with their states."""
    rows = []
    for run in report.runs:
        total = run.settings.get("max_online_iters", "–")
        rows.append(
            [
                words(run.task),
                words(run.method),
                number(run.seed, 0),
                words(run.state + ", not used" * run.superseded, f"state-{run.state}"),
                Cell(f"{run.iterations} of {total}", run.iterations),
                number(run.online_steps, 0),
                number(run.before),
                number(run.final),
                words(run.note),
                words(run.started[:16].replace("T", " ")),
                words(run.folder),
            ]
        )
    columns = [
        "Task", "Method", "Seed", "State", "Online iterations", "Online steps",
        "After pretraining", "Last score", "Note", "Started (UTC)", "Folder",
    ]  # fmt: skip
    return Table("runs", "All runs", columns, rows)


def search_tables(report: Report) -> list[Table]:
    """The trials of each search, the best first."""
    searches: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in report.runs:
        if run.sampled:
            searches.setdefault((run.exp_name, run.task, run.base), []).append(run)
    tables = []
    for number_of, ((name, task, _), runs) in enumerate(searches.items(), start=1):
        flags = list(runs[0].sampled)
        rows = [
            [
                words(run.folder.name),
                number(run.final),
                words(run.state, f"state-{run.state}"),
                number(run.iterations, 0),
                *(
                    Cell(str(x), x if isinstance(x, float | int) else str(x))
                    for x in map(run.sampled.get, flags)
                ),
            ]
            for run in sorted(runs, key=lambda run: -np.nan_to_num(run.final, nan=-math.inf))
        ]
        columns = ["Trial", "Last score", "State", "Online iterations", *flags]
        note = "Best last score first. A pruned trial ended early because of its score."
        tables.append(Table(f"search-{number_of}", f"Search {name}, {task}", columns, rows, note))
    return tables


def settings_table(report: Report) -> Table:
    """The settings of each task and method, relative to defaults and published commands."""
    default = dataclasses.asdict(Settings())
    rows = []
    for task in report.tasks:
        for method in report.methods:
            run = next((run for run in report.members(task, method) if run.settings), None)
            if run is not None:
                own = words(unusual_flags(run.settings, default) or "none", "flags")
                rows.append([words(task), words(method), own, _published_flags(run)])
    note = "With the runs' values. Flags that do not change the results are left out."
    columns = ["Task", "Method", "Differs from the defaults in", "From the published command in"]
    return Table("settings", "Settings", columns, rows, note)


def _published_flags(run: RunResult) -> Cell:
    """The settings in which a run differs from the published command."""
    if run.base not in METHOD_FLAGS or run.env not in TASK_FLAGS:
        return words("no published command")
    argv = ["--env", run.env, *METHOD_FLAGS[run.base], *TASK_FLAGS[run.env]]
    published = dataclasses.asdict(parse_args(argv))
    return words(unusual_flags(run.settings, published) or "none", "flags")


def change_table(runs: Sequence[RunResult]) -> Table:
    """Mean and range over finished runs before and after fine-tuning, by task and method."""
    rows = []
    counting = [run for run in runs if run.counts]
    groups = {(run.task, run.method) for run in counting}
    methods = order_methods([run.method for run in counting])
    for task, method in sorted(groups, key=lambda group: (group[0], methods.index(group[1]))):
        members = [run for run in counting if (run.task, run.method) == (task, method)]
        before, after = [run.before for run in members], [run.final for run in members]
        higher = sum(run.final > run.before for run in members)
        change = float(np.mean(after) - np.mean(before))
        texts = [
            task, method, len(members), _with_range(before), _with_range(after),
            "–" if math.isnan(change) else f"{change:+.1f}",
            "–" if math.isnan(change) else f"{higher} of {len(members)}",
        ]  # fmt: skip
        rows.append([words(text) for text in texts])
    columns = ["task", "method", "seeds", "after pretraining", "at the end", "change",
               "seeds that ended higher"]  # fmt: skip
    return Table("change", "Before and after fine-tuning", columns, rows)


def _with_range(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if math.isnan(mean):
        return "–"
    return f"{mean:.1f}" + f" ({min(values):.1f} to {max(values):.1f})" * (len(values) > 1)
