"""Plot what online fine-tuning did: a metric against the environment steps collected online.

    python scripts/plot_learning_curve.py RUN_DIR [RUN_DIR ...] --out FILE.png

Runs of one method are seeds of it: thin lines, and their mean where all of them have data. The
point at 0 is the last evaluation of pretraining. The output ends with each run's score before and
after fine-tuning.
"""

from __future__ import annotations

import argparse
import difflib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from run.files import CONFIG_FILE, METRICS_FILE
from utils import UserError, json_object, write_output

SCORE = "evaluation/normalized_score"
FORMATS = (".png", ".pdf", ".svg")
_LABELS = {SCORE: "normalised score (0 random, 100 expert)"}
_COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c", "#7b4fa6", "#c23b4b", "#8c6d31")


@dataclass
class Curve:
    """One run's values of a metric.

    Attributes:
        folder: The run's folder.
        env, method, seed: What ran.
        steps: (N,) environment steps collected online, ascending; 0 is the end of pretraining.
        values: (N,) the metric.
        offline: Mean normalised score of the offline dataset; None if it was not recorded.
    """

    folder: Path
    env: str
    method: str
    seed: int
    steps: np.ndarray
    values: np.ndarray
    offline: float | None


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last one that is not written to its end is left out.

    Raises:
        UserError: the file is absent, empty or damaged.
    """
    path = run_dir / METRICS_FILE
    try:
        written = path.read_text().rpartition("\n")[0]
        rows = [json_object(line) for line in written.splitlines()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give the folder of a run") from None
    if not rows:
        raise UserError(f"{path}: is empty; wait until the run's first evaluation")
    return rows


def curve_rows(rows: Sequence[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The rows that a curve of `metric` shows: the last of pretraining, all of fine-tuning."""
    having = [row for row in rows if metric in row]
    before = [row for row in having if row["phase"] == "pretrain"][-1:]
    return before + [row for row in having if row["phase"] != "pretrain"]


def read_curve(run_dir: Path, metric: str) -> Curve:
    """A run's values of `metric`.

    Raises:
        UserError: the folder is not that of a run, or the run never logged the metric.
    """
    rows = read_rows(run_dir)
    if not any(metric in row for row in rows):
        known = sorted({key for row in rows for key in row if "/" in key})
        near = difflib.get_close_matches(metric, known, n=3) or known
        raise UserError(f"--metric {metric}: not logged by {run_dir}; try {', '.join(near)}")
    try:
        config = json_object((run_dir / CONFIG_FILE).read_text())
        settings, offline = config["settings"], (config["fingerprint"] or {})
        kept = curve_rows(rows, metric)
        return Curve(
            folder=run_dir,
            env=settings["env"],
            method=config["method"] + settings["suffix"],
            seed=settings["seed"],
            steps=np.array([row["total_transitions_sampled"] for row in kept], dtype=float),
            values=np.array([float(row[metric]) for row in kept]),
            offline=offline.get("mean_normalized_score"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run_dir}: not a complete run ({type(error).__name__}: {error}); give a run's folder"
        ) from None


def common_steps(steps_of_runs: Sequence[np.ndarray]) -> np.ndarray:
    """All steps at which a run has data, within the range that every run covers."""
    first = max(steps[0] for steps in steps_of_runs)
    last = min(steps[-1] for steps in steps_of_runs)
    steps = np.unique(np.concatenate(steps_of_runs))
    return steps[(steps >= first) & (steps <= last)]


def mean_curve(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over runs, interpolated linearly, over the steps that all of them cover."""
    steps = common_steps([curve.steps for curve in curves])
    return steps, np.mean([np.interp(steps, c.steps, c.values) for c in curves], axis=0)


def draw(curves: Sequence[Curve], metric: str) -> Figure:
    """The picture: one colour per task and method."""
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    envs = sorted({curve.env for curve in curves})
    groups = list(dict.fromkeys((curve.env, curve.method) for curve in curves))
    for i, (env, method) in enumerate(groups):
        members = [curve for curve in curves if (curve.env, curve.method) == (env, method)]
        label = method if len(envs) == 1 else f"{env}, {method}"
        _draw_group(axes, members, label, _COLOURS[i % len(_COLOURS)])
    if any(curve.steps[0] == 0 for curve in curves):
        axes.plot([], [], "D", color="0.35", markeredgecolor="white", label="after pretraining")
    if metric == SCORE:
        _draw_offline(axes, curves, name_env=len(envs) > 1)
    axes.set_title(", ".join(envs))
    axes.set_xlabel("environment steps collected online")
    axes.set_ylabel(_LABELS.get(metric, metric))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _draw_group(axes: Axes, curves: Sequence[Curve], label: str, colour: str) -> None:
    if len(curves) == 1:
        steps, values = curves[0].steps, curves[0].values
        label += f", seed {curves[0].seed}"
    else:
        for curve in curves:
            axes.plot(curve.steps, curve.values, color=colour, linewidth=0.8, alpha=0.45)
        steps, values = mean_curve(curves)
        label += f", mean of {len(curves)} runs"
    few = "o" if len(steps) <= 40 else None
    axes.plot(steps, values, color=colour, linewidth=2.0, marker=few, markersize=3.5, label=label)
    at_start = [curve.values[0] for curve in curves if curve.steps[0] == 0]
    if at_start:
        style: dict[str, Any] = {"markersize": 8, "markeredgecolor": "white", "zorder": 5}
        axes.plot(0, np.mean(at_start), "D", color=colour, **style)


def _draw_offline(axes: Axes, curves: Sequence[Curve], name_env: bool) -> None:
    scores = {(c.env, round(c.offline, 6)) for c in curves if c.offline is not None}
    for env, score in sorted(scores):
        label = f"{env}, offline data" if name_env else "offline data"
        axes.axhline(score, color="0.35", linestyle="--", label=f"{label} ({score:.1f})")
        # a line of this kind gets no margin of its own
        axes.update_datalim([(0, score)])
    axes.autoscale_view()


def summary(curve: Curve, metric: str) -> str:
    """One line: the metric before and after fine-tuning."""
    name = "normalised score" if metric == SCORE else metric
    what = f"{curve.env} {curve.method} seed {curve.seed}: {name}"
    if curve.steps[0] != 0 or len(curve.steps) == 1:
        return f"{what} {curve.values[-1]:.2f} after {curve.steps[-1]:,.0f} online steps"
    return (
        f"{what} {curve.values[0]:.2f} after pretraining, {curve.values[-1]:.2f} after "
        f"{curve.steps[-1]:,.0f} online steps"
    )


def save(figure: Figure, path: Path) -> None:
    """Write the picture, in whole or not at all.

    Raises:
        UserError: unknown kind of file, or a place where nothing can be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out {path}: unknown kind of picture; end it in {', '.join(FORMATS)}")
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=160)
    write_output(path, picture.getvalue(), "--out")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("run_dir", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.png)")
    parser.add_argument("--metric", default=SCORE, help="what to plot (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        curves = [read_curve(run_dir, args.metric) for run_dir in args.run_dir]
        save(draw(curves, args.metric), args.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}")
    for curve in curves:
        print(summary(curve, args.metric))
    return 0


if __name__ == "__main__":
    sys.exit(main())
