"""Read a sweep's YAML file and make its runs: tasks x methods x seeds, checked before the start.

docs/SWEEPS.md describes the file. A run's flags are those of published.txt for its task and method,
then those of the file, then those of the command line; the last value of a flag counts.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from d4rl_envs.tasks import ALIASES
from data import dataset_path
from get_args import FLAGS, Settings, flags_with, parse_args, to_argv
from run.files import CONFIG_FILE, STATUS_FILE
from run.folder import method_name
from run.setting_checks import check_settings, check_value
from sweeps.published import METHOD_FLAGS, TASK_FLAGS
from sweeps.sharing import (
    PRETRAINING,
    changed_flags,
    pretraining_name,
    pretraining_settings,
)
from tasks import TASKS, get_task
from utils import UserError, json_object

# fields of the file and their types
FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "tasks": list, "methods": list, "seeds": list, "flags": dict,
    "task_flags": dict, "published_flags": bool, "cpus": (int, float), "gpus": (int, float),
    "retries": int, "share_pretraining": bool,
}  # fmt: skip
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        sweep, task, method, seed: Identify the run; `method` is the name in the file.
        folder: Its folder, save_dir/sweep/task/method/seedN.
        flags: Arguments of main.py, without --run_dir and --resume.
        settings: The settings these arguments give.
        pretraining: The run whose networks it starts from, with share_pretraining; it can start
            once that run is finished.
    """

    sweep: str
    task: str
    method: str
    seed: int
    folder: Path
    flags: tuple[str, ...]
    settings: Settings
    pretraining: SweepRun | None = None

    @property
    def label(self) -> str:
        return f"{self.task} {self.method} seed {self.seed}"


@dataclass(frozen=True)
class Sweep:
    """The runs of a file and the resources of each run.

    Attributes:
        name: Name of the sweep and its folder.
        runs: In the file's order: by task, method, seed.
        cpus: Cores per run.
        gpus: GPUs per run, may be below 1; None uses the default of sweeps/on_ray.py.
        retries: Additional attempts for a run that crashed.
    """

    name: str
    runs: tuple[SweepRun, ...]
    cpus: float = 1
    gpus: float | None = None
    retries: int = 2


def read_sweep(path: Path, save_dir: Path, extra: Sequence[str] = ()) -> Sweep:
    """The sweep of a file.

    Args:
        path: The YAML file.
        save_dir: Parent of the sweep's folder.
        extra: Flags of main.py for every run.

    Raises:
        UserError: the file is not a valid sweep.
    """
    content = _load(path)
    try:
        return _make_sweep(content, content.get("name", path.stem), save_dir, extra)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: unreadable ({error.strerror}); pass a sweep file") from None
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not YAML ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a sweep; it needs the fields tasks, methods and seeds")
    for name, value in content.items():
        if name not in FIELDS:
            raise UserError(f"{path}: {name}: unknown field{_nearest(str(name), FIELDS)}")
        if not isinstance(value, FIELDS[name]) or (
            isinstance(value, bool) and FIELDS[name] is not bool
        ):
            raise UserError(f"{path}: {name}: {value!r} has the wrong type; see docs/SWEEPS.md")
    return content


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; use one of {', '.join(known)}"


def _make_sweep(content: dict[str, Any], name: str, save_dir: Path, extra: Sequence[str]) -> Sweep:
    if not _LABEL.fullmatch(name):
        raise UserError(f"name {name!r}: use letters, digits and + . _ -")
    tasks = _tasks(_listed(content, "tasks"))
    methods = _methods(_listed(content, "methods"))
    seeds = _listed(content, "seeds")
    if not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {seeds}: use distinct integers")
    shared = _words(content.get("flags", {}), "flags")
    by_pattern = {
        pattern: _words(flags, f"task_flags: {pattern}")
        for pattern, flags in content.get("task_flags", {}).items()
    }
    for pattern in by_pattern:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            raise UserError(f"task_flags: {pattern}: matches none of the tasks")
    published = content.get("published_flags", True)
    runs: list[SweepRun] = []
    for task in tasks:
        own = [w for p, words in by_pattern.items() if fnmatchcase(task, p) for w in words]
        base = TASK_FLAGS[task] if published else []
        for method, flags in methods.items():
            # flags of a method defined in the file override those of all runs
            given = METHOD_FLAGS[method] if flags is None else []
            words = [*base, *given, *shared, *own, *(flags or []), *extra]
            runs += _make_runs(name, task, method, seeds, save_dir, words)
    if content.get("share_pretraining"):
        runs = [_with_shared_pretraining(run, seeds[0]) for run in runs]
    resources = {key: content[key] for key in ("cpus", "gpus", "retries") if key in content}
    return checked_resources(Sweep(name, tuple(runs), **resources))


def checked_resources(sweep: Sweep) -> Sweep:
    """The sweep itself, with valid numbers.

    Raises:
        UserError: a number is out of range.
    """
    if sweep.cpus <= 0:
        raise UserError(f"cpus {sweep.cpus}: use a number above 0")
    if sweep.gpus is not None and not (0 <= sweep.gpus <= 1):
        raise UserError(f"gpus {sweep.gpus}: a run uses at most one GPU; use 0 to 1")
    if sweep.retries < 0:
        raise UserError(f"retries {sweep.retries}: use 0 or more")
    return sweep


def _listed(content: dict[str, Any], name: str) -> list[Any]:
    if not content.get(name):
        raise UserError(f"{name}: missing or empty; list at least one")
    return content[name]


def _tasks(entries: list[Any]) -> list[str]:
    """Tasks by name or pattern ("hopper-*"), each once, in the given order."""
    tasks = []
    for entry in entries:
        name = ALIASES.get(str(entry), str(entry))
        fits = [task for task in TASK_FLAGS if fnmatchcase(task, name)]
        if not fits:
            near = ", ".join(difflib.get_close_matches(name, TASK_FLAGS, n=3, cutoff=0.4))
            problem = "no published flags" if name in TASKS else "unknown task"
            raise UserError(f"tasks: {entry}: {problem}; similar names: {near or 'none'}")
        tasks += fits
    return list(dict.fromkeys(tasks))


def _methods(entries: list[Any]) -> dict[str, list[str] | None]:
    """Flags of each method; None for a method of published.txt."""
    methods: dict[str, list[str] | None] = {}
    for entry in entries:
        words = None
        if isinstance(entry, dict) and len(entry) == 1:
            ((name, flags),) = entry.items()
            words = _words(flags, f"methods: {name}")
        else:
            name = str(entry)
            if name not in METHOD_FLAGS:
                raise UserError(f"methods: {name}: unknown method{_nearest(name, METHOD_FLAGS)}")
        if not _LABEL.fullmatch(str(name)) or name in methods:
            raise UserError(f"methods: {name}: use letters, digits and + . _ -, and each name once")
        methods[str(name)] = words
    return methods


def _words(flags: Any, place: str) -> list[str]:
    """Flags of the file as command-line arguments."""
    if not isinstance(flags, Mapping):
        raise UserError(f"{place}: {flags!r} is not a mapping of flags to values")
    words = []
    for name, value in flags.items():
        if name not in FLAGS:
            raise UserError(f"{place}: {name}: unknown flag{_hint(str(name))}")
        if name in flags_with("per_run"):
            raise UserError(f"{place}: {name}: set by the sweep itself; remove it")
        if not isinstance(value, str | int | float):
            raise UserError(f"{place}: {name}: {value!r} is not a single value")
        words.append(f"--{name}={value}")
    return words


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, FLAGS, n=1)
    return f"; did you mean {near[0]}?" if near else "; docs/FLAGS.md lists them"


def _make_runs(
    sweep: str, task: str, method: str, seeds: Sequence[int], save_dir: Path, words: Sequence[str]
) -> Iterator[SweepRun]:
    """The runs of a task and method, which differ only in their seeds."""
    tail = [*words, f"--exp_name={sweep}"]
    settings = _parse(["--env", task, *tail], f"{task} {method}")
    own = method_name(settings)
    if method != own and not settings.suffix:
        # distinguishes it from other methods with the same losses in records and plots
        suffix = method.removeprefix(own) if method.startswith(own) else f"-{method}"
        tail.append(f"--suffix={suffix}")
        settings = replace(settings, suffix=suffix)
    for seed in seeds:
        check_value("seed", seed)
        folder = save_dir.resolve() / sweep / task / method / f"seed{seed}"
        flags = ("--env", task, "--seed", str(seed), *tail)
        yield SweepRun(sweep, task, method, seed, folder, flags, replace(settings, seed=seed))


def _with_shared_pretraining(run: SweepRun, seed: int) -> SweepRun:
    """The run, started from a pretraining that others may share instead of its own."""
    if not (run.settings.max_pretrain_iters and run.settings.max_online_iters):
        return run
    settings = pretraining_settings(run.settings, seed)
    name = pretraining_name(settings)
    folder = run.folder.parents[1] / PRETRAINING / name
    flags = tuple(to_argv(changed_flags(settings) | {"env": run.task}))
    method = PRETRAINING + name
    pretraining = SweepRun(run.sweep, run.task, method, seed, folder, flags, settings)
    words = (*run.flags, f"--init_from={folder}", "--init_optimizer=1")
    return replace(run, flags=words, settings=parse_args(words), pretraining=pretraining)


def _parse(flags: Sequence[str], what: str) -> Settings:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            settings = parse_args(flags)
        check_settings(settings)
    except SystemExit:
        message = errors.getvalue().removeprefix("error: ").strip()
        raise UserError(f"{what}: {message}") from None
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    for name in flags_with("per_run"):
        given = [word for word in flags if word == f"--{name}" or word.startswith(f"--{name}=")]
        if len(given) > (name in ("env", "exp_name")):
            raise UserError(f"{what}: --{name}: set by the sweep itself; remove it")
    return settings


def problems(runs: Sequence[SweepRun], todo: Sequence[SweepRun]) -> list[str]:
    """Missing datasets and folders that belong to other runs, one line each.

    Args:
        runs: All runs of the sweep.
        todo: The runs to start.
    """
    checks = [partial(_check_folder, run) for run in runs]
    checks += [partial(_check_dataset, run) for run in todo]
    found: dict[str, None] = {}
    for check in checks:
        try:
            check()
        except UserError as error:
            found[str(error)] = None
    return list(found)


def _check_dataset(run: SweepRun) -> None:
    dataset_path(get_task(run.task), Path(run.settings.data_dir), run.settings.dataset)


def _check_folder(run: SweepRun) -> None:
    """Raise a UserError if the folder has other files, or a run with other settings."""
    path = run.folder / CONFIG_FILE
    if not path.exists():
        ours = not run.folder.exists() or not any(run.folder.iterdir())
        if not ours and not (run.folder / STATUS_FILE).exists():
            raise UserError(f"{run.folder}: contains files of something else; move them")
        return
    try:
        recorded = json_object(path.read_text())["settings"]
        values = {name: recorded[name] for name in FLAGS if name in recorded}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's record ({error}); move the folder") from None
    for name, value in values.items():
        expected = getattr(run.settings, name)
        if name not in flags_with("same_numbers") and value != expected:
            raise UserError(
                f"{run.folder}: the run there has --{name} {value}, the sweep {expected}; give the "
                "sweep another name or move the folder"
            )
