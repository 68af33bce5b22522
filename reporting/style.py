"""How methods are ordered and told apart in pictures: by colour, line and marker.

Colours are those of Okabe and Ito, which people with the common kinds of colour blindness tell
apart; line and marker tell the rest, and work without colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_FIRST = ("TD3+ODT", "ODT", "TD3", "DDPG+ODT", "TD3+BC", "IQL-MLP")
_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B6C1F",
)  # fmt: skip
# names of Matplotlib and Plotly
_DASHES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot"))
_MARKERS = (
    ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"),
    ("v", "triangle-down"), ("P", "cross"), ("X", "x"), ("*", "star"),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Of one method; pairs are what Matplotlib and Plotly call it."""

    colour: str
    dash: tuple[str, str]
    marker: tuple[str, str]


def order_methods(methods: Sequence[str]) -> list[str]:
    """The paper's methods first, variants after what they vary, then the others by name."""

    def rank(method: str) -> tuple[int, str]:
        base = method.split(" ")[0]
        return (_FIRST.index(base) if base in _FIRST else len(_FIRST), method)

    return sorted(set(methods), key=rank)


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method, the same ones for the same methods."""
    return {
        method: Style(
            _COLOURS[i % len(_COLOURS)],
            _DASHES[(i // len(_COLOURS)) % len(_DASHES)],
            _MARKERS[i % len(_MARKERS)],
        )
        for i, method in enumerate(order_methods(methods))
    }


def translucent(colour: str, alpha: float) -> str:
    """A colour as Plotly wants it for areas."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
