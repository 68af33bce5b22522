"""The flags of the published runs, from published.txt.

The shell scripts (scripts/mujoco.sh, ...) read the same file.
"""

from __future__ import annotations

import shlex
from pathlib import Path

TABLE = Path(__file__).with_name("published.txt")


def _read() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    methods: dict[str, list[str]] = {}
    tasks: dict[str, list[str]] = {}
    for line in TABLE.read_text().replace("\\\n", " ").splitlines():
        head, colon, flags = line.partition(":")
        kind, *names = head.split() or [""]
        if colon and not kind.startswith("#"):
            for name in names:
                known = methods if kind == "method" else tasks
                known.setdefault(name, []).extend(shlex.split(flags))
    return methods, tasks


# flags by method and by task, in the file's order
METHOD_FLAGS, TASK_FLAGS = _read()
