"""Settings of a run to resume: those saved in its folder, overridden by the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d4rl_envs.tasks import ALIASES
from get_args import FLAGS, Settings, flags_with, given_flags, make_settings, parse_args, to_argv
from run.files import CONFIG_FILE
from utils import UserError, json_object


def read_settings(argv: Sequence[str] | None = None, recurrent: bool = False) -> Settings:
    """Settings of a command line; with --resume, the run's saved settings are the defaults.

    A usage error exits with code 2 and one line on standard error.

    Args:
        argv: The command line; None for the program's own.
        recurrent: Whether the critics are recurrent.

    Raises:
        UserError: --resume names a folder without readable settings or a run with the other kind
            of critics, or a flag passed with it contradicts the checkpoint.
    """
    settings = parse_args(argv, recurrent)
    if not settings.resume:
        return settings
    saved = to_argv(_saved_settings(Path(settings.resume), recurrent))
    recorded = {name: getattr(parse_args(saved, recurrent), name) for name in FLAGS}
    given = given_flags(argv, recurrent)
    for name in flags_with("fixed"):
        value = given.get(name, recorded[name])
        if ALIASES.get(value, value) != recorded[name]:
            raise UserError(
                f"--{name} {given[name]}: the resumed run has {recorded[name]}, which cannot "
                "change; drop the flag, or start a new run"
            )
    return make_settings(recorded | given | {"run_dir": settings.resume}, recurrent)


def _saved_settings(run_dir: Path, recurrent: bool) -> Mapping[str, Any]:
    path = run_dir / CONFIG_FILE
    try:
        config = json_object(path.read_text())
        was_recurrent = bool(config.get("recurrent"))
        saved = {name: x for name, x in config["settings"].items() if name in FLAGS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--resume {run_dir}: no run settings in {path} ({type(error).__name__}); "
            "pass the folder of a run"
        ) from None
    if was_recurrent != recurrent:
        kind, script = ("has", "recurrent_main.py") if was_recurrent else ("has no", "main.py")
        raise UserError(f"--resume {run_dir}: this run {kind} recurrent critics; use {script}")
    return saved
