"""The figures of reports and of scripts/plot_learning_curve.py, drawn with Matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter

from reporting.build import Report, offline_score, task_curves
from reporting.curves import SCORE, Curve
from reporting.intervals import Interval
from reporting.runs import RunResult
from reporting.scores import METRICS, Comparison
from reporting.style import Style, plain_axes, styles
from run.state import DIVERGED, FAILED, KILLED
from utils import UserError

STEPS_LABEL = "online environment steps"
SHARE_LABEL = "online environment steps (% of each run)"
SCORE_LABEL = "normalised score (0 random, 100 expert)"
# of tasks without reference scores
RETURN_LABEL = "episode return"
# states of runs whose curves will not continue
ENDED = (DIVERGED, FAILED, KILLED)
_GREY = "0.4"
# of a legend, in its font
_LETTERS_PER_INCH = 14
_LABELS_PER_PANEL = 12


def report_figures(report: Report) -> dict[str, Figure]:
    """All figures of a report by name."""
    style, found = styles(report.methods), {}
    for task in report.tasks:
        runs = [run for run in report.runs if run.task == task]
        if any(len(run.curve.steps) for run in runs):
            found[f"curves-{file_name(task)}"] = learning_curves(runs, style)
    for i, comparison in enumerate(report.comparisons):
        if comparison.curves:
            found[f"curves-aggregate-{i}"] = _aggregate_curves(comparison, style)
        found[f"aggregates-{i}"] = _aggregates(comparison, style)
        if comparison.improvements:
            found[f"improvement-{i}"] = _improvement(comparison)
    return found


def file_name(task: str) -> str:
    """A task's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in task)


def unfinished_runs(runs: Sequence[RunResult]) -> list[RunResult]:
    """The runs that were evaluated but are not part of a mean."""
    return [run for run in runs if not (run.counts or run.superseded) and len(run.curve.steps)]


def learning_curves(
    runs: Sequence[RunResult], style: Mapping[str, Style], metric: str = SCORE
) -> Figure:
    """One panel per task: a mean curve per method, and unfinished runs as dotted lines.

    Args:
        runs: The runs of one or several tasks.
        style: Styles by method.
        metric: The metric of the runs' curves.
    """
    tasks = list(dict.fromkeys(run.task for run in runs))
    columns = 2 if len(tasks) == 4 else min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    width, height = (7.0, 4.8) if columns < 3 else (5.4, 4.0)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, task in zip(grid, tasks, strict=False):
        members = [run for run in runs if run.task == task]
        curves = task_curves(members, task)
        _draw_curves(axes, curves, style)
        for run in members:
            mean = curves.get(run.method)
            if run.counts and not (mean and mean.has_interval):
                axes.plot(run.curve.steps, run.curve.values, color=style[run.method].colour, lw=0.6)
        for run in unfinished_runs(members):
            _draw_unfinished(axes, run, style[run.method])
        if metric == SCORE:
            _draw_offline(axes, offline_score(members, task))
        _label(axes, task, score_label(members) if metric == SCORE else metric)
    unused = list(grid[len(tasks) :])
    for axes in unused:
        axes.set_axis_off()
    _add_legend(figure, _legend_handles(runs, style), unused)
    return figure


def split_curves(runs: Sequence[RunResult], style: Mapping[str, Style], metric: str) -> Figure:
    """One panel per method of a task, with its score after pretraining as a dashed line.

    Raises:
        UserError: the runs are of several tasks, or none is finished.
    """
    task, *others = dict.fromkeys(run.task for run in runs)
    if others:
        raise UserError(f"--split: runs of {task} and {others[0]}; pass runs of one task")
    curves = task_curves(runs, task)
    if not curves:
        raise UserError("--split: no finished runs; plot them without --split")
    columns = min(5, len(curves))
    rows = -(-len(curves) // columns)
    size = (1.0 + 2.0 * columns, 1.1 + 2.0 * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (method, curve) in zip(grid, curves.items(), strict=False):
        _draw_curves(axes, {method: curve}, style)
        if curve.steps[0] == 0:
            axes.axhline(curve.values[0], color=_GREY, linestyle="--", linewidth=0.9)
        axes.set_title(f"{textwrap.fill(method, 24)}\n{_count(curve.runs)}", fontsize=9)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=8)
        plain_axes(axes)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    figure.suptitle(task)
    figure.supxlabel(STEPS_LABEL, fontsize=10)
    name = "normalised score" if runs[0].scored else RETURN_LABEL
    figure.supylabel(name if metric == SCORE else metric, fontsize=10)
    return figure


def _count(runs: int) -> str:
    return f"{runs} seed{'s' * (runs != 1)}"


def _draw_curves(axes: Axes, curves: Mapping[str, Curve], style: Mapping[str, Style]) -> None:
    """Mean curves with intervals; that of the method in front is over the others and thicker."""
    for method, curve in curves.items():
        look = style[method]
        if curve.has_interval:
            axes.fill_between(curve.steps, curve.low, curve.high, color=look.colour, lw=0,
                              alpha=0.25 if look.front else 0.12)  # fmt: skip
        axes.plot(curve.steps, curve.values, look.dash[0], color=look.colour, marker=look.marker[0],
                  lw=2.4 if look.front else 1.3, markersize=5 if look.front else 3.5,
                  zorder=3 if look.front else 2,
                  markevery=max(1, len(curve.steps) // 12))  # fmt: skip


def _draw_unfinished(axes: Axes, run: RunResult, look: Style) -> None:
    steps, values = run.curve.steps, run.curve.values
    axes.plot(steps, values, ":", color=look.colour, lw=1.2)
    mark = "x" if run.state in ENDED else ">"
    axes.plot(steps[-1:], values[-1:], mark, color=look.colour, markersize=6)


def _draw_offline(axes: Axes, score: float | None) -> None:
    """A dashed line at the mean score of the offline data, labelled at the right of the axes."""
    if score is None:
        return
    axes.axhline(score, color=_GREY, linestyle="--", linewidth=1.0)
    # axhline does not extend the axes' range
    axes.update_datalim([(0, score)])
    axes.autoscale_view()
    axes.text(1.01, score, f"offline data\n{score:z.1f} on average", color=_GREY, fontsize=8,
              va="center", transform=axes.get_yaxis_transform())  # fmt: skip


def score_label(runs: Sequence[RunResult]) -> str:
    """What the curves of a task's runs show."""
    return SCORE_LABEL if all(run.scored for run in runs) else RETURN_LABEL


def _label(axes: Axes, title: str, label: str) -> None:
    axes.set(title=title, xlabel=STEPS_LABEL, ylabel=label)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    plain_axes(axes)


def _legend_handles(runs: Sequence[RunResult], style: Mapping[str, Style]) -> list[Artist]:
    """One entry per method, then what dotted lines and bands mean."""
    handles: list[Artist] = []
    means = [task_curves(runs, task) for task in dict.fromkeys(run.task for run in runs)]
    unfinished = unfinished_runs(runs)
    for method, look in style.items():
        counts = sorted({curves[method].runs for curves in means if method in curves})
        if counts:
            several = f"{counts[0]} to " if len(counts) > 1 else ""
            label = f"{method} ({several}{_count(counts[-1])})"
            handles.append(_handle(look, label))
        elif any(run.method == method for run in unfinished):
            label = f"{method} (none finished)"
            handles.append(Line2D([], [], ls=":", color=look.colour, label=label))
    if unfinished:
        label = "not finished: x ended, > can continue"
        handles.append(Line2D([], [], ls=":", color=_GREY, label=label))
    return handles + _band_handles([curve for curves in means for curve in curves.values()])


def _add_legend(figure: Figure, handles: Sequence[Artist], unused: Sequence[Axes] = ()) -> None:
    """Add a legend where it covers no curves.

    That is an unused panel if it fits there, else below the axes with as many columns as fit.
    """
    labels = [textwrap.fill(str(handle.get_label()), 44) for handle in handles]
    if unused and len(labels) <= _LABELS_PER_PANEL:
        unused[0].legend(handles, labels, frameon=False, loc="center left")
        return
    longest = max(len(line) for label in labels for line in label.split("\n"))
    width, height = figure.get_size_inches()
    columns = max(1, min(len(labels), int(_LETTERS_PER_INCH * width / (longest + 8))))
    figure.set_size_inches(width, height + 0.18 * -(-len(labels) // columns))
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=columns,
                  loc="outside lower center")  # fmt: skip


def _handle(look: Style, label: str) -> Artist:
    return Line2D([], [], ls=look.dash[0], color=look.colour, lw=1.8, marker=look.marker[0],
                  markersize=4, label=label)  # fmt: skip


def _band_handles(curves: Sequence[Curve]) -> list[Artist]:
    """The entry of these curves' bands, if any."""
    runs = [curve.runs for curve in curves if curve.has_interval]
    of = ["of the mean"] * any(n > 1 for n in runs) + ["over evaluation episodes"] * (1 in runs)
    label = f"95% interval {' or '.join(of)}"
    return [Patch(color=_GREY, alpha=0.25, lw=0, label=label)] if runs else []


def _aggregate_curves(comparison: Comparison, style: Mapping[str, Style]) -> Figure:
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, comparison.curves, style)
    _label(axes, f"{comparison.title}, mean", SCORE_LABEL)
    axes.set_xlabel(SHARE_LABEL)
    handles = [
        _handle(style[method], f"{method} ({curve.runs} runs)")
        for method, curve in comparison.curves.items()
    ]
    _add_legend(figure, [*handles, *_band_handles(list(comparison.curves.values()))])
    return figure


def _aggregates(comparison: Comparison, style: Mapping[str, Style]) -> Figure:
    """One panel per metric with one line per method: estimate and 95% interval."""
    methods = list(comparison.metrics)
    figure = Figure(figsize=(8.0, 1.6 + 0.56 * len(methods)), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for axes, metric in zip(panels, METRICS, strict=True):
        for place, method in enumerate(methods):
            look = style[method]
            interval = comparison.metrics[method][metric]
            _draw_interval(axes, place, interval, look.colour, look.marker[0])
        better = "lower is better" if metric == METRICS[-1] else "higher is better"
        axes.set_title(f"{metric} ({better})", fontsize=10)
        _rows(axes, methods)
    figure.supxlabel("normalised score" if comparison.scored else RETURN_LABEL, fontsize=10)
    figure.suptitle(f"{comparison.title}: final scores, 95% intervals", fontsize=11)
    return figure


def _improvement(comparison: Comparison) -> Figure:
    """One line per pair of methods: probability of improvement and 95% interval."""
    pairs = comparison.improvements
    figure = Figure(figsize=(7.0, 1.3 + 0.3 * len(pairs)), layout="constrained")
    axes = figure.add_subplot()
    for place, interval in enumerate(pairs.values()):
        _draw_interval(axes, place, interval, "0.25", "o")
    axes.axvline(0.5, color="0.5", lw=1.0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks(np.linspace(0, 1, 5))
    axes.set_xlabel("P(X > Y), 95% intervals")
    axes.set_title(f"Probability of improvement, {comparison.title}", fontsize=11)
    _rows(axes, [f"{x} > {y}" for x, y in pairs])
    return figure


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    plain_axes(axes)


def _draw_interval(axes: Axes, place: int, interval: Interval, colour: str, marker: str) -> None:
    point, low, high = interval
    axes.plot([low, high], [place, place], color=colour, lw=6, alpha=0.35, solid_capstyle="butt")
    axes.plot([point], [place], marker, color=colour, markersize=6)
