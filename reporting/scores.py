"""Aggregate metrics and comparisons of methods over tasks, with bootstrap intervals.

The metrics are those of rliable (Agarwal et al., Deep RL at the edge of the statistical precipice,
NeurIPS 2021). Scores are D4RL's normalised scores, so the optimality gap is relative to 100. A task
without reference scores is compared by its returns, alone and without an optimality gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reporting.curves import Curve, mean_curve
from reporting.intervals import MIN_RUNS, Interval, bootstrap
from reporting.runs import RunResult

METRICS = ("IQM", "Median", "Mean", "Optimality Gap")
_TARGET = 100.0


def aggregate(*tasks: np.ndarray) -> np.ndarray:
    """`METRICS` over runs and tasks; the median is that of the tasks' means.

    Args:
        tasks: (R, n) scores of n runs, of each task.

    Returns:
        (R, 4) in the order of `METRICS`.
    """
    scores = np.sort(np.concatenate(tasks, axis=1))
    cut = scores.shape[1] // 4
    means = np.stack([task.mean(axis=1) for task in tasks])
    gap = _TARGET - np.minimum(scores, _TARGET).mean(axis=1)
    iqm = scores[:, cut : scores.shape[1] - cut].mean(axis=1)
    return np.stack([iqm, np.median(means, axis=0), means.mean(axis=0), gap], axis=1)


def metric_intervals(tasks: Sequence[np.ndarray], scored: bool = True) -> dict[str, Interval]:
    """`METRICS` with intervals, from the (n,) scores of each task; returns have no gap."""
    rows = np.stack(bootstrap(tasks, aggregate), axis=1).tolist()
    if not scored:
        rows[-1] = [math.nan] * 3
    return {metric: (row[0], row[1], row[2]) for metric, row in zip(METRICS, rows, strict=True)}


def improvement(*tasks: np.ndarray) -> np.ndarray:
    """Probability that a run of X scores higher than a run of Y on a random task; ties count half.

    Args:
        tasks: (R, n) scores of X on each task, then (R, m) scores of Y on each task.

    Returns:
        (R,) the probability.
    """
    half = len(tasks) // 2
    signs = [
        np.sign(x[:, :, None] - y[:, None]).mean(axis=(1, 2))
        for x, y in zip(tasks[:half], tasks[half:], strict=True)
    ]
    return 0.5 + 0.5 * np.mean(signs, axis=0)


@dataclass(frozen=True)
class Comparison:
    """Methods over the tasks that all of them have finished.

    Attributes:
        title: Describes the tasks.
        tasks: Task names.
        runs: Number of runs by method.
        metrics: `METRICS` with intervals by method.
        improvements: Probability that X improves on Y, by (X, Y), for methods with enough runs.
        curves: Mean over tasks and runs by method; empty for a single task.
        left_out: Methods and runs that are left out, and why.
        scored: Whether scores are normalised, else returns.
    """

    title: str
    tasks: Sequence[str]
    runs: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, Interval]]
    improvements: Mapping[tuple[str, str], Interval]
    curves: Mapping[str, Curve]
    left_out: Sequence[str]
    scored: bool = True


def compare(
    title: str, runs: Sequence[RunResult], methods: Sequence[str], tasks: Sequence[str]
) -> Comparison | None:
    """Compare methods on the same number of finished runs of each task.

    Returns:
        None if no method has finished all tasks.
    """
    left_out: list[str] = []
    chosen: dict[str, list[list[RunResult]]] = {}
    for method in methods:
        by_task = {
            task: [run for run in runs if (run.task, run.method) == (task, method)]
            for task in tasks
        }
        missing = [task for task, members in by_task.items() if not members]
        if missing:
            left_out.append(f"{method} (no finished run of {', '.join(missing)})")
            continue
        chosen[method] = _equal_runs(list(by_task.values()))
        surplus = sum(map(len, by_task.values())) - sum(map(len, chosen[method]))
        if surplus:
            left_out.append(f"{method}: {surplus} of its runs, for equal numbers per task")
    if not chosen:
        return None
    scored = all(run.scored for groups in chosen.values() for group in groups for run in group)
    scores = {m: [np.array([run.final for run in group]) for group in chosen[m]] for m in chosen}
    improvements = {}
    for x, y in combinations([m for m in chosen if len(chosen[m][0]) >= MIN_RUNS], 2):
        point, low, high = bootstrap([*scores[x], *scores[y]], improvement)
        improvements[x, y] = float(point), float(low), float(high)
    curves = {m: mean_curve([[run.curve for run in group] for group in chosen[m]]) for m in chosen}
    return Comparison(
        title=title,
        tasks=tasks,
        runs={method: sum(map(len, groups)) for method, groups in chosen.items()},
        metrics={method: metric_intervals(scores[method], scored) for method in chosen},
        improvements=improvements,
        curves={m: curve for m, curve in curves.items() if curve is not None and len(tasks) > 1},
        left_out=left_out,
        scored=scored,
    )


def _equal_runs(by_task: Sequence[Sequence[RunResult]]) -> list[list[RunResult]]:
    """As many runs of each task as the task with the fewest has, seeds of all tasks first."""
    fewest = min(map(len, by_task))
    shared = set.intersection(*({run.seed for run in runs} for runs in by_task))
    return [
        sorted(runs, key=lambda run: (run.seed not in shared, run.seed))[:fewest]
        for runs in by_task
    ]
