"""The flags in which runs differ, and their values in labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from get_args import FLAGS, flags_with

# flags that identify a run or do not change its numbers
NOT_COMPARED = {*flags_with("per_run"), *flags_with("same_numbers"), "delayed_reward"}


def short_paths(settings: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> dict[str, str]:
    """The paths that change a run's numbers as file name and checksum, without folders."""
    short = {}
    for name in set(flags_with("path")) - NOT_COMPARED:
        path = settings.get(name, "")
        if Path(path).is_absolute():
            data = fingerprint.get("sha256") if name == "dataset" else None
            digest = data or hashlib.sha256(path.encode()).hexdigest()
            short[name] = f"{Path(path).name} {digest[:6]}"
    return short


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
