"""Plot learning curves of online fine-tuning, and print scores before and after it as a table.

    python scripts/plot_learning_curve.py RUNS [RUNS ...] --out FILE.png

RUNS are folders of runs or their parents. Seeds of a method are averaged, with a 95% interval for
three or more. Step 0 is the last evaluation of pretraining, or with --init_from
that of the initial policy.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from get_args import OneLineParser
from reporting.contents import change_table
from reporting.curves import SCORE, read_rows
from reporting.figures import learning_curves, split_curves
from reporting.runs import DAMAGED, RunResult, read_runs, run_folders, state_warnings
from reporting.style import save_figure, styles
from reporting.tables import to_markdown
from utils import UserError, run_command, user_path


def check_metric(runs: Sequence[RunResult], metric: str) -> None:
    """Raise a UserError if no run has logged the metric."""
    if any(len(run.curve.steps) for run in runs):
        return
    readable = [run for run in runs if run.state != DAMAGED]
    if not readable:
        raise UserError(f"{runs[0].note}; restore the file, or pass other runs")
    rows = [row for run in readable for row in read_rows(run.folder)]
    known = sorted({key for row in rows for key in row if "/" in key})
    if metric in known or not known:
        raise UserError(f"{readable[0].folder}: nothing to plot yet; wait for the first evaluation")
    near = difflib.get_close_matches(metric, known, n=3) or known
    raise UserError(f"--metric {metric}: not logged by these runs; use {', '.join(near)}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("runs", nargs="+", type=user_path, metavar="RUNS", help="folders of runs or their parents")
    add("--out", type=user_path, required=True, metavar="FILE", help="figure (.png, .pdf or .svg)")
    add("--metric", default=SCORE, help="metric to plot (default: %(default)s)")
    add("--split", action="store_true", help="one panel per method; needs runs of one task")
    args = parser.parse_args(argv)
    runs, warnings = read_runs(run_folders(args.runs), args.metric)
    check_metric(runs, args.metric)
    style = styles([run.method for run in runs])
    if args.split:
        figure = split_curves(runs, style, args.metric)
    else:
        figure = learning_curves(runs, style, args.metric)
    save_figure(figure, args.out)
    for line in [*state_warnings(runs), *warnings]:
        print(f"warning: {line}", file=sys.stderr)
    print(f"wrote {args.out}")
    table = change_table(runs)
    if table.rows:
        print(to_markdown(table), end="")


if __name__ == "__main__":
    run_command(main)
