"""The figure of achieved against target return."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from reporting.intervals import bootstrap, mean_over_runs
from reporting.style import plain_axes, styles


def target_figure(
    task: str, targets: Sequence[float], returns: Sequence[Sequence[float]]
) -> Figure:
    """The episodes' returns, their means with 95% intervals, and the diagonal, where both agree.

    Args:
        task: The task, for the title.
        targets: (M,) target returns, in training rewards.
        returns: M sequences of the episodes' returns, in training rewards.
    """
    order = np.argsort(targets, kind="stable")
    x = np.asarray(targets)[order]
    samples = [np.asarray(returns[i]) for i in order]
    mean, low, high = np.array([bootstrap([sample], mean_over_runs) for sample in samples]).T
    colour = next(iter(styles(["policy"]).values())).colour
    figure = Figure(figsize=(6.0, 4.6), layout="constrained")
    axes = figure.subplots()
    # a target requested twice is one point of the diagonal
    ends = [x[0], x[-1]] if x[-1] > x[0] else [x[0] - 1, x[0] + 1]
    axes.plot(ends, ends, "--", color="0.4", lw=1.2, label="achieved = target")
    for target, sample in zip(x, samples, strict=True):
        axes.plot(np.full(len(sample), target), sample, ".", color=colour, alpha=0.3, ms=5)
    if not np.isnan(low).any():
        axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, label="95% interval")
        axes.vlines(x, low, high, color=colour, lw=1.6)
    count = f"{len(samples[0])} episode{'s' * (len(samples[0]) > 1)}"
    axes.plot(x, mean, "o-", color=colour, lw=2.0, label=f"mean of {count}")
    axes.set(title=task, xlabel="target return", ylabel="achieved return (training rewards)")
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure
