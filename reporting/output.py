"""The files of a report."""

from __future__ import annotations

from reporting.build import Report
from reporting.csv_files import csv_files
from reporting.figures import report_figures
from reporting.page import to_page, to_report_markdown
from reporting.style import encode_figure


def report_files(report: Report) -> dict[str, bytes]:
    """Content by path within the report's folder."""
    figures = {
        f"{name}.{kind}": encode_figure(figure, kind)
        for name, figure in report_figures(report).items()
        for kind in ("png", "svg")
    }
    texts = {
        "report.html": to_page(report, figures),
        "report.md": to_report_markdown(report, figures),
        **csv_files(report),
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | {f"figures/{name}": content for name, content in figures.items()}
