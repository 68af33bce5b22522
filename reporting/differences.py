"""The flags in which runs differ, and their values in labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from get_args import FLAGS, flags_with
from run.config import describe_origin

# flags that identify a run or do not change its numbers
NOT_COMPARED = {*flags_with("per_run"), *flags_with("same_numbers"), "delayed_reward"}


def comparable_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a config.json, with tasks, data and policies by name instead of folder.

    A checksum follows the name: of the task file's or the data's content, else of the path.
    """
    settings, short = config["settings"], {}
    for name in set(flags_with("path")) - NOT_COMPARED:
        path = settings.get(name, "")
        if Path(path).is_absolute():
            data = (config["fingerprint"] or {}).get("sha256") if name == "dataset" else None
            short[name] = f"{Path(path).name} {(data or _checksum(path))[:6]}"
    if "task" in config:
        # the file may have changed between runs
        content = json.dumps(config["task"], sort_keys=True)
        short["task_file"] = f"{config['task']['name']} {_checksum(content)[:6]}"
    if origin := config.get("origin"):
        # runs from different seeds of one pretraining are the same method
        short["init_from"] = describe_origin(origin, seed=False)
    return settings | short


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def flag_value(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a flag in labels."""
    # runs of a version without the flag behave as with its default
    value = settings.get(name, FLAGS[name].default)
    return "unset" if value == "" else value


def differing_flags(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The flags that change a run's numbers and do not have the same value everywhere."""
    names = [name for name in FLAGS if name not in NOT_COMPARED]
    return [name for name in names if len({str(flag_value(each, name)) for each in settings}) > 1]


def unusual_flags(given: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """The flags that change a run's numbers and differ from `usual`: "--name value ..."."""
    names = [name for name in differing_flags([given, usual]) if name in given]
    return " ".join(f"--{name} {given[name]}" for name in names)
