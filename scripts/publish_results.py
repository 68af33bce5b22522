"""Keep the evaluations and settings of finished runs, with a table and a figure of all of them.

    python scripts/publish_results.py RUNS [RUNS ...] --out results/cpu --figure curves.png

RUNS are folders of runs or their parents. The output folder holds config.json and metrics.csv of
each run in TASK/METHOD/seedN, which the other scripts read like the run itself, and table.md. A
kept run is replaced by the same run, trained further or not, but not by one with other settings.
Given the output folder itself as RUNS, only the table and the figure are made.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from get_args import OneLineParser
from reporting.figures import learning_curves
from reporting.results import check_place, kept_files, results_table
from reporting.runs import read_runs, run_folders
from reporting.style import save_figure, styles
from reporting.tables import to_markdown
from utils import UserError, run_command, user_path, write_output

# of a folder in characters; file systems allow 255 bytes
_LONGEST_NAME = 200


def publish(folders: Sequence[Path], out: Path, figure: Path | None) -> None:
    """Copy the finished runs to `out` and describe all runs there.

    Raises:
        UserError: there are no finished runs, `out` keeps another run in place of one of them, or a
            file cannot be written.
    """
    runs, warnings = read_runs(run_folders(folders))
    places = {
        out / run.task / _folder_name(run.method) / f"seed{run.seed}": run
        for run in runs
        if run.counts
    }
    if not places:
        names = ", ".join(map(str, folders))
        raise UserError(f"{names}: no run has finished fine-tuning; pass folders of finished runs")
    for folder, run in places.items():
        check_place(folder, run)
    for folder, run in places.items():
        if folder.resolve() != run.folder.resolve():
            for name, content in kept_files(run).items():
                write_output(folder / name, content.encode())
    kept, kept_warnings = read_runs(run_folders([out]))
    write_output(out / "table.md", to_markdown(results_table(kept)).encode())
    if figure is not None:
        save_figure(learning_curves(kept, styles([run.method for run in kept])), figure)
    for line in dict.fromkeys([*warnings, *kept_warnings]):
        print(f"warning: {line}", file=sys.stderr)
    print(f"{len(kept)} runs in {out}")
    print(to_markdown(results_table(kept)), end="")


def _folder_name(method: str) -> str:
    """The method as one folder, although values in it may contain slashes and be many."""
    name = method.replace("/", "_")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 10]}... {hashlib.sha256(method.encode()).hexdigest()[:6]}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("runs", nargs="+", type=user_path, metavar="RUNS", help="folders of runs or their parents")
    add("--out", type=user_path, required=True, metavar="DIR", help="folder of kept runs")
    add("--figure", type=user_path, metavar="FILE", help="learning curves (.png, .pdf or .svg)")
    args = parser.parse_args(argv)
    publish(args.runs, args.out, args.figure)


if __name__ == "__main__":
    run_command(main)
