"""Compare methods on one task: a panel of learning curves for each, and a table in Markdown.

    python scripts/compare_methods.py RUN_DIR [RUN_DIR ...] --out FILE.png

Runs of one method are seeds of it. A panel has their mean, the range from the lowest to the highest
seed, and the mean after pretraining as a dashed line. The table, on standard output, has the
same numbers after pretraining and at the last evaluation, and which seeds ended higher.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from get_args import OneLineParser
from scripts.plot_learning_curve import SCORE, Curve, read_curve, save
from utils import UserError

COLUMNS = 5
_LINE, _BAND = "#1f77b4", "#a9c9e4"


def by_method(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """The curves of each method, in the order in which methods come first.

    Raises:
        UserError: they are of several tasks, a seed comes twice, or a run has no evaluation
            after pretraining.
    """
    envs = sorted({curve.env for curve in curves})
    if len(envs) > 1:
        raise UserError(f"runs of {' and '.join(envs)}: give those of one task")
    methods: dict[str, list[Curve]] = {}
    for curve in curves:
        if curve.steps[0] != 0 or len(curve.steps) < 2:
            raise UserError(f"{curve.folder}: needs an evaluation after pretraining and one online")
        members = methods.setdefault(curve.method, [])
        if curve.seed in [member.seed for member in members]:
            raise UserError(f"{curve.folder}: a second run of {curve.method} seed {curve.seed}")
        members.append(curve)
    return methods


def seed_values(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """All seeds at the same steps: (N,) steps that all cover and (seeds, N) values between."""
    last = min(curve.steps[-1] for curve in curves)
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    steps = steps[steps <= last]
    return steps, np.stack([np.interp(steps, c.steps, c.values) for c in curves])


def draw(methods: dict[str, list[Curve]]) -> Figure:
    """A panel for each method, all with the same axes."""
    columns = min(COLUMNS, len(methods))
    rows = -(-len(methods) // columns)
    size = (1.0 + 1.75 * columns, 0.9 + 1.75 * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (method, curves) in zip(panels, methods.items(), strict=False):
        _draw_panel(axes, method, curves)
    for axes in panels[len(methods) :]:
        axes.set_visible(False)
    figure.suptitle(next(iter(methods.values()))[0].env)
    figure.supxlabel("environment steps collected online", fontsize=10)
    figure.supylabel("normalised score", fontsize=10)
    return figure


def _draw_panel(axes: Axes, method: str, curves: Sequence[Curve]) -> None:
    steps, values = seed_values(curves)
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=_BAND, linewidth=0)
    axes.plot(steps, values.mean(axis=0), color=_LINE, linewidth=1.8)
    axes.axhline(values[:, 0].mean(), color="0.35", linestyle="--", linewidth=0.9)
    seeds = "seed" if len(curves) == 1 else "seeds"
    axes.set_title(f"{method}\n{len(curves)} {seeds}", fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _with_range(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def table(methods: dict[str, list[Curve]]) -> str:
    """Markdown: the mean over seeds and their range, before and after, and the difference."""
    lines = [
        "| method | seeds | after pretraining | at the end | change | seeds that ended higher |",
        "|---|---|---|---|---|---|",
    ]
    for method, curves in methods.items():
        before = [float(curve.values[0]) for curve in curves]
        after = [float(curve.values[-1]) for curve in curves]
        higher = sum(b > a for a, b in zip(before, after, strict=True))
        lines.append(
            f"| {method} | {len(curves)} | {_with_range(before)} | {_with_range(after)} | "
            f"{np.mean(after) - np.mean(before):+.1f} | {higher} of {len(curves)} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("run_dir", nargs="+", type=Path, help="folders of runs, of one task")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.png)")
    args = parser.parse_args(argv)
    try:
        methods = by_method([read_curve(run_dir, SCORE) for run_dir in args.run_dir])
        save(draw(methods), args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(methods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
