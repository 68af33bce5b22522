"""The files of a report: all of them are made before the first is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reporting.build import Report
from reporting.csv_files import csv_files
from reporting.figures import FORMATS, figures, to_bytes
from reporting.page import to_page, to_report_markdown
from utils import write_output


def files_of(report: Report) -> dict[str, bytes]:
    """Content by name within the report's folder."""
    pictures = {
        (name, kind): to_bytes(figure, kind)
        for name, figure in figures(report).items()
        for kind in FORMATS
    }
    vector = {name: content for (name, kind), content in pictures.items() if kind == "svg"}
    texts = {
        "report.html": to_page(report, vector),
        "report.md": to_report_markdown(report, list(vector)),
        **csv_files(report),
    }
    files = {name: text.encode() for name, text in texts.items()}
    return files | {f"figures/{name}.{kind}": x for (name, kind), x in pictures.items()}


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write them, each in whole or not at all.

    Raises:
        UserError: a file cannot be written.
    """
    for name, content in files.items():
        write_output(out / name, content)
