"""The report's pictures, as Matplotlib figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reporting.build import Compared, Report, interval_of
from reporting.runs import Run
from reporting.scores import METRICS, MeanCurve
from reporting.style import Style, styles
from run.state import DIVERGED, FAILED, KILLED

STEPS_LABEL = "environment steps collected online"
SHARE_LABEL = "environment steps collected online (% of each run's)"
SCORE_LABEL = "normalised score (0 random, 100 expert)"
FORMATS = ("png", "svg")
# states whose curves will not go on
ENDED = (DIVERGED, FAILED, KILLED)
_DOTS_PER_INCH = 140


def figures(report: Report) -> dict[str, Figure]:
    """All pictures by name."""
    style = styles(report.methods)
    found = {}
    for task in report.tasks:
        unfinished = unfinished_runs(report, task)
        if report.curves[task] or unfinished:
            offline = offline_score(report, task)
            found[f"curves-{file_name(task)}"] = _curves(
                task, STEPS_LABEL, report.curves[task], unfinished, offline, style
            )
    for i, compared in enumerate(report.compared):
        title = compared.comparison.title
        if compared.curves:
            found[f"curves-aggregate-{i}"] = _curves(
                f"{title}, mean", SHARE_LABEL, compared.curves, [], None, style
            )
        found[f"aggregates-{i}"] = _aggregates(compared, style)
        if compared.improvements:
            found[f"improvement-{i}"] = _improvement(compared)
    return found


def file_name(task: str) -> str:
    """A task's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in task)


def unfinished_runs(report: Report, task: str) -> list[Run]:
    """Runs of a task that have scores, but are not part of means."""
    runs = [run for method in report.methods for run in report.members(task, method)]
    return [run for run in runs if not run.counts and len(run.steps)]


def offline_score(report: Report, task: str) -> float | None:
    """Mean score of the offline data; None where it is unknown, or runs had different data."""
    known = {run.offline for run in report.runs if run.task == task and run.offline is not None}
    return known.pop() if len(known) == 1 else None


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The picture as a file of that kind, the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata: dict[str, str | None] = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "report", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)
    return buffer.getvalue()


def _curves(
    title: str,
    steps_label: str,
    curves: Sequence[MeanCurve],
    unfinished: Sequence[Run],
    offline: float | None,
    style: Mapping[str, Style],
) -> Figure:
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        look = style[curve.method]
        label = f"{curve.method} ({curve.runs} run{'s' * (curve.runs > 1)})"
        axes.plot(
            curve.steps,
            curve.mean,
            look.dash[0],
            color=look.colour,
            marker=look.marker[0],
            markersize=4,
            markevery=max(1, len(curve.steps) // 12),
            label=label,
        )
        axes.fill_between(curve.steps, curve.low, curve.high, color=look.colour, alpha=0.15, lw=0)
    for run in unfinished:
        colour = style[run.method].colour
        axes.plot(run.steps, run.scores, ":", color=colour, lw=1.2)
        end = "x" if run.state in ENDED else ">"
        axes.plot(run.steps[-1:], run.scores[-1:], end, color=colour, markersize=6)
    for method in dict.fromkeys(run.method for run in unfinished):
        label = f"{method}, not finished (x ended, > goes on)"
        axes.plot([], [], ":", color=style[method].colour, lw=1.2, label=label)
    if offline is not None:
        axes.axhline(offline, color="0.5", lw=1.0, label=f"offline data ({offline:.1f})")
        axes.update_datalim([(0, offline)])
        axes.autoscale_view()
    axes.set(title=title, xlabel=steps_label, ylabel=SCORE_LABEL)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _plain(axes)
    # below the axes: nowhere inside is sure to be free
    figure.legend(frameon=False, fontsize=8, ncols=3, loc="outside lower center")
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _aggregates(compared: Compared, style: Mapping[str, Style]) -> Figure:
    """A panel per metric: points and 95% intervals, a method per line."""
    names = list(compared.comparison.runs)
    figure = Figure(figsize=(8.0, 1.6 + 0.56 * len(names)), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for axes, metric in zip(panels, METRICS, strict=True):
        for place, method in enumerate(names):
            _interval(axes, place, interval_of(compared, method, metric), style[method])
        better = "lower is better" if metric == METRICS[-1] else "higher is better"
        axes.set_title(f"{metric} ({better})", fontsize=10)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        _plain(axes)
    figure.supxlabel("normalised score", fontsize=10)
    figure.suptitle(f"{compared.comparison.title}: final scores, 95% intervals", fontsize=11)
    return figure


def _interval(
    axes: Axes, place: int, interval: tuple[float, float, float], style: Style | None
) -> None:
    point, low, high = interval
    colour = style.colour if style else "0.25"
    axes.plot([low, high], [place, place], color=colour, lw=6, alpha=0.35, solid_capstyle="butt")
    axes.plot([point], [place], style.marker[0] if style else "o", color=colour, markersize=6)


def _improvement(compared: Compared) -> Figure:
    pairs = compared.improvements
    figure = Figure(figsize=(7.0, 1.3 + 0.3 * len(pairs)), layout="constrained")
    axes = figure.add_subplot()
    for place, interval in enumerate(pairs.values()):
        _interval(axes, place, interval, None)
    axes.axvline(0.5, color="0.5", lw=1.0)
    axes.set_yticks(range(len(pairs)), [f"{x} > {y}" for x, y in pairs])
    axes.set(ylim=(len(pairs) - 0.5, -0.5), xlim=(-0.02, 1.02))
    axes.set_xticks(np.linspace(0, 1, 5))
    axes.set_xlabel("P(X > Y), 95% intervals")
    axes.set_title(f"Probability of improvement, {compared.comparison.title}", fontsize=11)
    _plain(axes)
    return figure
