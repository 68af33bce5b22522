"""The runs kept in results/: evaluations and settings of each run, and a table over all of them.

A kept run is a folder that all tools for runs can read: config.json without anything about the
machine's folders, and metrics.csv with the evaluations only.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import headline
from get_args import flags_with
from reporting.curves import SCORE, read_rows
from reporting.differences import NOT_COMPARED, differing_flags
from reporting.intervals import bootstrap, mean_over_runs
from reporting.runs import RunResult, read_run
from reporting.style import order_methods
from reporting.tables import Table, format_interval, words
from run.config import last_session
from run.files import CONFIG_FILE, METRICS_CSV_FILE
from utils import UserError, json_object

OURS = "TD3+ODT"
# evaluations at the end of a run whose mean is its final score
LAST = 5
_COLUMNS = (
    "phase", "iteration", "total_transitions_sampled", "time/total", SCORE,
    "evaluation/normalized_score_se", "evaluation/raw_return_mean", "evaluation/length_mean_gm",
    "evaluation/success_rate", "training/sup_loss", "training/rl_loss", "training/Q_mean",
)  # fmt: skip
# a run trained further is still the same run
_BUDGET = ("max_online_iters", "max_online_transitions")
_FACTS = ("method", "recurrent", "started", "python", "threads", "gpu", "packages", "git", "engine",
          "fingerprint", "task", "ended", "outcome")  # fmt: skip


def kept_files(run: RunResult) -> dict[str, str]:
    """The files of a finished run to keep, by name."""
    config = json_object((run.folder / CONFIG_FILE).read_text())
    rows = [row for row in read_rows(run.folder) if headline(row)[0] in row]
    names = [name for name in _COLUMNS if any(name in row for row in rows)]
    table = io.StringIO()
    writer = csv.DictWriter(table, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: float(f"{x:.6g}") if isinstance(x, float) else x for name, x in row.items()}
        for row in rows
    )
    text = json.dumps(_without_places(run, config), indent=1)
    return {CONFIG_FILE: f"{text}\n", METRICS_CSV_FILE: table.getvalue()}


def check_place(folder: Path, run: RunResult) -> None:
    """Check that a folder of kept runs holds no other run than this one, maybe with less training.

    Raises:
        UserError: it does.
    """
    if (folder / CONFIG_FILE).exists():
        names = differing_flags([read_run(folder).settings, run.settings])
        if other := [f"--{name}" for name in names if name not in _BUDGET]:
            raise UserError(
                f"{folder}: keeps a run with other settings than {run.folder} "
                f"({', '.join(other)}); choose another --out"
            )


def _without_places(run: RunResult, config: dict[str, Any]) -> dict[str, Any]:
    """A run's record without the folders and the description of its machine."""
    config = config | {k: x for k, x in last_session(config).items() if k in ("ended", "outcome")}
    paths = flags_with("path")
    settings = {
        name: x
        for name, x in run.settings.items()
        # a data set or a policy is kept by its name
        if name not in paths or (x and name not in NOT_COMPARED)
    }
    return {"settings": settings} | {name: config[name] for name in _FACTS if name in config}


def final_score(run: RunResult) -> float:
    """Mean of a run's last `LAST` evaluations of fine-tuning."""
    return float(run.curve.values[run.curve.steps > 0][-LAST:].mean())


def results_table(runs: Sequence[RunResult]) -> Table:
    """Scores before and after fine-tuning by task and method, with 95% intervals over seeds.

    The last column compares the method's final score with that of TD3+ODT.
    """
    counting = [run for run in runs if run.counts]
    rows = []
    for task in dict.fromkeys(run.task for run in counting):
        by_method: dict[str, list[RunResult]] = {}
        for run in counting:
            if run.task == task:
                by_method.setdefault(run.method, []).append(run)
        for method in order_methods(list(by_method)):
            texts = [task, method, len(by_method[method]), *_scores(by_method[method])]
            texts.append("" if method == OURS else _lead(by_method.get(OURS), by_method[method]))
            rows.append([words(text) for text in texts])
    columns = ["task", "method", "seeds", "online steps", "after pretraining", "final", "change",
               f"{OURS} minus this"]  # fmt: skip
    return Table("results", "Results", columns, rows)


def _scores(runs: Sequence[RunResult]) -> list[str]:
    before = np.array([run.before for run in runs])
    final = np.array([final_score(run) for run in runs])
    steps = float(np.mean([run.online_steps for run in runs]))
    steps = round(steps, -3 if steps >= 10_000 else 0)
    scores = [_with_interval(mean_over_runs, values) for values in (before, final)]
    return [f"{steps:,.0f}", *scores, _with_interval(mean_over_runs, final - before, sign="+")]


def _lead(ours: Sequence[RunResult] | None, other: Sequence[RunResult]) -> str:
    if not ours:
        return ""
    samples = [np.array([final_score(run) for run in runs]) for runs in (ours, other)]
    return _with_interval(lambda x, y: x.mean(axis=1) - y.mean(axis=1), *samples, sign="+")


def _with_interval(
    statistic: Callable[..., np.ndarray], *samples: np.ndarray, sign: str = ""
) -> str:
    mean, low, high = (float(x) for x in bootstrap(samples, statistic))
    if math.isnan(mean):
        return "–"
    return " ".join((f"{mean:{sign}.1f}", format_interval(low, high, 1))).strip()
