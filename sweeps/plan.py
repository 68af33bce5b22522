"""Read a sweep's YAML file and make its runs, checked before the start.

The runs are tasks x methods x seeds, or the trials of a search (sweeps/search.py).

docs/SWEEPS.md describes the file. A run's flags are those of published.txt for its task and method,
then those of the file, then those of the command line; the last value of a flag counts.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from d4rl_envs.tasks import ALIASES
from get_args import FLAGS, Settings, flags_with, parse_args, to_argv
from run.folder import method_name
from run.setting_checks import check_settings, check_value
from sweeps.published import METHOD_FLAGS, TASK_FLAGS
from sweeps.search import Search, read_search
from sweeps.sharing import (
    PRETRAINING,
    changed_flags,
    pretraining_name,
    pretraining_settings,
)
from sweeps.state import read_status
from tasks import TASKS
from tasks.task_file import read_task_file
from utils import UserError, yaml_mapping

# fields of the file and their types
FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str, "tasks": list, "methods": list, "seeds": list, "flags": dict,
    "task_flags": dict, "published_flags": bool, "recurrent": bool, "cpus": (int, float),
    "gpus": (int, float), "retries": int, "search": dict, "share_pretraining": bool,
}  # fmt: skip
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        sweep, task, method, seed: Identify the run; `method` is the name in the file.
        folder: Its folder, save_dir/sweep/task/method/seedN, or trialN.
        flags: Arguments of the program, without --run_dir and --resume.
        settings: The settings these arguments give.
        sampled: The sampled flags and their values, for a trial of a search.
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
    sampled: tuple[tuple[str, Any], ...] = ()
    pretraining: SweepRun | None = None

    @property
    def label(self) -> str:
        return f"{self.task} {self.method} {self.folder.name}"

    @property
    def program(self) -> str:
        """The script that runs it."""
        return "recurrent_main.py" if self.settings.recurrent else "main.py"


@dataclass(frozen=True)
class Sweep:
    """The runs of a file and the resources of each run.

    Attributes:
        name: Name of the sweep and its folder.
        runs: In the file's order: by task, method, seed.
        cpus: Cores per run.
        gpus: GPUs per run, may be below 1; None uses the default of sweeps/tuning.py.
        retries: Additional attempts for a run that crashed.
        search: The search whose trials the runs are, if any.
    """

    name: str
    runs: tuple[SweepRun, ...]
    cpus: float = 1
    gpus: float | None = None
    retries: int = 2
    search: Search | None = None

    @property
    def folder(self) -> Path:
        """The folder of the sweep, save_dir/sweep."""
        return self.runs[0].folder.parents[2]


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
        return _make_sweep(content, content.get("name", path.stem), save_dir.resolve(), extra)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _load(path: Path) -> dict[str, Any]:
    expected = "a sweep; it needs the fields tasks, methods and seeds"
    content = yaml_mapping(path, path, expected)
    for name, value in content.items():
        if name not in FIELDS:
            raise UserError(f"{path}: {name}: unknown field{_nearest(str(name), FIELDS)}")
        if not isinstance(value, FIELDS[name]) or (
            isinstance(value, bool) and FIELDS[name] is not bool
        ):
            raise UserError(f"{path}: {name}: {value!r} has the wrong type; see docs/SWEEPS.md")
    return content


def _nearest(word: str, known: Collection[str], otherwise: str = "") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    advice = otherwise or f"use one of {', '.join(known)}"
    return f"; did you mean {near[0]}?" if near else f"; {advice}"


def _make_sweep(content: dict[str, Any], name: str, save_dir: Path, extra: Sequence[str]) -> Sweep:
    if not _LABEL.fullmatch(name):
        raise UserError(f"name {name!r}: use letters, digits and + . _ -")
    own = _own_tasks(content)
    tasks = _tasks(_listed({"tasks": own} | content, "tasks"), own)
    methods = _methods(_listed(content, "methods"))
    seeds = _listed(content, "seeds")
    if not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {seeds}: use distinct integers")
    shared = _words(content.get("flags", {}), "flags")
    by_pattern = {
        str(pattern): _words(flags, f"task_flags: {pattern}")
        for pattern, flags in content.get("task_flags", {}).items()
    }
    for pattern in by_pattern:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            raise UserError(f"task_flags: {pattern}: matches none of the tasks")
    search = _search(content, tasks, methods, seeds) if "search" in content else None
    published, recurrent = content.get("published_flags", True), content.get("recurrent", False)
    runs: list[SweepRun] = []
    for task in tasks:
        own = [w for p, words in by_pattern.items() if fnmatchcase(task, p) for w in words]
        base = TASK_FLAGS.get(task, []) if published else []
        for method, flags in methods.items():
            # flags of a method defined in the file override those of all runs
            given = METHOD_FLAGS[method] if flags is None else []
            words = [*base, *given, *shared, *own, *(flags or []), *extra, f"--exp_name={name}"]
            folder = save_dir / name / task / method
            runs += [
                _make_run(name, task, method, folder / label, seed, words, sampled, recurrent)
                for label, seed, sampled in _variants(search, seeds, folder)
            ]
    if content.get("share_pretraining"):
        runs = [_with_shared_pretraining(run, seeds[0]) for run in runs]
    resources = {key: content[key] for key in ("cpus", "gpus", "retries") if key in content}
    return checked_resources(Sweep(name, tuple(runs), **resources, search=search))


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


def _own_tasks(content: dict[str, Any]) -> list[str]:
    """Names of the tasks in the task files among the flags."""
    by_task = content.get("task_flags", {}).values()
    flags = [each for each in (content.get("flags"), *by_task) if isinstance(each, Mapping)]
    files = [str(each["task_file"]) for each in flags if each.get("task_file")]
    return [read_task_file(Path(file).expanduser().absolute()).name for file in files]


def _tasks(entries: list[Any], own: Sequence[str]) -> list[str]:
    """Tasks by name or pattern ("hopper-*"), each once, in the given order."""
    tasks = []
    for entry in entries:
        name = ALIASES.get(str(entry), str(entry))
        fits = [task for task in (*TASK_FLAGS, *own) if fnmatchcase(task, name)]
        if not fits:
            near = ", ".join(difflib.get_close_matches(name, [*TASK_FLAGS, *own], n=3, cutoff=0.4))
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
            advice = _nearest(str(name), FLAGS, "docs/FLAGS.md lists them")
            raise UserError(f"{place}: {name}: unknown flag{advice}")
        if name in flags_with("per_run"):
            raise UserError(f"{place}: {name}: set by the sweep itself; remove it")
        if not isinstance(value, str | int | float):
            raise UserError(f"{place}: {name}: {value!r} is not a single value")
        words.append(f"--{name}={value}")
    return words


def _search(
    content: dict[str, Any], tasks: Sequence[str], methods: Mapping[str, Any], seeds: Sequence[int]
) -> Search:
    """The search, which compares trials of a single task, method and seed."""
    for name, entries in (("tasks", tasks), ("methods", methods), ("seeds", seeds)):
        if len(entries) > 1:
            raise UserError(f"search: {name}: has {len(entries)}; list one, since trials compete")
    search = read_search(content["search"])
    if search.algorithm == "optuna" and content.get("share_pretraining"):
        raise UserError("search: algorithm optuna: not with share_pretraining; use random")
    # their names
    _words(dict.fromkeys(search.space, 0), "search: flags")
    return search


def _variants(
    search: Search | None, seeds: Sequence[int], folder: Path
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Folder name, seed and sampled flags of each run of a task and method."""
    if search is None:
        yield from ((f"seed{seed}", seed, {}) for seed in seeds)
        return
    for number, sampled in enumerate(search.sample(seeds[0])):
        name = f"trial{number:03d}"
        # what Optuna suggested; other trials get its suggestions when they start
        record = read_status(folder / name) if search.algorithm == "optuna" else None
        yield name, seeds[0], record.sampled if record and record.attempts else sampled


def _make_run(
    sweep: str, task: str, method: str, folder: Path, seed: int, words: Sequence[str],
    sampled: Mapping[str, Any], recurrent: bool,
) -> SweepRun:  # fmt: skip
    what = f"{task} {method}"
    if sampled:
        what = f"{folder.name} ({', '.join(f'{flag} {value}' for flag, value in sampled.items())})"
    tail = [*words, *_words(sampled, "search: flags")]
    settings = _parse(("--env", task, *tail), what, recurrent)
    own = method_name(settings)
    if method != own and not settings.suffix:
        # distinguishes it from other methods with the same losses in records and plots
        suffix = method.removeprefix(own) if method.startswith(own) else f"-{method}"
        tail.append(f"--suffix={suffix}")
        settings = replace(settings, suffix=suffix)
    check_value("seed", seed)
    flags = ("--env", task, "--seed", str(seed), *tail)
    settings = replace(settings, seed=seed)
    return SweepRun(sweep, task, method, seed, folder, flags, settings, tuple(sampled.items()))


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
    settings = parse_args(words, run.settings.recurrent)
    return replace(run, flags=words, settings=settings, pretraining=pretraining)


def with_flags(run: SweepRun, sampled: Mapping[str, Any]) -> SweepRun:
    """A trial with other values of the sampled flags."""
    words = {f"--{name}={value}": f"--{name}={sampled[name]}" for name, value in run.sampled}
    flags = tuple(words.get(word, word) for word in run.flags)
    settings = replace(run.settings, **sampled)
    return replace(run, flags=flags, settings=settings, sampled=tuple(sampled.items()))


@cache
def _parse(flags: tuple[str, ...], what: str, recurrent: bool) -> Settings:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            settings = parse_args(flags, recurrent)
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
