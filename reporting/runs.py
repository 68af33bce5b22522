"""Find runs, read what they left, and tell what each of them is.

A run is a folder with config.json and metrics.jsonl, as main.py makes it, or one that a sweep has
planned or tried: it holds status.json. Nothing is changed and nothing is executed.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from get_args import FLAGS, LOGGING, MACHINE
from run.files import CONFIG_FILE, DIVERGENCE_FILE, METRICS_FILE, STATUS_FILE
from run.state import DIVERGED, FAILED, FINISHED, UNFINISHED, run_state
from scripts.plot_learning_curve import SCORE, curve_rows, read_rows
from tasks import get_task
from utils import UserError, json_object

# beside the states of run_state.py: a sweep has not started it yet; its files are not readable
PLANNED, DAMAGED = "planned", "damaged"
# flags that do not change what a run computes, or what it is called by
_FREE = {"env", "data_dir", "legacy_python", "delayed_reward"} | {
    name
    for name, flag in FLAGS.items()
    if flag.metadata["group"] in (LOGGING, MACHINE) and name != "precision"
}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: Where it lies.
        env: D4RL task id.
        delayed_reward: 0, or the steps after which rewards are paid.
        method: Its name in the report.
        base: The method by its losses alone, as logger.py names it.
        seed: Its seed.
        state: How it ended (run_state.py), "planned" or "damaged".
        note: Why it ended so; attempts; "" if there is nothing to say.
        settings: All flags.
        steps: (N,) environment steps collected online, ascending; 0 is the end of pretraining.
        scores: (N,) normalised score there.
        iterations: Online iterations done.
        online_steps: Environment steps collected online.
        offline: Mean normalised score of the offline dataset; None if it was not recorded.
        started: When, ISO 8601.
        exp_name: Its experiment.
        superseded: Whether another run of this task, method and seed is used instead.
    """

    folder: Path
    env: str
    delayed_reward: int
    method: str
    base: str
    seed: int
    state: str
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: np.ndarray = field(default_factory=lambda: np.empty(0))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    iterations: int = 0
    online_steps: int = 0
    offline: float | None = None
    started: str = ""
    exp_name: str = ""
    superseded: bool = False

    @property
    def task(self) -> str:
        """The task with its delay: what scores can be compared within."""
        delay = f" (delayed {self.delayed_reward})" if self.delayed_reward else ""
        return self.env + delay

    @property
    def before(self) -> float:
        """Score after pretraining; NaN where there was no evaluation."""
        return float(self.scores[0]) if len(self.steps) and self.steps[0] == 0 else math.nan

    @property
    def final(self) -> float:
        """Score of the last evaluation of fine-tuning so far; NaN where there was none."""
        return float(self.scores[-1]) if len(self.steps) and self.steps[-1] > 0 else math.nan

    @property
    def counts(self) -> bool:
        """Whether means are taken over it: finished, with a finite final score."""
        return self.state == FINISHED and math.isfinite(self.final) and not self.superseded


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs among the given ones and below, each once, in order.

    Raises:
        UserError: a path is no folder, or holds no runs.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            what = "is no folder" if path.exists() else "there is no such folder"
            raise UserError(f"{path}: {what}; give folders of runs, or folders that contain them")
        here = list(_walk(path))
        if not here:
            raise UserError(
                f"{path}: no run in it (a folder with {CONFIG_FILE}); give folders of runs, or "
                "folders that contain them"
            )
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _walk(top: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(top):
        below.sort()
        if {CONFIG_FILE, STATUS_FILE, METRICS_FILE} & set(files):
            below.clear()
            yield Path(folder)


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs of these folders, and one line about each thing to know about them.

    Of several runs of one task, method and seed one counts: a finished one before others, then
    the one started last.

    Raises:
        UserError: none of the folders is readable.
    """
    runs, warnings = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UserError as error:
            warnings.append(f"{error}; left out")
    if not runs:
        raise UserError(f"no run is readable: {warnings[0]}")
    warnings += [f"{run.folder}: {run.note}" for run in runs if run.state == DAMAGED]
    runs = _supersede(_name_experiments(_place_planned(runs)))
    for run in runs:
        if run.superseded:
            warnings.append(
                f"{run.folder}: not used, another run of {run.task} {run.method} seed {run.seed} is"
            )
    return sorted(runs, key=lambda run: (run.task, run.method, run.seed, run.folder)), warnings


def read_run(folder: Path) -> Run:
    """One run.

    Raises:
        UserError: nothing tells which task, method and seed it was.
    """
    status = _json_of(folder / STATUS_FILE)
    if not (folder / CONFIG_FILE).exists() and status:
        return _planned_run(folder, status)
    try:
        config = json_object((folder / CONFIG_FILE).read_text())
        settings, method = config["settings"], config["method"]
        state, note = run_state(folder, config)
        run = Run(
            folder=folder,
            env=str(settings["env"]),
            delayed_reward=int(settings["delayed_reward"]),
            method=method + settings["suffix"],
            base=method,
            seed=int(settings["seed"]),
            state=state,
            settings=settings,
            offline=_finite((config["fingerprint"] or {}).get("mean_normalized_score")),
            started=str(config.get("started", "")),
            exp_name=str(settings["exp_name"]),
        )
        get_task(run.env)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder / CONFIG_FILE}: not of a run ({type(error).__name__}: {reason})"
        ) from None
    if not (folder / METRICS_FILE).exists():
        return replace(run, note=_notes(note, config, status))
    try:
        rows = _with_rows(run, read_rows(folder))
    except UserError as error:
        empty = not (folder / METRICS_FILE).read_bytes().strip()
        return run if empty else replace(run, state=DAMAGED, note=str(error))
    return replace(rows, note=_notes(note, config, status))


def _with_rows(run: Run, rows: list[dict[str, Any]]) -> Run:
    path = run.folder / METRICS_FILE
    try:
        kept = curve_rows(rows, SCORE)
        online = [row for row in rows if row["phase"] != "pretrain"]
        run = replace(
            run,
            steps=np.array([row["total_transitions_sampled"] for row in kept], dtype=float),
            scores=np.array([float(row[SCORE]) for row in kept]),
            iterations=int(online[-1]["iteration"]) if online else 0,
            online_steps=int(rows[-1]["total_transitions_sampled"]),
        )
        all_done = _all_done(run)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not rows of a run ({type(error).__name__}: {error})") from None
    if run.state == UNFINISHED:
        # of a version that did not record ends: whether all was done can be seen
        if (run.folder / DIVERGENCE_FILE).exists():
            return replace(run, state=DIVERGED)
        if all_done:
            return replace(run, state=FINISHED)
    return run


def _all_done(run: Run) -> bool:
    budget = run.settings.get("max_online_transitions") or get_task(run.env).online_budget
    return run.iterations >= run.settings["max_online_iters"] or run.online_steps >= budget


def _notes(error: str, config: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """What there is to say of a run's way, in one line."""
    resumed, attempts = config.get("resumed"), status.get("attempts")
    parts = [error or str(status.get("message") or "")]
    if isinstance(resumed, list) and resumed:
        parts.append(f"resumed {len(resumed)} time{'s' * (len(resumed) > 1)}")
    if isinstance(attempts, int) and attempts > 1:
        parts.append(f"{attempts} attempts")
    return "; ".join(part for part in parts if part)


def _planned_run(folder: Path, status: Mapping[str, Any]) -> Run:
    """A run of a sweep that has left nothing but the sweep's own record."""
    try:
        env, method = str(status["task"]), str(status["method"])
        get_task(env)
        states = {"crashed": FAILED, "stopped": FAILED}
        state = states.get(status["state"], str(status["state"]))
        seed = int(status["seed"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{folder / STATUS_FILE}: not of a run ({type(error).__name__}: {error})"
        ) from None
    note, sweep = _notes("", {}, status), str(status.get("sweep", ""))
    return Run(folder, env, 0, method, method, seed, state, note, exp_name=sweep)


def _finite(value: Any) -> float | None:
    """A finite number as it is, None for anything else."""
    number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if number else None


def _json_of(path: Path) -> dict[str, Any]:
    """A JSON file's object; {} where there is none to read."""
    try:
        return json_object(path.read_text())
    except (OSError, ValueError):
        return {}


def _place_planned(runs: list[Run]) -> list[Run]:
    """Give runs without settings the delay of the runs of their sweep and task."""
    delays = {(run.exp_name, run.env): run.delayed_reward for run in runs if run.settings}
    return [
        run if run.settings else replace(run, delayed_reward=delays.get((run.exp_name, run.env), 0))
        for run in runs
    ]


def _name_experiments(runs: list[Run]) -> list[Run]:
    """Add --exp_name to the methods' names where there are runs of several experiments."""
    if len({run.exp_name for run in runs}) < 2:
        return runs
    return [
        run
        if run.exp_name in ("", "default")
        else replace(run, method=f"{run.method} [{run.exp_name}]")
        for run in runs
    ]


def _supersede(runs: list[Run]) -> list[Run]:
    best: dict[tuple[str, str, int], Run] = {}
    for run in sorted(runs, key=lambda run: (run.counts, run.started, str(run.folder))):
        best[run.task, run.method, run.seed] = run
    return [
        replace(run, superseded=best[run.task, run.method, run.seed] is not run) for run in runs
    ]


def mixed_settings(runs: Sequence[Run]) -> list[str]:
    """One line for each task and method whose runs differ in a flag other than the seed."""
    lines = []
    for task, method in dict.fromkeys((run.task, run.method) for run in runs):
        members = [run for run in runs if (run.task, run.method) == (task, method)]
        differing = differing_flags([run.settings for run in members if run.settings])
        if differing:
            flags = ", ".join(f"--{name} ({values})" for name, values in differing.items())
            lines.append(f"{task} {method}: its runs differ in {flags}")
    return lines


def differing_flags(settings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The values of the flags that differ and change what is computed: the commonest first."""
    names = [name for name in FLAGS if name not in _FREE]
    # a flag that an older version did not have does what its default does
    counted = {
        name: Counter(str(each.get(name, FLAGS[name].default)) for each in settings)
        for name in names
    }
    return {
        name: ", ".join(value for value, _ in counts.most_common())
        for name, counts in counted.items()
        if len(counts) > 1
    }


def unusual_flags(given: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The flags that differ from usual values and change what is computed: "--name value ...".

    Args:
        given: A run's settings.
        usual: Values to compare with.
    """
    names = [name for name in FLAGS if name not in _FREE and name in given]
    return " ".join(f"--{name} {given[name]}" for name in names if given[name] != usual[name])
