"""The command line that the four download scripts share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_sources.fetch import Unreachable, download
from data_sources.generate import generate, recipe
from data_sources.sac_recipe import MAX_TRAINING_STEPS, is_replay
from offline_data.d4rl_file import open_dataset
from offline_data.split import GYM_FAMILIES
from tasks import TASKS, Task, get_task
from utils import UserError

ROOT = Path(__file__).resolve().parents[1]
# published rows over published transitions; splitting loses a few per cent of short datasets
_MOST_ROWS_LOST = 1.1


def main(script: str, argv: Sequence[str] | None = None) -> int:
    """Get the datasets of the families that belong to `script`.

    Returns:
        The exit code: 0 when all are there, 2 when any is not, 130 when interrupted.
    """
    own = [task for task in TASKS.values() if task.script == script]
    args = parse_args(script, own, argv)
    try:
        tasks = select_tasks(script, own, args)
        args.data_dir.mkdir(parents=True, exist_ok=True)
    except UserError as error:
        return _complain(error)
    except OSError as error:
        return _complain(f"--data_dir {args.data_dir}: {error.strerror}")
    code = 0
    for task in tasks:
        try:
            get_one(task, args)
        except UserError as error:
            code = _complain(error)
            if isinstance(error, Unreachable):
                break
        except KeyboardInterrupt:
            _complain(f"{task.name}: interrupted; run the same command again to go on")
            return 130
    return code


def _complain(message: object) -> int:
    print(message, file=sys.stderr)
    return 2


def parse_args(script: str, own: list[Task], argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of one script."""
    names = ", ".join(task.name for task in own)
    parser = argparse.ArgumentParser(
        prog=script,
        description=f"Get datasets, as <task>.hdf5: {names}. Those that are there are left alone.",
    )
    parser.add_argument("--only", action="append", metavar="TASK",
                        help="get this dataset only; may be given several times")  # fmt: skip
    parser.add_argument("--source", choices=("d4rl", "generate"), default="d4rl",
                        help="download the published file, or make one by the published recipe "
                             "where that is possible (default: d4rl)")  # fmt: skip
    parser.add_argument("--steps", type=int,
                        help="rows to generate (default: as many as published); medium-replay "
                             "always has as many as its training took")  # fmt: skip
    parser.add_argument("--policy", type=Path, metavar="FILE",
                        help="behaviour policy (.npz) for antmaze and Adroit expert")  # fmt: skip
    parser.add_argument("--max_training_steps", type=int, metavar="N",
                        help="where SAC has to be trained first (gym medium, medium-replay): give "
                             f"up after N steps (default: {MAX_TRAINING_STEPS:,})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of what is generated")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data",
                        help="where the files go (default: the folder of this script)")  # fmt: skip
    return parser.parse_args(argv)


def select_tasks(script: str, own: list[Task], args: argparse.Namespace) -> list[Task]:
    """The tasks that were asked for, each once, after checking the other options."""
    for option in ("steps", "policy", "max_training_steps"):
        value = getattr(args, option)
        if value is not None and args.source != "generate":
            raise UserError(f"--{option}: only with --source generate; downloads are whole files")
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{option} {value}: must be at least 1")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must not be negative")
    if not args.only:
        return own
    tasks = []
    for name in args.only:
        try:
            task = get_task(name)
        except UserError as error:
            raise UserError(str(error).replace("--env", "--only", 1)) from None
        if task not in own:
            raise UserError(f"--only {name}: {task.script} gets this one, not {script}")
        tasks.append(task)
    if args.steps is not None and all(map(is_replay, tasks)):
        raise UserError(f"--steps: {tasks[0].name} has as many rows as its training took; leave "
                        "out --steps")  # fmt: skip
    return list(dict.fromkeys(tasks))


def get_one(task: Task, args: argparse.Namespace) -> None:
    """Get one dataset unless it is there."""
    path = args.data_dir / f"{task.name}.hdf5"
    if path.exists():
        try:
            rows = check_file(path, task)
            print(f"{task.name}: already there, {rows:,} rows; delete {path} to get it anew")
            return
        except UserError as error:
            print(f"{error} -- replacing it")
    if args.source == "generate":
        generate(
            task, path, steps=args.steps, seed=args.seed, policy=args.policy,
            max_training_steps=args.max_training_steps or MAX_TRAINING_STEPS,
        )  # fmt: skip
    else:
        fetch_published(task, path)
    print(f"{task.name}: {check_file(path, task):,} rows, {path.stat().st_size / 2**20:.1f} MiB")


def check_file(path: Path, task: Task) -> int:
    """The number of rows of a file whose arrays have the right names, types and shapes.

    Raises:
        UserError: it is no dataset of this task.
    """
    with open_dataset(path, need_next=task.family in GYM_FAMILIES) as file:
        file.check_widths(task)
        file.check_origin(task)
        return file.rows


def check_published(path: Path, task: Task) -> None:
    """`check_file`, and that the file has about as many rows as the published one.

    Raises:
        UserError: it does not.
    """
    rows = check_file(path, task)
    if not task.published_steps <= rows <= task.published_steps * _MOST_ROWS_LOST:
        raise UserError(
            f"{path}: {rows:,} rows, but the published dataset has about {task.published_steps:,}"
        )


def fetch_published(task: Task, path: Path) -> None:
    """Download D4RL's file.

    Raises:
        UserError: it could not be had; says what else can be done.
    """
    print(f"{task.name}: downloading {task.url}")
    try:
        download(task.url, path, lambda part: check_published(part, task))
    except UserError as error:
        other = f"put a copy at {path}"
        if recipe(task) is not None:
            policy = " --policy FILE" if recipe(task) == "policy" else ""
            first = " (it trains SAC first)" if recipe(task) == "sac" else ""
            other += f", or make the data here{first}: --source generate --only {task.name}{policy}"
        raise type(error)(f"{error}; try again later, or {other}") from None
