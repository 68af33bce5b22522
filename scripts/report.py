"""Report what runs achieved: curves, the paper's tables, aggregates, as pages, pictures and CSV.

    python scripts/report.py RUNS [RUNS ...] --out DIR

RUNS are folders of runs, or folders that contain them, such as exp/ or that of a sweep. DIR gets
report.html (one page that loads nothing), report.md, figures/*.png and *.svg, and CSV files.
docs/REPORTS.md describes them. Nothing in the runs' folders is changed.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from get_args import OneLineParser
from utils import UserError


def main(argv: Sequence[str] | None = None) -> int:
    about = (__doc__ or "").split("\n\n")
    parser = OneLineParser(description=about[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders of runs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--reps", type=int, default=2000, help="bootstrap resamples (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the resampling (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    try:
        written, warnings, states = _report(args.runs, args.out, args.reps, args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    print(", ".join(f"{count} {state}" for state, count in states.most_common()))
    print(f"wrote {written} files; open {args.out / 'report.html'}")
    return 0


def _report(
    paths: Sequence[Path], out: Path, reps: int, seed: int
) -> tuple[int, Sequence[str], Counter[str]]:
    """Write a report; returns how many files, what to mind, and the states of the runs."""
    if reps < 1:
        raise UserError(f"--reps {reps}: use at least 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: use a number in [0, 2^32)")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is no folder; choose another")
    try:
        # optional packages, and slow to import
        from reporting.build import build
        from reporting.output import files_of, write_files
        from reporting.scores import Bootstrap
    except ModuleNotFoundError as error:
        raise UserError(
            f"reports need the package {error.name}; python -m pip install -r "
            "requirements-report.txt"
        ) from None
    from reporting.runs import read_runs, run_folders

    runs, warnings = read_runs(run_folders(paths))
    report = build(runs, warnings, Bootstrap(reps, seed))
    files = files_of(report)
    write_files(out, files)
    return len(files), report.warnings, Counter(run.state for run in runs)


if __name__ == "__main__":
    sys.exit(main())
