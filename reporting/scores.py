"""From finished runs to numbers: means, aggregate metrics and their intervals, all array code.

Metrics and the stratified bootstrap (runs are drawn anew within each task) are those of rliable:
Agarwal et al., Deep RL at the edge of the statistical precipice, NeurIPS 2021. Intervals are 95%
percentile intervals. Scores are D4RL's normalised scores, so the optimality gap is the one to 100.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rliable import library as rliable
from rliable import metrics
from scipy.stats import trim_mean

from reporting.runs import Run
from scripts.plot_learning_curve import common_steps

METRICS = ("IQM", "Median", "Mean", "Optimality Gap")
TARGET = 100.0
# points of a mean curve at most: more than a picture shows
_POINTS = 200

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are estimated.

    Attributes:
        reps: Resamples.
        seed: Of the resampling; the same intervals for the same seed.
    """

    reps: int = 2000
    seed: int = 0

    def intervals(
        self, scores: np.ndarray | Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """Point estimates and ends of the intervals.

        Args:
            scores: (n, tasks, ...) scores of n runs of each task, or several such arrays.
            statistic: From these arrays to (k,) numbers.

        Returns:
            (k, 3) point, lower, upper; the ends are NaN where no array has two runs.
        """
        arrays = [scores] if isinstance(scores, np.ndarray) else list(scores)
        if max(len(array) for array in arrays) < 2:
            point = statistic(*arrays)
            return np.stack([point, *np.full((2, len(point)), np.nan)], axis=1)
        given = scores if isinstance(scores, np.ndarray) else arrays
        # a score on the way that is not finite leaves a gap
        with _seeded(self.seed), _quiet(), np.errstate(invalid="ignore"):
            points, ends = rliable.get_interval_estimates(
                {"": given}, statistic, reps=self.reps, confidence_interval_size=0.95
            )
        return np.stack([points[""], *ends[""]], axis=1)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """rliable draws from NumPy's global generator."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def aggregate(scores: np.ndarray) -> np.ndarray:
    """`METRICS` over runs and tasks.

    Args:
        scores: (n, tasks) scores.

    Returns:
        (4,) in the order of `METRICS`.
    """
    return np.array(
        [
            metrics.aggregate_iqm(scores),
            metrics.aggregate_median(scores),
            metrics.aggregate_mean(scores),
            metrics.aggregate_optimality_gap(scores, TARGET),
        ]
    )


def aggregate_each(scores: np.ndarray) -> np.ndarray:
    """`METRICS` of each task on its own, all at once.

    As in rliable the median is that of the tasks' means: of one task, its mean.

    Args:
        scores: (n, tasks) scores.

    Returns:
        (4 * tasks,) metric by metric.
    """
    mean = scores.mean(axis=0)
    gap = TARGET - np.minimum(scores, TARGET).mean(axis=0)
    return np.concatenate([trim_mean(scores, 0.25, axis=0), mean, mean, gap])


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Probability that a run of X scores above one of Y on a task drawn at random; ties count half.

    The same number as rliable's `probability_of_improvement`, without a test per task.

    Args:
        x, y: (n, tasks) and (m, tasks) scores.

    Returns:
        (1,) the probability.
    """
    above = x[:, None] > y[None]
    level = x[:, None] == y[None]
    return np.array([above.mean() + 0.5 * level.mean()])


def task_intervals(
    finals: Mapping[str, np.ndarray], bootstrap: Bootstrap
) -> dict[str, dict[str, Interval]]:
    """Each task's `METRICS` with intervals.

    Args:
        finals: (n,) final scores by task, n > 0.
    """
    out: dict[str, dict[str, Interval]] = {}
    for size in sorted({len(scores) for scores in finals.values()}):
        tasks = [task for task, scores in finals.items() if len(scores) == size]
        matrix = np.stack([finals[task] for task in tasks], axis=1)
        found = bootstrap.intervals(matrix, aggregate_each).reshape(len(METRICS), len(tasks), 3)
        for column, task in enumerate(tasks):
            out[task] = {
                metric: _interval(found[row, column]) for row, metric in enumerate(METRICS)
            }
    return out


def _interval(row: np.ndarray) -> Interval:
    return float(row[0]), float(row[1]), float(row[2])


@dataclass(frozen=True)
class Comparison:
    """Methods over the tasks that all of them have finished.

    Attributes:
        title: What the tasks are.
        tasks: Their names.
        runs: By method, for each task as many runs as for the others.
        left_out: What does not enter, and why.
    """

    title: str
    tasks: tuple[str, ...]
    runs: Mapping[str, Sequence[Sequence[Run]]]
    left_out: tuple[str, ...]

    def scores(self, method: str) -> np.ndarray:
        """(n, tasks) final scores."""
        return np.array([[run.final for run in runs] for runs in self.runs[method]]).T


def compare(
    title: str, runs: Sequence[Run], methods: Sequence[str], tasks: Sequence[str]
) -> Comparison | None:
    """The rectangular part of the finished runs, which aggregates over tasks need.

    Methods without a finished run on one of the tasks are left out. Where a method has more
    finished runs of one task than of another, those of seeds that all tasks have come first.

    Returns:
        None if no method has finished all of the tasks.
    """
    kept: dict[str, list[list[Run]]] = {}
    left_out = []
    for method in methods:
        by_task = [
            [run for run in runs if run.counts and (run.task, run.method) == (task, method)]
            for task in tasks
        ]
        missing = [task for task, members in zip(tasks, by_task, strict=True) if not members]
        if missing:
            left_out.append(f"{method}: no finished run of {', '.join(missing)}")
            continue
        size = min(len(members) for members in by_task)
        shared = set.intersection(*({run.seed for run in members} for members in by_task))
        # seeds in `shared` first, then by number
        ranked = [
            sorted((run.seed not in shared, run.seed, i) for i, run in enumerate(members))
            for members in by_task
        ]
        surplus = sum(len(members) for members in by_task) - size * len(tasks)
        if surplus:
            more = f"{surplus} finished run{'s' * (surplus > 1)}"
            left_out.append(f"{method}: {more} beyond {size} of each task")
        kept[method] = [
            [members[i] for _, _, i in order[:size]]
            for members, order in zip(by_task, ranked, strict=True)
        ]
    return Comparison(title, tuple(tasks), kept, tuple(left_out)) if kept else None


@dataclass(frozen=True)
class MeanCurve:
    """Mean score over finished runs, with 95% intervals.

    Attributes:
        method: Whose.
        steps: (G,) environment steps collected online; over tasks the share of them, in percent.
        mean, low, high: (G,) of the score; the ends are NaN for a single run.
        runs: How many runs.
    """

    method: str
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


def curve_over_runs(
    method: str, groups: Sequence[Sequence[Run]], bootstrap: Bootstrap
) -> MeanCurve | None:
    """The mean over one or several tasks of the mean over their runs.

    Runs are interpolated linearly between their evaluations, over the steps that all cover. As
    tasks have budgets of different size, steps over several tasks are shares of each run's own.

    Args:
        method: Whose curve it is.
        groups: The finished runs by task, as many for each.

    Returns:
        None where no step is covered by all.
    """
    places = [
        [run.steps / (run.steps[-1] / 100.0 if len(groups) > 1 else 1.0) for run in runs]
        for runs in groups
    ]
    steps = common_steps([each for group in places for each in group])
    if not len(steps):
        return None
    if len(steps) > _POINTS:
        steps = np.linspace(steps[0], steps[-1], _POINTS)
    # (n, tasks, G)
    values = np.stack(
        [
            [np.interp(steps, x, run.scores) for x, run in zip(group, runs, strict=True)]
            for group, runs in zip(places, groups, strict=True)
        ],
        axis=1,
    )
    found = bootstrap.intervals(values, _mean_at_each_step)
    mean, low, high = found.T
    return MeanCurve(method, steps, mean, low, high, values.shape[0] * values.shape[1])


def _mean_at_each_step(values: Any) -> np.ndarray:
    return values.mean(axis=(0, 1))
