"""Run a sweep or a hyperparameter search of a YAML file, in parallel with Ray Tune.

    python scripts/sweep.py sweeps/table1.yaml [OPTIONS] [-- FLAG VALUE ...]

Uses this machine, or the Ray cluster at --address. Finished runs are skipped, interrupted runs
resume from their last checkpoint, and crashed runs are retried. Ctrl-C stops all runs, with a
checkpoint each; the same command resumes them. See docs/SWEEPS.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from get_args import OneLineParser
from run.state import DIVERGED, FINISHED
from run.stopping import EXIT_STOPPED, EXIT_USER_ERROR, StopSignal
from sweeps.attempt import Allocation, command_words, run_here
from sweeps.board import Board
from sweeps.folders import problems, remaining, with_pretraining
from sweeps.plan import Sweep, SweepRun, checked_resources, read_sweep
from sweeps.state import PRUNED
from utils import UserError, run_command, shell_command, user_path

EXIT_SOME_FAILED = 1


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description=(__doc__ or "").split("\n\n")[0],
        usage="%(prog)s FILE.yaml [OPTIONS] [-- FLAG VALUE ...]",
        epilog="Flags of main.py after -- apply to every run. docs/SWEEPS.md describes the file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "file",
        type=user_path,
        metavar="FILE.yaml",
        help="a sweep; the paper's tables are in sweeps/",
    )
    add("--tasks", metavar="T[,T...]", help="run only these tasks or patterns ('hopper-*')")
    add("--methods", metavar="M[,M...]", help="run only these methods")
    add("--seeds", metavar="N[,N...]", help="run only these seeds")
    add("--save_dir", type=user_path, default=Path("exp"), metavar="DIR",
        help="run folders are DIR/SWEEP/TASK/METHOD/seedN (default: %(default)s)")  # fmt: skip
    add("--address", help="address of a Ray cluster, 'auto' for the one this machine belongs to "
        "(default: start Ray on this machine)")  # fmt: skip
    add("--cpus", type=float, metavar="X", help="cores per run (default: the file's, else 1)")
    add("--gpus", type=float, metavar="X", help="GPUs per run, 0.25 for four runs per GPU "
        "(default: the file's, else 0.5 if there are any)")  # fmt: skip
    add("--retries", type=int, metavar="N",
        help="additional attempts if a run crashes (default: the file's, else 2)")  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    add = how.add_argument
    add("--dry-run", action="store_true", help="print the commands of the remaining runs and exit")
    add("--status", action="store_true", help="print the state of each run and exit")
    add("--here", action="store_true", help="one run after another, without Ray")
    return parser


def select(sweep: Sweep, args: argparse.Namespace) -> Sweep:
    """The sweep with the selected runs and the resources of the command line.

    Raises:
        UserError: a pattern matches nothing, or no run remains.
    """
    runs = sweep.runs
    for option in ("tasks", "methods", "seeds"):
        if getattr(args, option) is None:
            continue
        field = option[:-1]
        patterns = [word for word in getattr(args, option).split(",") if word]
        known = list(dict.fromkeys(str(getattr(run, field)) for run in sweep.runs))
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise UserError(f"--{option} {pattern}: not in this sweep; use {', '.join(known)}")
        runs = tuple(
            run for run in runs if any(fnmatchcase(str(getattr(run, field)), p) for p in patterns)
        )
    if not runs:
        raise UserError("--tasks, --methods and --seeds: no runs selected")
    given = {name: getattr(args, name) for name in ("cpus", "gpus", "retries")}
    given = {name: value for name, value in given.items() if value is not None}
    return checked_resources(replace(sweep, runs=runs, **given))


def execute(sweep: Sweep, todo: list[SweepRun], args: argparse.Namespace, again: str) -> int:
    """Run the remaining runs; returns the exit code."""
    print(f"{sweep.name}: {len(todo)} of {len(sweep.runs)} runs to start", flush=True)
    stop = StopSignal()
    if not args.here:
        try:
            from sweeps.tuning import run_on_ray  # optional, and slow to import
        except ImportError:
            raise UserError(
                "Ray Tune is not installed; run python -m pip install -r requirements-optional.txt,"
                " or pass --here to run one after another"
            ) from None
    if args.here and sweep.search and sweep.search.algorithm == "optuna":
        raise UserError("--here: not with algorithm optuna; drop it, or use algorithm random")
    board = Board(sweep.name, sweep.runs)
    with board.displayed():
        if todo and args.here:
            allocation = Allocation(max(1, int(sweep.cpus)), sweep.gpus != 0, Path.cwd())
            with stop.installed():
                run_here(todo, sweep.retries, allocation, stop, board.update)
        elif todo:
            run_on_ray(sweep, todo, args.address, stop, board.update)
    board = Board(sweep.name, sweep.runs)
    print("\n".join(board.lines(done=False)))
    states = board.states()
    done = all(state in (FINISHED, PRUNED) for state in states)
    if stop() and not done:
        print(f"Stopped. Resume with: {again}", file=sys.stderr)
        return EXIT_STOPPED
    if DIVERGED in states:
        print("Diverged runs are not retried; delete their folders to run them again.")
    return 0 if done else EXIT_SOME_FAILED


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    own, extra = words, []
    if "--" in words:
        split = words.index("--")
        own, extra = words[:split], words[split + 1 :]
    args = make_parser().parse_args(own)
    try:
        sweep = with_pretraining(select(read_sweep(args.file, args.save_dir, extra), args))
        if args.status:
            print("\n".join(Board(sweep.name, sweep.runs).lines()))
            return 0
        todo = remaining(sweep.runs)
        if args.dry_run:
            for run in todo:
                print(shlex.join(["python", run.program, *command_words(run)]))
            return 0
        found = problems(sweep.runs, todo)
        if found:
            print("\n".join(f"error: {problem}" for problem in found), file=sys.stderr)
            return EXIT_USER_ERROR
        return execute(sweep, todo, args, shell_command("scripts/sweep.py", *words))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_STOPPED


if __name__ == "__main__":
    run_command(main)
