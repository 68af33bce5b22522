"""Report runs next to the paper's results: one HTML page, Markdown, figures and CSV files.

    python scripts/report.py RUNS [RUNS ...] --out DIR

RUNS are folders of runs or their parents, such as exp/ or the folder of a sweep; nothing in them is
changed. docs/REPORTS.md describes the files in DIR.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from get_args import OneLineParser
from reporting.build import build
from reporting.runs import read_runs, run_folders
from utils import UserError, run_command, user_path, write_output


def write_report(folders: Sequence[Path], out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: not a folder; choose another name")
    try:
        from reporting.output import report_files  # needs optional packages
    except ModuleNotFoundError as error:
        raise UserError(
            f"reports need the package {error.name}; run python -m pip install -r "
            "requirements-report.txt"
        ) from None
    runs, warnings = read_runs(run_folders(folders))
    report = build(runs, warnings)
    files = report_files(report)
    for name, content in files.items():
        write_output(out / name, content)
    for line in report.warnings:
        print(f"warning: {line}", file=sys.stderr)
    states = Counter(run.state for run in runs)
    print(", ".join(f"{count} {state}" for state, count in states.most_common()))
    print(f"wrote {len(files)} files; open {out / 'report.html'}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUNS",
                        help="folders of runs or their parents")  # fmt: skip
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="output folder")
    args = parser.parse_args(argv)
    write_report(args.runs, args.out)


if __name__ == "__main__":
    run_command(main)
