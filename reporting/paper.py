"""The published results: tables 1, 2, 3, 10 and 11 of the paper, and its confidence intervals.

Source: Yan, Schwing, Wang 2024 (arXiv 2410.24108). paper/results.csv lists the tables' entries:
scores after online fine-tuning and increases over pretraining. paper/confidence_intervals.csv lists
aggregate metrics of the final scores with 95% intervals. paper/rows.csv maps the rows of the tables
to tasks and reward delays.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).with_name("paper")
AVERAGE = "Average"
TITLES = {
    "T1": "Table 1: MuJoCo",
    "T2": "Table 2: Adroit",
    "T3": "Table 3: AntMaze",
    "T10": "Table 10: MuJoCo, rewards paid every 5 steps",
    "T11": "Table 11: Maze2D",
}
METHODS = ("TD3+BC", "IQL", "ODT", "PDT", "TD3", "DDPG+ODT", "TD3+ODT")
# the paper's names of our methods. Its TD3+BC and IQL use an MLP policy, unlike our method IQL,
# which is the RL gradient of a decision transformer.
PUBLISHED_AS = {
    "TD3+ODT": "TD3+ODT",
    "ODT": "ODT",
    "TD3": "TD3",
    "DDPG+ODT": "DDPG+ODT",
    "TD3+BC": "TD3+BC",
    "IQL-MLP": "IQL",
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a table.

    Attributes:
        table: "T1", "T2", "T3", "T10" or "T11".
        label: Name in the paper, such as "Ho-MR-v2".
        env: D4RL task id.
        delayed_reward: 0, or the steps after which rewards are paid.
        intervals: Group and env in confidence_intervals.csv; ("", "") if there are none.
    """

    table: str
    label: str
    env: str
    delayed_reward: int
    intervals: tuple[str, str]


def _read(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """All rows of all tables, in the paper's order."""
    return tuple(
        PaperRow(
            row["table"],
            row["row"],
            row["task"],
            int(row["delayed_reward"]),
            (row["group"], row["env"]),
        )
        for row in _read("rows.csv")
    )


@cache
def _results() -> dict[tuple[str, str, str], tuple[float, float]]:
    return {
        (row["table"], row["row"], row["method"]): (float(row["final"]), float(row["increase"]))
        for row in _read("results.csv")
    }


@cache
def _intervals() -> dict[tuple[str, str, str, str], tuple[float, float, float]]:
    return {
        (row["group"], row["env"], row["metric"], row["method"]): (
            float(row["point"]),
            float(row["ci_low"]),
            float(row["ci_high"]),
        )
        for row in _read("confidence_intervals.csv")
    }


def find_row(env: str, delayed_reward: int) -> PaperRow | None:
    """The row of a task; None if the paper does not have the task."""
    rows = (row for row in paper_rows() if (row.env, row.delayed_reward) == (env, delayed_reward))
    return next(rows, None)


def published_score(table: str, label: str, method: str) -> tuple[float, float] | None:
    """Final score and increase; `label` may be `AVERAGE`."""
    return _results().get((table, label, method))


def published_interval(
    row: PaperRow, metric: str, method: str
) -> tuple[float, float, float] | None:
    """Point, lower and upper end of the 95% interval.

    Args:
        row: The task's row.
        metric: "Median", "IQM", "Mean" or "Optimality Gap".
        method: A method of the paper.
    """
    return _intervals().get((*row.intervals, metric, method))
