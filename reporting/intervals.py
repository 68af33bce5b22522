"""Confidence intervals over independent runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

# (estimate, lower end, upper end); the ends are NaN if there are too few runs
Interval = tuple[float, float, float]

# fewer runs get no interval and no probability
MIN_RUNS = 3
RESAMPLES = 2_000
# resamples computed at once, to bound memory
_BATCH = 100
# 97.5% quantile of the standard normal distribution
_Z = 1.959964


def bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic and its 95% interval by the stratified percentile bootstrap (Efron 1979).

    Runs are resampled within each sample, always with the same random numbers.

    Args:
        samples: (n_i, ...) values of n_i runs, for example one array per task.
        statistic: Maps arrays (R, n_i, ...) to (R, ...), over R resamples at once.

    Returns:
        (...) estimate, lower and upper end; the ends are NaN if a sample has fewer than
        `MIN_RUNS` runs.
    """
    (estimate,) = statistic(*(sample[None] for sample in samples))
    if min(map(len, samples)) < MIN_RUNS:
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    rng = np.random.default_rng(0)

    def resample(sample: np.ndarray) -> np.ndarray:
        return sample[rng.integers(len(sample), size=(_BATCH, len(sample)))]

    values = [statistic(*map(resample, samples)) for _ in range(RESAMPLES // _BATCH)]
    low, high = np.quantile(np.concatenate(values), [0.025, 0.975], axis=0)
    return estimate, low, high


def mean_over_runs(*samples: np.ndarray) -> np.ndarray:
    """A `bootstrap` statistic: the mean over samples of the mean over runs, (R, ...)."""
    return np.mean([sample.mean(axis=1) for sample in samples], axis=0)


def share_interval(count: int, runs: int) -> tuple[float, float]:
    """95% interval of a probability, given `count` successes in `runs` (Wilson 1927)."""
    share, weight = count / runs, _Z**2 / runs
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / runs + weight / (4 * runs)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
