"""The report's tables, made from its numbers."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from get_args import Settings, parse_args
from reporting.build import Compared, Report, interval_of
from reporting.paper import (
    AVERAGE,
    METHODS,
    PUBLISHED_AS,
    TITLES,
    PaperRow,
    find_row,
    paper_rows,
    published_interval,
    published_score,
)
from reporting.runs import Run, unusual_flags
from reporting.scores import METRICS
from reporting.tables import Cell, Table, format_interval, format_score, number, words
from run.state import FINISHED
from sweeps.published import METHOD_FLAGS, TASK_FLAGS

SCORE_NOTE = (
    "Normalised score after online fine-tuning (increase over pretraining), mean over finished "
    "runs, with the 95% interval of the mean and how many runs are finished. Columns marked "
    "(paper) are published figures; the published intervals are around means that are in places "
    "not quite those of the published tables. The paper's IQL has an MLP for a policy, as "
    "IQL-MLP here; IQL alone is the RL gradient of a decision transformer. Whether these runs "
    "had the published settings stands under Settings."
)
_PAPER = " (paper)"


def state_counts(runs: Sequence[Run]) -> str:
    """How many runs there are in each state other than finished: "1 running, 2 diverged"."""
    counts = Counter(run.state for run in runs if run.state != FINISHED)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def overview(report: Report) -> Table:
    """Finished runs by task and method."""
    rows = []
    for task in report.tasks:
        row = [words(task)]
        for method in report.methods:
            members = report.members(task, method)
            done = sum(run.counts for run in members)
            whole = "complete" if done == len(members) else "incomplete"
            text = f"{done} of {len(members)}" if members else "–"
            kind = whole if members else ""
            row.append(Cell(text, done, _lines(state_counts(members)), kind))
        rows.append(row)
    note = "Finished runs, of all runs there are, and what the others are."
    return Table("overview", "Runs by task and method", ["Task", *report.methods], rows, note)


def score_tables(report: Report) -> list[Table]:
    """The paper's tables with the scores of these runs, then one of tasks that it does not have."""
    places = {run.task: find_row(run.env, run.delayed_reward) for run in report.runs}
    tables = []
    for key, title in TITLES.items():
        rows = {
            row: task
            for row in paper_rows()
            for task in report.tasks
            if row.table == key and places[task] == row
        }
        if rows:
            tables.append(_paper_table(report, key, title, rows))
    others = [task for task in report.tasks if places[task] is None]
    if others:
        rows_of_others = [
            [words(task), *(_score_cell(report, [task], method) for method in report.methods)]
            for task in others
        ]
        columns = ["Task", *report.methods]
        tables.append(Table("other", "Tasks without published scores", columns, rows_of_others))
    return tables


def _paper_table(report: Report, key: str, title: str, rows: dict[PaperRow, str]) -> Table:
    bases = {run.method: run.base for run in report.runs}
    present = [m for m in report.methods if any(report.members(t, m) for t in rows.values())]
    # (method, whether it is the paper's): ours, each followed by the published one of its name
    columns: list[tuple[str, bool]] = []
    for method in present:
        columns.append((method, False))
        name = PUBLISHED_AS.get(bases[method], "")
        # beside the first of its variants, which is the method itself where it is there
        if published_score(key, AVERAGE, name) and (name, True) not in columns:
            columns.append((name, True))
    columns += [(m, True) for m in METHODS if published_score(key, AVERAGE, m)]
    columns = list(dict.fromkeys(columns))
    body = []
    for row, task in rows.items():
        cells = [Cell(task, task, (row.label,))]
        for method, published in columns:
            cells.append(
                _published_cell(row, method) if published else _score_cell(report, [task], method)
            )
        body.append(cells)
    whole = len(rows) == sum(row.table == key for row in paper_rows())
    if len(rows) > 1:
        body.append(_average_row(report, rows, columns))
    if whole:
        body.append(_published_average(key, columns))
    headings = ["Task", *(method + _PAPER * published for method, published in columns)]
    return Table(key, title, headings, body, totals=(len(rows) > 1) + whole)


def _score_cell(report: Report, tasks: Sequence[str], method: str) -> Cell:
    """Mean over finished runs, averaged over tasks; a dash where a task has none."""
    members = [report.members(task, method) for task in tasks]
    counting = [[run for run in runs if run.counts] for runs in members]
    total = sum(len(runs) for runs in members)
    if not all(counting):
        if not total:
            return Cell("", -math.inf)
        states = state_counts([run for runs in members for run in runs])
        done = sum(len(runs) for runs in counting)
        return Cell("–", -math.inf, _lines(f"{done} of {total}", states))
    final = float(np.mean([np.mean([run.final for run in runs]) for runs in counting]))
    gains = [np.mean([run.final - run.before for run in runs]) for runs in counting]
    interval = ""
    if len(tasks) == 1:
        interval = format_interval(*report.intervals[tasks[0], method]["Mean"][1:])
    share = f"{sum(len(runs) for runs in counting)} of {total}"
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
    report: Report, rows: dict[PaperRow, str], columns: Sequence[tuple[str, bool]]
) -> list[Cell]:
    """Averages over the rows shown, of ours and of the published figures alike."""
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
    """The paper's own last row: a few of its averages are not those of its rows."""
    cells = [Cell("Average, as published", "~~")]
    for method, published in columns:
        score = published_score(key, AVERAGE, method) if published else None
        text = format_score(*score) if score else ""
        cells.append(Cell(text, score[0] if score else -math.inf, kind="paper" * published))
    return cells


def aggregate_table(compared: Compared, index: int) -> Table:
    """IQM, median, mean and optimality gap of each method, over the tasks of a comparison."""
    rows = []
    for method in compared.comparison.runs:
        row = [words(method), number(compared.comparison.scores(method).size, 0)]
        row += [_interval_cell(*interval_of(compared, method, metric)) for metric in METRICS]
        rows.append(row)
    notes = [f"Tasks: {', '.join(compared.comparison.tasks)}."]
    if compared.comparison.left_out:
        notes.append(f"Left out: {'; '.join(compared.comparison.left_out)}.")
    columns = ["Method", "Runs", *METRICS]
    title = compared.comparison.title
    return Table(f"aggregates-{index}", title, columns, rows, " ".join(notes))


def improvement_table(compared: Compared, index: int) -> Table:
    """Probability of improvement of each method on each other one."""
    rows = [
        [words(x), words(y), _interval_cell(*interval)]
        for (x, y), interval in compared.improvements.items()
    ]
    columns = ["X", "Y", "P(X > Y)"]
    title = f"Probability of improvement, {_lower(compared.comparison.title)}"
    return Table(f"improvement-{index}", title, columns, rows)


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]


def _interval_cell(point: float, low: float, high: float, kind: str = "") -> Cell:
    cell = number(point, kind=kind)
    return dataclasses.replace(cell, detail=_lines(format_interval(low, high)))


def interval_table(report: Report) -> Table:
    """The aggregate metrics of each task, with the published ones below."""
    places = {run.task: find_row(run.env, run.delayed_reward) for run in report.runs}
    bases = {run.method: run.base for run in report.runs}
    rows: list[list[Cell]] = []
    for task in report.tasks:
        published = _published_intervals(task, places[task])
        for method in report.methods:
            found = report.intervals.get((task, method))
            if found:
                done = sum(run.counts for run in report.members(task, method))
                cells = [_interval_cell(*found[metric]) for metric in METRICS]
                rows.append([words(task), words(method), number(done, 0), *cells])
            name = PUBLISHED_AS.get(bases[method], "")
            if name in published:
                rows.append(published.pop(name))
        rows += published.values()
    note = (
        "Over the runs of one task. As rliable defines it, and in the published figures too, the "
        "median is that of the tasks' means: for one task the mean."
    )
    columns = ["Task", "Method", "Runs", *METRICS]
    return Table("intervals", "Each task", columns, rows, note)


def _published_intervals(task: str, row: PaperRow | None) -> dict[str, list[Cell]]:
    """Rows of published figures by method."""
    rows = {}
    for method in METHODS if row else ():
        known = [row and published_interval(row, metric, method) for metric in METRICS]
        cells = [_interval_cell(*each, "paper") for each in known if each]
        if len(cells) == len(METRICS):
            # an empty number sorts last
            runs = number(math.nan, kind="paper")
            rows[method] = [words(task), words(method + _PAPER, "paper"), runs, *cells]
    return rows


def run_table(report: Report) -> Table:
    """Every run and what became of it."""
    rows = []
    for run in report.runs:
        total = run.settings.get("max_online_iters", "–")
        state = run.state + ", not used" * run.superseded
        rows.append(
            [
                words(run.task),
                words(run.method),
                number(run.seed, 0),
                words(state, f"state-{run.state}"),
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
    return Table("runs", "Every run", columns, rows)


def settings_table(report: Report) -> Table:
    """How each task and method was set, as what differs from defaults and published commands."""
    default = dataclasses.asdict(Settings())
    rows = []
    for task in report.tasks:
        for method in report.methods:
            members = [run for run in report.members(task, method) if run.settings]
            if not members:
                continue
            run = max(members, key=lambda run: run.counts)
            own = unusual_flags(run.settings, default)
            rows.append([words(task), words(method), _flags(own), _published_flags(run)])
    note = "Values are the runs'. Flags that choose files, devices, seeds or logging are left out."
    columns = ["Task", "Method", "Differs from the defaults in", "From the published command in"]
    return Table("settings", "Settings", columns, rows, note)


def _published_flags(run: Run) -> Cell:
    """What of a run's settings is not the published command's."""
    if run.base not in METHOD_FLAGS or run.env not in TASK_FLAGS:
        return words("no published command")
    argv = ["--env", run.env, *METHOD_FLAGS[run.base], *TASK_FLAGS[run.env]]
    published = dataclasses.asdict(parse_args(argv))
    return _flags(unusual_flags(run.settings, published))


def _flags(text: str) -> Cell:
    return words(text or "none", "flags")
