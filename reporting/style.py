"""The look of figures: order, colour, line and marker of each method; how figures are saved.

The colours are those of Okabe and Ito, which are distinguishable with the common kinds of colour
blindness; lines and markers also work without colours.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils import UserError, write_output

FORMATS = ("png", "pdf", "svg")
_DOTS_PER_INCH = 160
_FIRST = ("TD3+ODT", "ODT", "TD3", "DDPG+ODT", "TD3+BC", "IQL-MLP")
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B6C1F",
)  # fmt: skip
# names in Matplotlib and Plotly
_DASHES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot"))
_MARKERS = (
    ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"),
    ("v", "triangle-down"), ("P", "cross"), ("X", "x"), ("*", "star"),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """The look of one method.

    Attributes:
        colour: As #RRGGBB.
        dash, marker: Names in Matplotlib and Plotly.
        front: Whether it is drawn over the other methods, with a thicker line.
    """

    colour: str
    dash: tuple[str, str]
    marker: tuple[str, str]
    front: bool


def order_methods(methods: Sequence[str]) -> list[str]:
    """The paper's methods first, each followed by its variants, then the others by name."""

    def rank(method: str) -> tuple[int, str]:
        base = method.split(" ")[0]
        return (_FIRST.index(base) if base in _FIRST else len(_FIRST), method)

    return sorted(set(methods), key=rank)


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A distinct style for each method, the same for the same methods."""
    return {
        method: Style(
            _COLOURS[i % len(_COLOURS)],
            _DASHES[(i // len(_COLOURS)) % len(_DASHES)],
            _MARKERS[i % len(_MARKERS)],
            method.split(" ")[0] == _FIRST[0],
        )
        for i, method in enumerate(order_methods(methods))
    }


def translucent(colour: str, alpha: float) -> str:
    """A colour in Plotly's format for areas."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def plain_axes(axes: Axes) -> None:
    """Draw a light grid and no frame at the top and right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def encode_figure(figure: Figure, kind: str) -> bytes:
    """The figure as a file of one of `FORMATS`; equal figures give equal bytes."""
    buffer = io.BytesIO()
    varying = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[kind]
    with mpl.rc_context({"svg.hashsalt": "report", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=_DOTS_PER_INCH, metadata={varying: None})
    return buffer.getvalue()


def check_format(path: Path, flag: str = "--out") -> str:
    """The file type of a figure, one of `FORMATS`.

    Args:
        path: The figure's file.
        flag: The command-line option that gave the path, for the error message.

    Raises:
        UserError: unknown file type.
    """
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise UserError(f"{flag} {path}: unknown file type; use .{', .'.join(FORMATS)}")
    return kind


def save_figure(figure: Figure, path: Path, flag: str = "--out") -> None:
    """Write a figure atomically.

    Raises:
        UserError: unknown file type, or the file cannot be written.
    """
    write_output(path, encode_figure(figure, check_format(path, flag)), flag)
