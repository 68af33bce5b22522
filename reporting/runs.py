"""Find runs and read their settings, learning curves and states.

A run is a folder with config.json and metrics.jsonl, as written by main.py, or one in which a sweep
has written only status.json so far. Reading a run changes and executes nothing.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from d4rl_envs.tasks import ALIASES
from evaluation import RETURN
from reporting.curves import SCORE, Curve, read_curve, read_rows, run_curve
from reporting.differences import comparable_settings, differing_flags, flag_value
from run.config import describe_origin
from run.files import CONFIG_FILE, METRICS_FILE, STATUS_FILE
from run.state import FINISHED, run_state
from sweeps.sharing import PRETRAINING
from sweeps.state import PRUNED, Status, read_status
from tasks import get_task
from tasks.task_file import recorded_task
from utils import UserError, json_object

# in addition to the states of run/state.py and sweeps/state.py: metrics.jsonl is unreadable
DAMAGED = "damaged"
# of status.json
_RECORD_TYPES = {
    "sweep": str, "task": str, "method": str, "message": str, "attempts": int, "sampled": dict,
}  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """What a run's folder records.

    Attributes:
        folder: The run's folder.
        env: D4RL task id, or the name in a task file.
        delayed_reward: 0, or the steps after which rewards are paid.
        method: Name in tables and figures.
        base: The method named by its losses alone (run/folder.py).
        seed: The run's seed.
        state: A state of run/state.py, "planned" or "damaged".
        note: Why it ended early, the source of its networks, resumes and attempts; may be "".
        settings: All flags; empty if the run has not started.
        curve: The metric over the steps collected online.
        iterations: Finished online iterations.
        online_steps: Environment steps collected online.
        offline: Mean normalised score (return) of the offline dataset; None if unknown.
        scored: Whether scores are normalised; without reference scores they are raw returns.
        started: Start time, ISO 8601.
        exp_name: Name of the experiment.
        sampled: The sampled flags, for a trial of a search.
        swept_as: The method's name in its sweep; "" without a sweep.
        superseded: Whether another run of the same task, method and seed is used instead.
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
    curve: Curve = field(default_factory=run_curve)
    iterations: int = 0
    online_steps: int = 0
    offline: float | None = None
    scored: bool = True
    started: str = ""
    exp_name: str = ""
    sampled: Mapping[str, Any] = field(default_factory=dict)
    swept_as: str = ""
    superseded: bool = False

    @property
    def task(self) -> str:
        """The task and its reward delay; scores are compared within it."""
        delay = f" (delayed {self.delayed_reward})" if self.delayed_reward else ""
        return self.env + delay

    @property
    def before(self) -> float:
        """Score after pretraining; NaN without an evaluation there."""
        steps, values = self.curve.steps, self.curve.values
        return float(values[0]) if len(steps) and steps[0] == 0 else math.nan

    @property
    def final(self) -> float:
        """Score of the last evaluation of fine-tuning so far; NaN without one."""
        steps, values = self.curve.steps, self.curve.values
        return float(values[-1]) if len(steps) and steps[-1] > 0 else math.nan

    @property
    def counts(self) -> bool:
        """Whether means include it: finished, with a finite final score."""
        return self.state == FINISHED and math.isfinite(self.final) and not self.superseded


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The folders of all runs in and below the given folders, each once, in order.

    Raises:
        UserError: a path is not a folder, or there are no runs in it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: not a folder; pass folders of runs or their parents")
        below = list(_walk(path))
        if not below:
            raise UserError(
                f"{path}: contains no run (a folder with {CONFIG_FILE}); pass folders of runs or "
                "their parents"
            )
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _walk(top: Path) -> Iterator[Path]:
    # links may lead back to a folder above
    seen: set[Path] = set()
    for folder, below, files in os.walk(top, followlinks=True):
        path = Path(folder)
        if path.resolve() in seen:
            below.clear()
            continue
        seen.add(path.resolve())
        # links last, so that a run is found in its own place
        below.sort(key=lambda name: ((path / name).is_symlink(), name))
        if {CONFIG_FILE, STATUS_FILE, METRICS_FILE} & set(files):
            below.clear()
            status = read_status(path)
            # a shared pretraining is part of the runs that start from it
            if not (status and str(status.method).startswith(PRETRAINING)):
                yield path


def read_runs(folders: Sequence[Path], metric: str = SCORE) -> tuple[list[RunResult], list[str]]:
    """Read runs, together with warnings of one line each.

    If several runs have the same task, method and seed, a finished one takes precedence, then the
    one started last. Runs whose settings differ belong to different methods.

    Raises:
        UserError: none of the runs is readable.
    """
    runs, warnings = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder, metric))
        except UserError as error:
            warnings.append(f"{error}; skipped")
    if not runs:
        raise UserError(f"no readable run: {warnings[0]}")
    warnings += [run.note for run in runs if run.state == DAMAGED]
    runs, differing = _separate_settings(_name_variants(_complete_planned(runs)))
    runs = _supersede(runs)
    warnings += differing
    warnings += [
        f"{run.folder}: not used; there is another run of {run.task} {run.method} seed {run.seed}"
        for run in runs
        if run.superseded
    ]
    return sorted(runs, key=lambda run: (run.task, run.method, run.seed, run.folder)), warnings


def read_run(folder: Path, metric: str = SCORE) -> RunResult:
    """Read one run, with the curve of a metric.

    Raises:
        UserError: task, method and seed of the run are unknown.
    """
    status = _sweep_record(folder)
    if status and not (folder / CONFIG_FILE).exists():
        return _unstarted(folder, status)
    try:
        config = json_object((folder / CONFIG_FILE).read_text())
        settings, method = comparable_settings(config), config["method"]
        origin, own = config.get("origin"), config.get("task")
        state, error_text = run_state(folder, config)
        sampled = status.sampled if status else {}
        if status and status.state == PRUNED:
            state, error_text = PRUNED, status.message
        task = recorded_task(own, "config") if own else get_task(settings["env"])
        mean = "mean_normalized_score" if task.scored else "mean_return"
        offline = (config["fingerprint"] or {}).get(mean)
        run = RunResult(
            folder=folder,
            env=task.name,
            delayed_reward=int(settings["delayed_reward"]),
            method=method + settings["suffix"],
            base=method,
            seed=int(settings["seed"]),
            state=state,
            note=_note(error_text, len(config.get("resumed", ())), status, origin),
            settings=settings,
            offline=None if offline is None else float(offline),
            scored=task.scored,
            started=str(config["started"]),
            exp_name=str(settings["exp_name"]),
            sampled=sampled,
            swept_as=status.method if status else "",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{folder / CONFIG_FILE}: not a run's record ({_reason(error)})") from None
    try:
        rows = read_rows(folder)
        online = [row for row in rows if row["phase"] != "pretrain"]
        return replace(
            run,
            curve=read_curve(rows, RETURN if metric == SCORE and not run.scored else metric),
            iterations=int(online[-1]["iteration"]) if online else 0,
            online_steps=int(rows[-1]["total_transitions_sampled"]) if rows else 0,
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        note = f"{folder / METRICS_FILE}: unreadable ({_reason(error)})"
        return replace(run, state=DAMAGED, note=note)


def _sweep_record(folder: Path) -> Status | None:
    """A sweep's record of a run, if any, with the types that reports rely on."""
    status = read_status(folder)
    for name, kind in _RECORD_TYPES.items() if status else ():
        value = getattr(status, name)
        if not isinstance(value, kind):
            raise UserError(f"{folder / STATUS_FILE}: not a run's record ({name} is {value!r})")
    return status


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _note(
    error: str, resumed: int, status: Status | None, origin: Mapping[str, Any] | None = None
) -> str:
    """Why a run ended early, where it started from and how often, in one line."""
    parts = [error or (status.message if status else "")]
    parts += [f"initialised from {describe_origin(origin)}"] if origin else []
    if resumed:
        parts.append(f"resumed {resumed} time{'s' * (resumed > 1)}")
    if status and status.attempts > 1:
        parts.append(f"{status.attempts} attempts")
    return "; ".join(part for part in parts if part)


def _unstarted(folder: Path, status: Status) -> RunResult:
    """A run of which there is only the sweep's record."""
    try:
        env, seed = ALIASES.get(status.task, status.task), int(status.seed)
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / STATUS_FILE}: not a run's record ({_reason(error)})") from None
    return RunResult(
        folder, env, 0, status.method, status.method, seed, status.state, _note("", 0, status),
        exp_name=status.sweep, sampled=status.sampled, swept_as=status.method,
    )  # fmt: skip


def _complete_planned(runs: Sequence[RunResult]) -> list[RunResult]:
    """Give unstarted runs the method, delay and settings of the started runs of their sweep."""
    known: dict[tuple[str, ...], RunResult] = {}
    for run in runs:
        if run.settings:
            method = run.swept_as or run.method
            for env in (run.env, ""):
                known[run.exp_name, env] = known[run.exp_name, env, method] = run

    def complete(run: RunResult) -> RunResult:
        if run.settings:
            return run
        like = known.get((run.exp_name, run.env, run.method))
        if named := like or known.get((run.exp_name, "", run.method)):
            run = replace(run, method=named.method, base=named.base)
        if near := like or known.get((run.exp_name, run.env)):
            run = replace(run, delayed_reward=near.delayed_reward, scored=near.scored)
        # each trial of a search has settings of its own
        return replace(run, settings=like.settings) if like and not run.sampled else run

    return [complete(run) for run in runs]


def _name_variants(runs: Sequence[RunResult]) -> list[RunResult]:
    """Append a trial's folder and, if there are several experiments, --exp_name to the methods."""
    several = len({run.exp_name for run in runs}) > 1

    def method(run: RunResult) -> str:
        trial = f" {run.folder.name}" * bool(run.sampled)
        named = several and run.exp_name not in ("", "default")
        return run.method + trial + f" [{run.exp_name}]" * named

    return [replace(run, method=method(run)) for run in runs]


def _separate_settings(runs: Sequence[RunResult]) -> tuple[list[RunResult], list[str]]:
    """Append the flags in which the runs of a task and method differ to the method.

    Runs of another model size, for example, are another method: no mean includes both.

    Returns:
        The runs, and a warning for each method that was split.
    """
    differing: dict[str, dict[str, None]] = {}
    for task, method in dict.fromkeys((run.task, run.method) for run in runs if run.settings):
        members = [run for run in runs if (run.task, run.method) == (task, method)]
        settings = [run.settings for run in members if run.settings]
        differing.setdefault(method, {}).update(dict.fromkeys(differing_flags(settings)))
    warnings = [
        f"{method}: runs differ in {', '.join(f'--{name}' for name in names)}; each combination is "
        "listed as a method of its own"
        for method, names in differing.items()
        if names
    ]

    def separate(run: RunResult) -> RunResult:
        names = differing.get(run.method) if run.settings else None
        if not names:
            return run
        values = ", ".join(f"{name} {flag_value(run.settings, name)}" for name in names)
        return replace(run, method=f"{run.method} ({values})")

    return [separate(run) for run in runs], warnings


def _supersede(runs: Sequence[RunResult]) -> list[RunResult]:
    best = {
        (run.task, run.method, run.seed): run.folder
        for run in sorted(runs, key=lambda run: (run.counts, run.started, str(run.folder)))
    }
    return [
        replace(run, superseded=best[run.task, run.method, run.seed] != run.folder) for run in runs
    ]


def describe_states(runs: Sequence[RunResult]) -> str:
    """Counts by state, except finished: "1 diverged, 2 running"; "" if all are finished."""
    counts = Counter(run.state for run in runs if run.state != FINISHED)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def state_warnings(runs: Sequence[RunResult]) -> list[str]:
    """Warnings about runs that means leave out, one line each."""
    used = [run for run in runs if not run.superseded]
    unfinished = sum(run.state not in (FINISHED, PRUNED) for run in used)
    lines = []
    if unfinished:
        lines.append(
            f"{unfinished} of {len(used)} runs are not finished ({describe_states(used)}); means "
            "and tables leave them out, figures show them as dotted lines"
        )
    for run in used:
        if run.state == FINISHED and not run.counts:
            tuned = run.curve.steps.any()
            problem = "the final score is not finite" if tuned else "not fine-tuned"
            lines.append(f"{run.folder}: finished, but {problem}; left out")
    return lines
