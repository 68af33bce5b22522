"""Learning curves: read them from a run's metrics.jsonl and average them over runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import SCORE as SCORE
from reporting.intervals import bootstrap, mean_over_runs
from run.files import METRICS_CSV_FILE, METRICS_FILE
from utils import json_object

# half a 95% interval in standard errors
_HALF_WIDTH = 1.96
# a figure does not show more points of a mean curve than this
_MAX_POINTS = 200


@dataclass(frozen=True)
class Curve:
    """A metric over online environment steps, of one run or averaged over several.

    Attributes:
        steps: (N,) environment steps collected online, ascending; 0 is the end of pretraining. For
            an average over tasks, the percentage of each run's steps.
        values: (N,) the metric.
        low, high: (N,) ends of the 95% interval: of the mean over runs, or, for the score of one
            run, over its evaluation episodes. NaN if unknown, and for two runs of a task.
        runs: Number of runs.
    """

    steps: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int

    @property
    def has_interval(self) -> bool:
        return bool(np.isfinite(self.low).any())


def run_curve(
    steps: Sequence[float] = (), values: Sequence[float] = (), errors: Sequence[float] = ()
) -> Curve:
    """The curve of one run, with the standard errors of its values if they are known."""
    x, y = np.array(steps, dtype=float), np.array(values, dtype=float)
    half = _HALF_WIDTH * np.array(errors or [np.nan] * len(x), dtype=float)
    return Curve(x, y, y - half, y + half, 1)


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, without an incomplete last one; [] without the file.

    A run of results/ has metrics.csv only.

    Raises:
        OSError, ValueError: the file is unreadable or damaged.
    """
    path = run_dir / METRICS_FILE
    if not path.exists():
        return _read_csv(run_dir / METRICS_CSV_FILE)
    complete = path.read_text().rpartition("\n")[0]
    rows = []
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            rows.append(json_object(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from None
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {name: x if name == "phase" else float(x) for name, x in row.items() if x}
            for row in csv.DictReader(file)
        ]


def read_curve(rows: Sequence[Mapping[str, Any]], metric: str) -> Curve:
    """The curve of a metric: its last value of pretraining and all values of fine-tuning.

    Raises:
        KeyError, TypeError, ValueError: the rows are not those of a run.
    """
    logged = [row for row in rows if metric in row]
    shown = [row for row in logged if row["phase"] == "pretrain"][-1:]
    shown += [row for row in logged if row["phase"] != "pretrain"]
    steps = [float(row["total_transitions_sampled"]) for row in shown]
    # over the episodes of an evaluation
    errors = [float(row.get(f"{metric}_se", np.nan)) for row in shown]
    return run_curve(steps, [float(row[metric]) for row in shown], errors)


def mean_curve(groups: Sequence[Sequence[Curve]]) -> Curve | None:
    """The mean over tasks of the mean over runs.

    Runs are interpolated linearly between their evaluations, over the steps that all of them cover.
    Tasks have different budgets, so steps over several tasks are percentages of each run's steps.

    Args:
        groups: The curves of the runs of each task.

    Returns:
        None if no step is covered by all runs.
    """
    several = len(groups) > 1
    steps_of = [[c.steps / (c.steps[-1] / 100 if several else 1) for c in runs] for runs in groups]
    every = [steps for task in steps_of for steps in task]
    first, last = max(steps[0] for steps in every), min(steps[-1] for steps in every)
    if first > last:
        return None
    steps = np.unique(np.concatenate(every))
    steps = steps[(steps >= first) & (steps <= last)]
    if len(steps) > _MAX_POINTS:
        steps = np.linspace(first, last, _MAX_POINTS)
    values = [
        np.stack([np.interp(steps, x, c.values) for x, c in zip(task, runs, strict=True)])
        for task, runs in zip(steps_of, groups, strict=True)
    ]
    mean, low, high = bootstrap(values, mean_over_runs)
    return Curve(steps, mean, low, high, sum(map(len, groups)))
