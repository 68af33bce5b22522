"""The report as one self-contained HTML page, and as Markdown.

The page loads nothing: Plotly's script, curves, tables and pictures are inside.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from plotly.offline import get_plotlyjs

from reporting import contents
from reporting.build import Report
from reporting.figures import (
    ENDED,
    SHARE_LABEL,
    STEPS_LABEL,
    file_name,
    offline_score,
    unfinished_runs,
)
from reporting.runs import Run
from reporting.scores import MeanCurve
from reporting.style import Style, styles, translucent
from reporting.tables import Table, markdown_text, to_markdown

TITLE = "Online fine-tuning of decision transformers: results"
_GREY = "#666666"


def method_notes(report: Report) -> list[str]:
    """How the numbers came about, a paragraph each."""
    bootstrap = report.bootstrap
    return [
        "Scores are D4RL's normalised scores: 0 is a random policy, 100 an expert. The final score "
        "of a run is that of its last evaluation, the score after pretraining that of the last "
        "evaluation before anything was collected.",
        "Tables, means and intervals are of finished runs only. A run that is running, stopped, "
        "killed, failed or diverged is never averaged in; its curve is drawn up to where it got. "
        "A method some of whose runs diverged looks better than it is where these are left out: "
        "mind the counts. A run is unfinished where a version that kept no record of ends made it: "
        "it may still run.",
        f"Intervals are 95% percentile intervals of rliable's stratified bootstrap "
        f"({bootstrap.reps:,} resamples of runs within each task, seed {bootstrap.seed}). With few "
        "runs they are too narrow. A single run has none.",
        "Curves are means over runs, each interpolated linearly between its evaluations, over the "
        "steps that all of them cover; over several tasks, whose budgets differ, over the share of "
        "each run's own steps. Aggregates over tasks need as many runs of each task, and take the "
        "methods that have finished all of the tasks.",
        "IQM is the mean of the middle half of all runs, the optimality gap the mean shortfall "
        "from 100, P(X > Y) the probability that a run of X scores above one of Y on a task drawn "
        "at random.",
    ]


def to_page(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The HTML page.

    Args:
        report: What it shows.
        pictures: SVG by name, for what is not drawn by script.
    """
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    images = {
        name: "data:image/svg+xml;base64," + base64.b64encode(content).decode()
        for name, content in pictures.items()
    }
    charts = _charts(report)
    return environment.get_template("page.html").render(
        title=TITLE,
        report=report,
        legend=styles(report.methods),
        charts=charts,
        chart_data=_json_for_script(charts),
        overview=contents.overview(report),
        score_note=contents.SCORE_NOTE,
        score_tables=contents.score_tables(report),
        aggregates=_aggregates(report),
        images=images,
        last_tables=[
            contents.interval_table(report),
            contents.run_table(report),
            contents.settings_table(report),
        ],
        notes=method_notes(report),
        plotly=get_plotlyjs(),
    )


def _aggregates(report: Report) -> list[tuple[str, Table, Table]]:
    return [
        (str(i), contents.aggregate_table(each, i), contents.improvement_table(each, i))
        for i, each in enumerate(report.compared)
    ]


def _json_for_script(value: Any) -> str:
    """JSON that may stand in a script element, whatever texts it holds."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _charts(report: Report) -> list[dict[str, Any]]:
    """Plotly's traces and layout of each chart, aggregates first."""
    style = styles(report.methods)
    charts = [
        {
            "name": f"aggregate-{i}",
            "title": f"{each.comparison.title}, mean",
            **_chart(SHARE_LABEL, each.curves, [], None, style),
        }
        for i, each in enumerate(report.compared)
        if each.curves
    ]
    for task in report.tasks:
        unfinished = unfinished_runs(report, task)
        if report.curves[task] or unfinished:
            offline = offline_score(report, task)
            drawn = _chart(STEPS_LABEL, report.curves[task], unfinished, offline, style)
            charts.append({"name": file_name(task), "title": task, **drawn})
    return charts


def _chart(
    steps_label: str,
    curves: Sequence[MeanCurve],
    unfinished: Sequence[Run],
    offline: float | None,
    style: Mapping[str, Style],
) -> dict[str, Any]:
    traces = [trace for curve in curves for trace in _mean_traces(curve, style[curve.method])]
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
        "yaxis": {"title": {"text": "normalised score"}, "gridcolor": "#e3e3e3", "zeroline": False},
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
            {"text": f"offline data ({offline:.1f})", "xref": "paper", "x": 1, "y": offline,
             "xanchor": "right", "yanchor": "bottom", "showarrow": False,
             "font": {"size": 11, "color": _GREY}}
        ]  # fmt: skip
    return {"data": traces, "layout": layout}


def _mean_traces(curve: MeanCurve, style: Style) -> list[dict[str, Any]]:
    """The interval as an area, the mean as a line above it."""
    shown = f"{curve.method}, mean of {curve.runs} run{'s' * (curve.runs > 1)}"
    traces: list[dict[str, Any]] = []
    if curve.runs > 1:
        traces.append(
            {
                "x": _numbers(np.concatenate([curve.steps, curve.steps[::-1]])),
                "y": _numbers(np.concatenate([curve.high, curve.low[::-1]])),
                "fill": "toself",
                "fillcolor": translucent(style.colour, 0.15),
                "line": {"width": 0},
                "mode": "lines",
                "hoverinfo": "skip",
                "meta": curve.method,
                "name": f"{curve.method}, 95% interval",
            }
        )
    few = len(curve.steps) <= 60
    low, high = _numbers(curve.low), _numbers(curve.high)
    traces.append(
        {
            "x": _numbers(curve.steps),
            "y": _numbers(curve.mean),
            "customdata": [list(ends) for ends in zip(low, high, strict=True)],
            "mode": "lines+markers" if few else "lines",
            "line": {"color": style.colour, "width": 2, "dash": style.dash[1]},
            "marker": {"symbol": style.marker[1], "size": 6, "color": style.colour},
            "meta": curve.method,
            "name": shown,
            "hovertemplate": "%{y:.1f}"
            + " [%{customdata[0]:.1f}, %{customdata[1]:.1f}]" * (curve.runs > 1)
            + " at %{x:,.0f}<extra>%{fullData.name}</extra>",
        }
    )
    return traces


def _run_trace(run: Run, style: Style) -> dict[str, Any]:
    """A run that is not finished, with a mark at its end."""
    end = "x" if run.state in ENDED else "triangle-right-open"
    return {
        "x": _numbers(run.steps),
        "y": _numbers(run.scores),
        "mode": "lines+markers",
        "line": {"color": style.colour, "width": 1.5, "dash": "dot"},
        "marker": {
            "symbol": end,
            "color": style.colour,
            "size": [0] * (len(run.steps) - 1) + [10],
        },
        "meta": run.method,
        "name": f"{run.method} seed {run.seed}: {run.state}",
        "hovertemplate": "%{y:.1f} at %{x:,.0f}<extra>%{fullData.name}</extra>",
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them: what is not finite is absent."""
    return [round(x, 4) if math.isfinite(x) else None for x in values.tolist()]


def to_report_markdown(report: Report, pictures: Sequence[str]) -> str:
    """The report in Markdown, with links to pictures.

    Args:
        report: What it shows.
        pictures: Names of the PNG files in figures/.
    """

    def picture(name: str, what: str) -> list[str]:
        return [f"![{markdown_text(what)}](figures/{name}.png)"] if name in pictures else []

    parts = [f"# {TITLE}"]
    if report.warnings:
        parts += ["## Mind", "\n".join(f"- {markdown_text(line)}" for line in report.warnings)]
    parts += _section(contents.overview(report))
    parts.append("## Learning curves")
    for i, each in enumerate(report.compared):
        parts += picture(f"curves-aggregate-{i}", each.comparison.title)
    for task in report.tasks:
        parts += picture(f"curves-{file_name(task)}", task)
    parts += ["## Scores beside the paper's", contents.SCORE_NOTE]
    for table in contents.score_tables(report):
        parts += _section(table, level=3)
    for number, first, second in _aggregates(report):
        parts += _section(first, "Aggregates: ") + picture(f"aggregates-{number}", first.title)
        if second.rows:
            parts += _section(second) + picture(f"improvement-{number}", second.title)
    parts += _section(contents.interval_table(report), "Intervals: ")
    parts += _section(contents.run_table(report)) + _section(contents.settings_table(report))
    parts += ["## How the numbers came about", *method_notes(report)]
    return "\n\n".join(parts) + "\n"


def _section(table: Table, before: str = "", level: int = 2) -> list[str]:
    note = [markdown_text(table.note)] if table.note else []
    return [
        f"{'#' * level} {before}{markdown_text(table.title)}",
        to_markdown(table).rstrip("\n"),
        *note,
    ]
