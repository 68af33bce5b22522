"""Confidence intervals over independent runs."""

from __future__ import annotations

import math

import numpy as np

_RESAMPLES = 2_000
# quantile of the standard normal distribution for 95%
_Z = 1.959964


def mean_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over runs and its 95% bootstrap interval (Efron 1979, percentile method).

    Args:
        values: (S, ...) of S runs.

    Returns:
        (...) mean, lower and upper end.
    """
    runs = len(values)
    counts = np.random.default_rng(0).multinomial(runs, np.full(runs, 1 / runs), size=_RESAMPLES)
    means = (counts / runs) @ values.reshape(runs, -1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0).reshape(2, *values.shape[1:])
    return values.mean(axis=0), low, high


def share_interval(count: int, runs: int) -> tuple[float, float]:
    """95% interval of a probability of which `count` of `runs` tell (Wilson 1927)."""
    share, weight = count / runs, _Z**2 / runs
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / runs + weight / (4 * runs)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
