"""Command line of the four download scripts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from d4rl_envs.datasets import task_file
from d4rl_envs.download import Unreachable, download
from d4rl_envs.errors import DamagedFile
from data_sources.generate import generate, recipe
from data_sources.sac_recipe import MAX_TRAINING_STEPS, is_replay
from offline_data.d4rl_file import open_d4rl
from tasks import TASKS, Task, get_task
from utils import UserError, user_path

ROOT = Path(__file__).resolve().parents[1]
# rows in a published file per transition of its dataset; splitting drops a few per cent
_MOST_ROWS_DROPPED = 1.1
_LARGEST = 2**32 - 1


def main(script: str, argv: Sequence[str] | None = None) -> int:
    """Get the datasets of a script's families.

    Returns:
        Exit code: 0 if all are there, 2 if one is missing, 130 if interrupted.
    """
    own = [task for task in TASKS.values() if task.script == script]
    args = parse_args(script, [task for task in own if task.published], argv)
    try:
        tasks = select_tasks(script, own, args)
        args.data_dir.mkdir(parents=True, exist_ok=True)
    except UserError as error:
        return _fail(error)
    except OSError as error:
        return _fail(f"--data_dir {args.data_dir}: {error.strerror}")
    code = 0
    for task in tasks:
        try:
            get_one(task, args)
        except UserError as error:
            code = _fail(error)
            if isinstance(error, Unreachable):
                break
        except KeyboardInterrupt:
            resumes = args.source == "d4rl" or recipe(task) == "sac"
            effect = "resume" if resumes else "start this dataset over"
            _fail(f"{task.name}: interrupted; run the same command again to {effect}")
            return 130
    return code


def _fail(message: object) -> int:
    print(message, file=sys.stderr)
    return 2


def parse_args(script: str, shown: list[Task], argv: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(task.name for task in shown)
    parser = argparse.ArgumentParser(
        prog=script,
        description=f"Get datasets as <task>.hdf5: {names}. Existing files are kept.",
    )
    parser.add_argument("--only", action="append", metavar="TASK",
                        help="get this dataset only; repeatable (default: all listed above). "
                             "Other datasets of D4RL's for these environments (expert, "
                             "full-replay, -v0, ...) can be downloaded too")  # fmt: skip
    parser.add_argument("--source", choices=("d4rl", "generate"), default="d4rl",
                        help="download the published file, or generate a new one with the "
                             "published recipe, if there is one (default: d4rl)")  # fmt: skip
    parser.add_argument("--steps", type=int, metavar="N",
                        help="number of rows to generate (default: as published); not for "
                             "medium-replay, which has one row per training step")  # fmt: skip
    parser.add_argument("--policy", type=user_path, metavar="FILE",
                        help="behaviour policy (.npz) for antmaze and Adroit expert")  # fmt: skip
    parser.add_argument("--max_training_steps", type=int, metavar="N",
                        help="gym medium and medium-replay, which train SAC first: give up after "
                             f"N steps (default: {MAX_TRAINING_STEPS:,})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed for generation (default: 0)")
    parser.add_argument("--data_dir", type=user_path, default=ROOT / "data", metavar="DIR",
                        help="output folder (default: %(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def select_tasks(script: str, own: list[Task], args: argparse.Namespace) -> list[Task]:
    """The requested tasks, each once.

    Raises:
        UserError: an option is invalid.
    """
    for option in ("steps", "policy", "max_training_steps"):
        value = getattr(args, option)
        if value is not None and args.source != "generate":
            raise UserError(f"--{option}: only for generated datasets; add --source generate")
    for option, least in (("steps", 1), ("max_training_steps", 1), ("seed", 0)):
        value = getattr(args, option)
        if value is not None and not least <= value <= _LARGEST:
            raise UserError(f"--{option} {value}: must be in [{least}, {_LARGEST}]")
    if not args.only:
        return [task for task in own if task.published]
    tasks = []
    for name in args.only:
        try:
            task = get_task(name)
        except UserError as error:
            raise UserError(f"--only {error}") from None
        if task not in own:
            raise UserError(f"--only {name}: not one of {script}'s datasets; use {task.script}")
        tasks.append(task)
    if args.steps is not None and all(map(is_replay, tasks)):
        raise UserError(f"--steps: {tasks[0].name} has one row per training step; leave out "
                        "--steps")  # fmt: skip
    return list(dict.fromkeys(tasks))


def get_one(task: Task, args: argparse.Namespace) -> None:
    """Get one dataset unless it exists.

    Raises:
        UserError: it cannot be had, or a file of its name exists that is not this dataset.
    """
    path = task_file(args.data_dir, task)
    if path.exists():
        try:
            rows = check_file(path, task)
        except UserError as error:
            raise UserError(
                f"{error}; existing files are never overwritten, move it away first"
            ) from None
        print(f"{task.name}: already there, {rows:,} rows; delete {path} to get it again")
        return
    if args.source == "generate":
        generate(
            task, path, steps=args.steps, seed=args.seed, policy=args.policy,
            max_training_steps=args.max_training_steps or MAX_TRAINING_STEPS,
        )  # fmt: skip
    else:
        fetch_published(task, path)
    print(f"{task.name}: {check_file(path, task):,} rows, {path.stat().st_size / 2**20:.1f} MiB")


def check_file(path: Path, task: Task) -> int:
    """Number of rows of the task's dataset.

    Raises:
        UserError: the file is not a dataset of this task.
    """
    with open_d4rl(path, task) as file:
        file.check_task(task)
        return file.rows


def check_published(path: Path, task: Task) -> None:
    """Check a downloaded file, including its number of rows if that is known.

    Raises:
        UserError: it is not the published dataset.
    """
    rows = check_file(path, task)
    least = task.published_steps
    if task.published and not least <= rows <= least * _MOST_ROWS_DROPPED:
        raise UserError(f"{path}: {rows:,} rows, but the published dataset has about {least:,}")


def fetch_published(task: Task, path: Path) -> None:
    """Download D4RL's file.

    Raises:
        UserError: it cannot be downloaded; the message lists alternatives.
    """
    print(f"{task.name}: downloading {task.url}")
    try:
        download(task.url, path, lambda part: check_published(part, task))
    except UserError as error:
        temporary = isinstance(error, (Unreachable, DamagedFile))
        alternative = f"{'try again later, ' if temporary else ''}put a copy at {path}"
        if recipe(task) is not None:
            policy = " --policy FILE" if recipe(task) == "policy" else ""
            first = " (trains SAC first)" if recipe(task) == "sac" else ""
            alternative += f", or generate it{first}: --source generate --only {task.name}{policy}"
        raise type(error)(f"{error}; {alternative}") from None
