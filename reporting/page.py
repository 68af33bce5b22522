"""The report as one self-contained HTML page, and as Markdown.

The page contains Plotly's script, curves, tables and figures, and loads nothing else.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from reporting import contents
from reporting.build import Report, offline_score
from reporting.curves import Curve
from reporting.figures import (
    ENDED,
    SHARE_LABEL,
    STEPS_LABEL,
    file_name,
    score_label,
    unfinished_runs,
)
from reporting.intervals import RESAMPLES
from reporting.runs import RunResult
from reporting.style import Style, styles, translucent
from reporting.tables import Table, markdown_text, to_markdown

TITLE = "Online fine-tuning of decision transformers: results"
_GREY = "#666666"
METHODOLOGY = (
    "Scores are D4RL's normalised scores: 0 is a random policy, 100 an expert. Tasks without "
    "reference scores show episode returns instead and are not aggregated. The final score of "
    "a run is that of its last evaluation; the score after pretraining is that of the last "
    "evaluation before online fine-tuning.",
    "Tables, means and intervals include finished runs only. Runs that are running, stopped, "
    "killed, failed or diverged are never averaged; their curves are drawn as far as they go. "
    "Leaving out diverged runs makes a method look better than it is, so check the counts.",
    "A method's runs differ only in their seeds. Runs with other settings, such as another model "
    "size, are listed as another method, labelled with the settings that differ.",
    f"Intervals are 95% percentile intervals of the stratified bootstrap, which resamples runs "
    f"within each task ({RESAMPLES:,} resamples), as in rliable. With few runs they are too "
    "narrow; fewer than three runs get no interval and no probability of improvement.",
    "Curves are means over runs, interpolated linearly between evaluations, over the range of "
    "steps that all runs cover. Curves over several tasks, whose budgets differ, use the "
    "percentage of each run's steps. Aggregates over tasks use the same number of runs of each "
    "task, and only methods that have finished all tasks.",
    "The IQM is the mean of the middle half of all runs, the optimality gap the mean shortfall "
    "from 100, and P(X > Y) the probability that a run of X scores higher than a run of Y on a "
    "random task.",
)


def to_page(report: Report, figures: Mapping[str, bytes]) -> str:
    """The HTML page.

    Args:
        report: The content.
        figures: Images by file name; the SVG files are embedded.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    images = {
        name.removesuffix(".svg"): "data:image/svg+xml;base64," + base64.b64encode(content).decode()
        for name, content in figures.items()
        if name.endswith(".svg")
    }
    return environment.get_template("page.html").render(
        title=TITLE,
        report=report,
        legend=styles(report.methods),
        charts=_charts(report),
        overview=contents.overview(report),
        score_note=contents.SCORE_NOTE,
        score_tables=contents.score_tables(report),
        aggregates=_aggregates(report),
        images=images,
        last_tables=[
            contents.interval_table(report),
            *contents.search_tables(report),
            contents.run_table(report),
            contents.settings_table(report),
        ],
        methodology=METHODOLOGY,
        plotly=get_plotlyjs(),
    )


def _aggregates(report: Report) -> list[tuple[str, Table, Table]]:
    return [
        (str(i), contents.aggregate_table(each, i), contents.improvement_table(each, i))
        for i, each in enumerate(report.comparisons)
    ]


def _charts(report: Report) -> list[dict[str, Any]]:
    """Plotly's traces and layout of each chart, aggregates first."""
    style = styles(report.methods)
    charts = [
        {
            "name": f"aggregate-{i}",
            "title": f"{each.title}, mean",
            **_chart(SHARE_LABEL, "normalised score", each.curves, [], None, style),
        }
        for i, each in enumerate(report.comparisons)
        if each.curves
    ]
    for task in report.tasks:
        members = [run for run in report.runs if run.task == task]
        unfinished = unfinished_runs(members)
        if report.curves[task] or unfinished:
            offline = offline_score(report.runs, task)
            label = score_label(members).partition(" (")[0]
            drawn = _chart(STEPS_LABEL, label, report.curves[task], unfinished, offline, style)
            charts.append({"name": file_name(task), "title": task, **drawn})
    return charts


def _chart(
    steps_label: str,
    score_label: str,
    curves: Mapping[str, Curve],
    unfinished: Sequence[RunResult],
    offline: float | None,
    style: Mapping[str, Style],
) -> dict[str, Any]:
    in_front_last = sorted(curves, key=lambda method: style[method].front)
    traces = [t for m in in_front_last for t in _mean_traces(m, curves[m], style[m])]
    traces += [_run_trace(run, style[run.method]) for run in unfinished]
    layout: dict[str, Any] = {
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {
            "title": {"text": steps_label},
            "tickformat": ",~f",
            "gridcolor": "#e3e3e3",
            "zeroline": False,
        },
        "yaxis": {"title": {"text": score_label}, "gridcolor": "#e3e3e3", "zeroline": False},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#222"},
    }
    if offline is not None:
        line = {"color": _GREY, "width": 1}
        layout["shapes"] = [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": offline, "y1": offline,
             "line": line}
        ]  # fmt: skip
        layout["annotations"] = [
            {"text": f"offline data, {offline:z.1f} on average", "xref": "paper", "x": 1,
             "y": offline, "xanchor": "right", "yanchor": "bottom", "showarrow": False,
             "font": {"size": 11, "color": _GREY}}
        ]  # fmt: skip
    return {"data": traces, "layout": layout}


def _mean_traces(method: str, curve: Curve, style: Style) -> list[dict[str, Any]]:
    """The interval as an area, and the mean as a line above it."""
    low, high = _numbers(curve.low), _numbers(curve.high)
    traces: list[dict[str, Any]] = []
    if curve.has_interval:
        steps = _numbers(curve.steps)
        traces.append(
            {
                "x": steps + steps[::-1],
                "y": high + low[::-1],
                "fill": "toself",
                "fillcolor": translucent(style.colour, 0.25 if style.front else 0.12),
                "line": {"width": 0},
                "mode": "lines",
                "hoverinfo": "skip",
                "meta": method,
                "name": f"{method}, 95% interval",
            }
        )
    traces.append(
        {
            "x": _numbers(curve.steps),
            "y": _numbers(curve.values),
            "customdata": [list(ends) for ends in zip(low, high, strict=True)],
            "mode": "lines+markers" if len(curve.steps) <= 60 else "lines",
            "line": {"color": style.colour, "width": 3 if style.front else 2,
                     "dash": style.dash[1]},
            "marker": {"symbol": style.marker[1], "size": 6, "color": style.colour},
            "meta": method,
            "name": f"{method}, mean of {curve.runs} run{'s' * (curve.runs > 1)}",
            "hovertemplate": "%{y:.1f}"
            + " [%{customdata[0]:.1f}, %{customdata[1]:.1f}]" * curve.has_interval
            + " at %{x:,.0f}<extra>%{fullData.name}</extra>",
        }
    )  # fmt: skip
    return traces


def _run_trace(run: RunResult, style: Style) -> dict[str, Any]:
    """An unfinished run, with a mark at its end."""
    steps, values = _numbers(run.curve.steps), _numbers(run.curve.values)
    return {
        "x": steps,
        "y": values,
        "mode": "lines+markers",
        "line": {"color": style.colour, "width": 1.5, "dash": "dot"},
        "marker": {
            "symbol": "x" if run.state in ENDED else "triangle-right-open",
            "color": style.colour,
            "size": [0] * (len(steps) - 1) + [10],
        },
        "meta": run.method,
        "name": f"{run.method} seed {run.seed}: {run.state}",
        "hovertemplate": "%{y:.1f} at %{x:,.0f}<extra>%{fullData.name}</extra>",
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON; those that are not finite become null."""
    return [round(x, 4) if math.isfinite(x) else None for x in values.tolist()]


def to_report_markdown(report: Report, figures: Collection[str]) -> str:
    """The report in Markdown, with links to the PNG files in figures/.

    Args:
        report: The content.
        figures: File names of all figures.
    """

    def figure(name: str, title: str) -> list[str]:
        file = f"{name}.png"
        return [f"![{markdown_text(title)}](figures/{file})"] if file in figures else []

    parts = [f"# {TITLE}"]
    if report.warnings:
        parts += ["## Warnings", "\n".join(f"- {markdown_text(line)}" for line in report.warnings)]
    parts += _section(contents.overview(report))
    parts.append("## Learning curves")
    for i, each in enumerate(report.comparisons):
        parts += figure(f"curves-aggregate-{i}", each.title)
    for task in report.tasks:
        parts += figure(f"curves-{file_name(task)}", task)
    parts += ["## Scores and published results", contents.SCORE_NOTE]
    for table in contents.score_tables(report):
        parts += _section(table, level=3)
    for number, first, second in _aggregates(report):
        parts += _section(first, "Aggregates: ") + figure(f"aggregates-{number}", first.title)
        if second.rows:
            parts += _section(second) + figure(f"improvement-{number}", second.title)
    parts += _section(contents.interval_table(report))
    for table in contents.search_tables(report):
        parts += _section(table)
    parts += _section(contents.run_table(report)) + _section(contents.settings_table(report))
    parts += ["## Methodology", *METHODOLOGY]
    return "\n\n".join(parts) + "\n"


def _section(table: Table, prefix: str = "", level: int = 2) -> list[str]:
    note = [markdown_text(table.note)] if table.note else []
    return [
        f"{'#' * level} {prefix}{markdown_text(table.title)}",
        to_markdown(table).rstrip("\n"),
        *note,
    ]
