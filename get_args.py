"""From the command line to settings: the parser, and settings of a run to resume.

setting_checks.py says which settings can run.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from envs.tasks import ALIASES
from settings import GROUPS, Settings
from utils import UserError, json_object

CONFIG_FILE = "config.json"
# dataclass fields that are flags, in the order of their declaration, and their types
FLAGS = {field.name: field for field in dataclasses.fields(Settings) if field.metadata}
TYPES = get_type_hints(Settings)
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_UNSET: Any = object()
# settings that a checkpoint's content depends on
_FIXED_BY_CHECKPOINT = (
    "env", "rl_algo", "policy", "embed_dim", "n_layer", "n_head", "activation_function",
    "ordering", "stoc", "actor_optimizer", "critic_activation", "critic_normalization",
    "override_layernorm", "critic_time_aware", "critic_time_dim", "arch", "remove_trivial_trajs",
    "delayed_reward", "replay_size", "num_eval_episodes", "num_online_rollouts", "env_backend",
    "prev_policy_coeff", "jump_start_steps",
)  # fmt: skip


def flag_type(name: str) -> type:
    """The type of a flag's value (int for an optional int)."""
    return int if TYPES[name] == int | None else TYPES[name]


class OneLineParser(argparse.ArgumentParser):
    """Errors in one line, with the nearest flag for a misspelt one."""

    def error(self, message: str) -> NoReturn:
        unknown, _, rest = message.partition("unrecognized arguments: ")
        word = rest.split("=")[0].split(" ")[0]
        if rest and not unknown:
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else "; --help lists the flags"
        self.exit(2, f"error: {' '.join(message.split())}\n")


def _to_bool(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false (also 1/0, yes/no)")
    return _TRUTH[text.lower()]


def _to_choice(choices: Sequence[str]) -> Callable[[str], str]:
    """Accept a choice in any case and return it as it is written in `choices`."""
    by_lower = {choice.lower(): choice for choice in choices}
    return lambda text: by_lower.get(text.lower(), text)


def _value_parser(name: str) -> Callable[[str], Any]:
    kind, choices = flag_type(name), FLAGS[name].metadata["choices"]
    if kind is bool:
        return _to_bool
    return _to_choice(choices) if kind is str and choices else kind


def _help(name: str) -> str:
    about = FLAGS[name].metadata
    kind = "" if about["choices"] or flag_type(name) is str else f"; {flag_type(name).__name__}"
    within = f" in {about['within']}" if about["within"] else ""
    default = about["shown_default"] or FLAGS[name].default
    return f"{about['help']}{kind}{within} (default: {default})".replace("%", "%%")


def make_parser(recurrent: bool = False) -> argparse.ArgumentParser:
    """The argument parser, made from the flag table."""
    critics = "RL gradients of recurrent critics (--arch)" if recurrent else "RL gradients"
    parser = OneLineParser(
        description=f"Fine-tune a decision transformer online with {critics}.",
        usage="%(prog)s [--FLAG VALUE ...]",
        allow_abbrev=False,
    )
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for name, flag in FLAGS.items():
        about = flag.metadata
        names = [f"--{name}"] + ([about["short"]] if about["short"] else [])
        groups[about["group"]].add_argument(
            *names,
            dest=name,
            type=_value_parser(name),
            default=flag.default,
            choices=about["choices"] or None,
            metavar=None if about["choices"] else name.split("_")[-1].upper(),
            help=_help(name),
        )
    return parser


def parse_args(argv: Sequence[str] | None = None, recurrent: bool = False) -> Settings:
    """Settings of a command line (the program's own where `argv` is None).

    A mistake ends the program with exit code 2 and one line on standard error. With --resume the
    settings recorded in that run's folder take the place of the defaults.

    Args:
        argv: The command line.
        recurrent: Whether the critics are the recurrent ones.

    Raises:
        UserError: --resume names a folder without readable settings or one of a run with other
            critics, or a flag beside it does not fit to them.
    """
    parser = make_parser(recurrent)
    values = vars(parser.parse_args(argv))
    if values["resume"]:
        unset = argparse.Namespace(**dict.fromkeys(FLAGS, _UNSET))
        given = vars(parser.parse_args(argv, unset))
        recorded = to_argv(_recorded_settings(Path(values["resume"]), recurrent))
        values = _resumed(
            vars(parser.parse_args(recorded)),
            {name: value for name, value in given.items() if value is not _UNSET},
        )
    name = values["env"]
    values["env"] = ALIASES.get(name, name)
    env_alias = name if name in ALIASES else ""
    return Settings(**values, env_alias=env_alias, recurrent=recurrent)


def _resumed(recorded: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings with the given ones in their place, where the checkpoint allows that."""
    for name in _FIXED_BY_CHECKPOINT:
        value = given.get(name, recorded[name])
        if ALIASES.get(value, value) != recorded[name]:
            raise UserError(
                f"--{name} {given[name]}: the run to resume has {recorded[name]}, which cannot "
                "change; leave the flag out, or start a new run"
            )
    return recorded | given | {"run_dir": given["resume"]}


def _recorded_settings(run_dir: Path, recurrent: bool) -> Mapping[str, Any]:
    path = run_dir / CONFIG_FILE
    try:
        config = json_object(path.read_text())
        was_recurrent = bool(config.get("recurrent"))
        recorded = {name: x for name, x in config["settings"].items() if name in FLAGS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--resume {run_dir}: no settings of a run in {path} ({type(error).__name__}); "
            "give the folder of a run of this program"
        ) from None
    if was_recurrent != recurrent:
        kind, script = ("has", "recurrent_main.py") if was_recurrent else ("has no", "main.py")
        raise UserError(f"--resume {run_dir}: this run {kind} recurrent critics; use {script}")
    return recorded


def to_argv(settings: Settings | Mapping[str, Any]) -> list[str]:
    """The command line that gives these settings: `parse_args(to_argv(s)) == s`."""
    given = settings if isinstance(settings, Mapping) else dataclasses.asdict(settings)
    return [f"--{name}={given[name]}" for name in FLAGS if given.get(name) is not None]
