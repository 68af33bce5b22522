"""The flags of the published runs, from published.txt.

The shell scripts (scripts/mujoco.sh, ...) read the same file.
"""

from __future__ import annotations

import shlex
from pathlib import Path

TABLE = Path(__file__).with_name("published.txt")
SUITES = ("mujoco", "adroit", "antmaze", "maze2d")


def _read() -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, list[str]]]:
    methods: dict[str, list[str]] = {}
    tasks: dict[str, list[str]] = {}
    suites: dict[str, list[str]] = {suite: [] for suite in SUITES}
    for line in TABLE.read_text().replace("\\\n", " ").splitlines():
        head, colon, flags = line.partition(":")
        kind, *names = head.split() or [""]
        if not colon or kind.startswith("#"):
            continue
        for name in names:
            (methods if kind == "method" else tasks).setdefault(name, []).extend(shlex.split(flags))
            if kind != "method" and name not in suites[kind]:
                suites[kind].append(name)
    return methods, tasks, suites


# flags by method and by task; tasks by suite, in the file's order
METHOD_FLAGS, TASK_FLAGS, SUITE_TASKS = _read()
