"""Tables of cells with a text and a sort value, written as Markdown or CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

Value = float | str


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: The text shown.
        value: The value to sort by.
        detail: Further lines in a smaller font.
        kind: CSS class: "paper" for a published score, "state-..." for the state of a run, ...
    """

    text: str
    value: Value
    detail: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a heading and a note.

    Attributes:
        name: Name in file names and HTML ids.
        title: Heading.
        columns: Column headings.
        rows: Cells, one per column.
        note: Text below the table.
        totals: Number of summary rows at the end, which stay there when sorted.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    totals: int = 0


def words(text: object, kind: str = "") -> Cell:
    """A text cell."""
    return Cell(str(text), str(text), kind=kind)


def number(value: float, digits: int = 2, kind: str = "") -> Cell:
    """A number cell; NaN is shown as a dash."""
    missing = math.isnan(value)
    return Cell("–" if missing else f"{_round(value, digits):,.{digits}f}", value, kind=kind)


def _round(value: float, digits: int) -> float:
    # + 0.0 turns -0.0 into 0.0
    return round(value, digits) + 0.0


def format_score(final: float, increase: float) -> str:
    """A score in the paper's format, `final(+increase)`; the increase may be NaN."""
    if math.isnan(final):
        return "–"
    head = f"{_round(final, 2):.2f}"
    return head if math.isnan(increase) else f"{head}({_round(increase, 2):+.2f})"


def format_interval(low: float, high: float, digits: int = 2) -> str:
    """`[low, high]`, or "" for NaN."""
    if math.isnan(low):
        return ""
    return f"[{_round(low, digits):.{digits}f}, {_round(high, digits):.{digits}f}]"


def to_markdown(table: Table) -> str:
    """The table in GitHub-flavoured Markdown."""
    lines = [_markdown_row(table.columns), "|" + "---|" * len(table.columns)]
    for row in table.rows:
        texts = [", ".join(part for part in (cell.text, *cell.detail) if part) for cell in row]
        lines.append(_markdown_row(texts))
    return "\n".join(lines) + "\n"


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, texts)) + " |"


def markdown_text(text: str) -> str:
    """Text on one line, with Markdown table and HTML syntax escaped."""
    line = " ".join(text.split())
    return line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; NaN and None become empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    # only NaN differs from itself
    writer.writerows([value if value == value else None for value in row] for row in rows)
    return text.getvalue()
