"""The report's tables: cells with a text, a value to sort by and, in CSV, the bare number."""

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
        text: What is shown.
        value: What is sorted by.
        detail: More lines, smaller.
        kind: "paper" for a published figure, "state-..." for the state of a run, else "".
    """

    text: str
    value: Value
    detail: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: For its file and its place in the page.
        title: Heading.
        columns: Their names.
        rows: Cells, as many in each as there are columns.
        note: What to know about it.
        totals: How many of the last rows sum up the others; they stay last when sorted.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    totals: int = 0


def words(text: object, kind: str = "") -> Cell:
    """A cell of text."""
    return Cell(str(text), str(text), kind=kind)


def number(value: float, digits: int = 2, kind: str = "") -> Cell:
    """A cell of a number; NaN is a dash."""
    missing = math.isnan(value)
    return Cell("–" if missing else f"{_round(value, digits):,.{digits}f}", value, kind=kind)


def _round(value: float, digits: int) -> float:
    # without a negative zero
    return round(value, digits) + 0.0


def format_score(final: float, increase: float) -> str:
    """A score in the paper's own form: `final(+increase)`.

    Args:
        final: Score after online fine-tuning.
        increase: What it is above the score after pretraining; NaN if that is not known.
    """
    if math.isnan(final):
        return "–"
    head = f"{_round(final, 2):.2f}"
    return head if math.isnan(increase) else f"{head}({_round(increase, 2):+.2f})"


def format_interval(low: float, high: float, digits: int = 2) -> str:
    """The ends of an interval; "" if there is none."""
    if math.isnan(low):
        return ""
    return f"[{_round(low, digits):.{digits}f}, {_round(high, digits):.{digits}f}]"


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    lines = [_markdown_row(table.columns), "|" + "---|" * len(table.columns)]
    for row in table.rows:
        texts = [", ".join(part for part in (cell.text, *cell.detail) if part) for cell in row]
        lines.append(_markdown_row(texts))
    return "\n".join(lines) + "\n"


def _markdown_row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, texts)) + " |"


def markdown_text(text: str) -> str:
    """A text in one line that means nothing but itself: no table's column, no HTML."""
    line = " ".join(text.split())
    return line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; NaN and None are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow("" if _missing(value) else value for value in row)
    return text.getvalue()


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
