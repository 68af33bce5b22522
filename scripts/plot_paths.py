"""Draw a policy's paths through a maze after pretraining and at the end of fine-tuning.

    python scripts/plot_paths.py RUN --out FILE.png [--episodes N]

RUN is the folder of a maze2d or antmaze run. Both policies play the same episodes, with seeds
0 to N - 1, mean actions and the run's --eval_rtg.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from d4rl_envs import antmaze, maze2d
from evaluation import Episode
from get_args import OneLineParser
from policy_export.playing import play
from policy_export.policy import Policy, policy_of_run
from reporting.style import save_figure
from run.checkpoint import read_state
from run.files import CHECKPOINT_FOLDER, PRETRAINED_FILE
from tasks import Task
from utils import UserError, run_command, user_path

_WALL, _PATH, _GOAL = "0.75", "#0072B2", "#D55E00"


def maze_of(task: Task) -> str:
    """The map of the task's maze.

    Raises:
        UserError: the task is not a maze.
    """
    mazes = {"maze2d": maze2d.MAZES, "antmaze": antmaze.MAZES}.get(task.family)
    if mazes is None:
        raise UserError(f"{task.name}: not a maze; pass a run of maze2d or antmaze")
    return mazes[task.layout]


def path_of(task: Task, episode: Episode) -> np.ndarray:
    """(T, 2): the row and column at each step, in cells."""
    place = episode.trajectory.observations[:, :2]
    if task.family == "maze2d":
        return place
    return place[:, ::-1] / antmaze.SCALE + maze2d.cells(maze_of(task), "R")[0]


def draw_panel(axes: Axes, task: Task, episodes: Sequence[Episode], when: str) -> None:
    """Draw walls, goal, paths and their starts."""
    maze = maze_of(task)
    # D4RL's ball is at the centre of a cell 0.2 away from the middle between its walls
    shift = 0.5 + (maze2d.ORIGIN - 1.0) * (task.family == "maze2d")
    for row, column in maze2d.cells(maze, "#"):
        axes.add_patch(Rectangle((column - shift, row - shift), 1, 1, color=_WALL, lw=0))
    row, column = maze2d.cells(maze, "G")[0]
    axes.add_patch(Circle((column, row), 0.5, color=_GOAL, alpha=0.35, lw=0))
    for path in (path_of(task, episode) for episode in episodes):
        axes.plot(path[:, 1], path[:, 0], color=_PATH, alpha=0.5, lw=1.0)
        axes.plot(path[0, 1], path[0, 0], ".", color="black", markersize=5)
    lines = maze.split("/")
    axes.set(
        xlim=(-shift, len(lines[0]) - shift), ylim=(len(lines) - shift, -shift),
        aspect="equal", xticks=[], yticks=[],
    )  # fmt: skip
    score = task.normalized_score(float(np.mean([episode.raw_return for episode in episodes])))
    axes.set_title(f"{when}: score {score:.1f}", fontsize=11)


def draw(run_dir: Path, episodes: int) -> Figure:
    """The figure of a run, one panel before and one after fine-tuning."""
    file = run_dir / CHECKPOINT_FOLDER / PRETRAINED_FILE
    if run_dir.is_dir() and not file.exists():
        raise UserError(f"{run_dir}: no {PRETRAINED_FILE}; pass a run after its pretraining")
    after = policy_of_run(run_dir)
    before = policy_of_run(run_dir, state=read_state(file))
    task = after.task
    maze_of(task)
    steps = after.record["origin"]["transitions"]
    figure = Figure(figsize=(9.0, 4.9), layout="constrained")
    panels = figure.subplots(1, 2)
    shown: list[tuple[Policy, str]] = [
        (before, "after pretraining"), (after, f"after {steps:,} online steps")
    ]  # fmt: skip
    for axes, (policy, when) in zip(panels, shown, strict=True):
        played = play(policy, episodes, policy.settings.eval_rtg)
        draw_panel(axes, task, played, when)
    figure.suptitle(f"{task.name}: {episodes} episodes, from the dots; the disc is the goal")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("run", type=user_path, metavar="RUN", help="folder of a run")
    add("--out", type=user_path, required=True, metavar="FILE", help="figure (.png, .pdf or .svg)")
    add("--episodes", type=_positive, default=20, metavar="N", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    save_figure(draw(args.run, args.episodes), args.out)
    print(f"wrote {args.out}")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


if __name__ == "__main__":
    run_command(main)
