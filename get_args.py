"""From the command line to checked settings: parser, checks, notices.

`parse_args` turns a command line into `Settings`, `check_settings` refuses what cannot run, and
`notices` says what the user should know about settings that can.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from envs.tasks import ALIASES, get_task
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
    "env", "rl_algo", "embed_dim", "n_layer", "n_head", "activation_function", "ordering", "stoc",
    "critic_activation", "critic_normalization", "override_layernorm", "critic_time_aware",
    "critic_time_dim", "arch", "remove_trivial_trajs", "delayed_reward", "replay_size",
    "num_eval_episodes", "num_online_rollouts", "env_backend",
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


def inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval in mathematical notation, such as "(0, 1]"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (value == low and interval[0] == "[")
    return above and (value < high or (value == high and interval[-1] == "]"))


def check_settings(settings: Settings) -> None:
    """Refuse settings that cannot run together, before anything is loaded.

    Raises:
        UserError: names the flag at fault and what to do.
    """
    for name in FLAGS:
        check_value(name, getattr(settings, name))
    get_task(settings.env)
    checks = [_check_paths, check_model, _check_algorithm, _check_policy, _check_critic]
    for check in checks:
        check(settings)
    if settings.recurrent:
        _check_recurrent(settings)


def check_value(name: str, value: Any) -> None:
    """One flag's own type, choices and interval.

    Raises:
        UserError: names the flag.
    """
    about, kind = FLAGS[name].metadata, flag_type(name)
    if value is None and FLAGS[name].default is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (isinstance(value, kind) if kind in (bool, str) else whole or isinstance(value, kind)):
        raise UserError(f"--{name} {value!r}: not of type {kind.__name__}")
    if about["choices"] and value not in about["choices"]:
        known = ", ".join(str(choice) for choice in about["choices"])
        raise UserError(f"--{name} {value}: unknown value; use one of {known}")
    if kind is float and not math.isfinite(value):
        raise UserError(f"--{name} {value}: not a finite number")
    if about["within"] and not inside(value, about["within"]):
        raise UserError(f"--{name} {value}: outside its range; use a number in {about['within']}")
    if kind is str and any(ord(letter) < 32 for letter in value):
        raise UserError(f"--{name} {value!r}: control characters are not allowed; remove them")


def _refuse_if(condition: bool, message: str) -> None:
    if condition:
        raise UserError(message)


def _check_paths(s: Settings) -> None:
    _refuse_if(
        s.custom_dataset == 1 and not s.dataset,
        "--custom_dataset 1: name the dataset with --dataset, and the task whose "
        "environment it belongs to with --env",
    )
    _refuse_if(
        s.env_backend == "d4rl" and s.video_debug == 1,
        "--video_debug 1: --env_backend d4rl makes no pictures; leave one of them out",
    )
    _refuse_if(not s.save_dir, "--save_dir is empty; name a folder")
    _refuse_if(not s.data_dir, "--data_dir is empty; name a folder")
    for name in ("exp_name", "suffix"):
        value = getattr(s, name)
        _refuse_if(
            "/" in value or "\\" in value,
            f"--{name} {value}: becomes part of a folder's name, so it must have no slash; "
            "use --save_dir or --run_dir to choose the folder",
        )
    _refuse_if(
        re.fullmatch(r"auto|cpu|cuda(:\d+)?", s.device) is None,
        f"--device {s.device}: unknown device; use auto, cpu, cuda or cuda:N",
    )


def check_model(s: Settings) -> None:
    """Settings of the network that do not go together.

    Raises:
        UserError: names the flags.
    """
    _refuse_if(
        s.eval_context_length > s.K,
        f"--eval_context_length {s.eval_context_length} is longer than the training context "
        f"--K {s.K}; lower it or raise --K",
    )
    _refuse_if(
        s.embed_dim % s.n_head != 0,
        f"--embed_dim {s.embed_dim} is not a multiple of --n_head {s.n_head}; change one of them",
    )
    _refuse_if(
        s.delayed_reward == 1,
        "--delayed_reward 1 would delay nothing; use 0 for no delay, or M > 1",
    )


def _check_algorithm(s: Settings) -> None:
    algo = s.rl_algo
    _refuse_if(
        algo != "TD3" and s.num_actor_update_interval != 1,
        f"--rl_algo {algo} updates the actor with every critic update; "
        "add --num_actor_update_interval 1",
    )
    _refuse_if(
        algo in ("SAC", "PPO") and s.stoc == 0,
        f"--rl_algo {algo} needs a stochastic policy; add --stoc 1",
    )
    _refuse_if(
        algo in ("SAC", "AWAC", "PPO", "AWR") and s.use_entropy_reg == 1,
        f"--rl_algo {algo} does not go with the entropy bonus of the supervised loss; "
        "add --use_entropy_reg 0",
    )
    for name in ("AWAC_soft_flag", "AWAC_normalize_adv"):
        _refuse_if(
            algo == "AWAC" and getattr(s, name) is None,
            f"--rl_algo AWAC needs --{name}, which has no default; "
            f"add it, one of {', '.join(map(str, FLAGS[name].metadata['choices']))}",
        )


def _check_policy(s: Settings) -> None:
    _refuse_if(
        s.stoc == 0 and s.use_entropy_reg == 1,
        "--stoc 0 --use_entropy_reg 1: a deterministic policy has no entropy; "
        "add --use_entropy_reg 0, or use --stoc 1",
    )
    _refuse_if(
        s.actor_rl_coeff == 0 and not (s.stoc == 1 and s.use_entropy_reg == 1),
        "--actor_rl_coeff 0 is plain ODT and needs --stoc 1 --use_entropy_reg 1; add them, or "
        "give --actor_rl_coeff a positive value",
    )
    _refuse_if(
        s.actor_rl_coeff == 0 and s.actor_sup_coeff == 0,
        "--actor_rl_coeff 0 --actor_sup_coeff 0 leaves the actor no loss; "
        "give one of them a positive value",
    )


def _check_critic(s: Settings) -> None:
    _refuse_if(
        s.gamma == 1 and s.critic_time_aware == 0,
        "--gamma 1 needs a time-aware critic; add --critic_time_aware 1 (or 2), or use a gamma "
        "below 1",
    )
    last = min(get_task(s.env).horizon, 999)
    _refuse_if(
        s.critic_time_aware == 2 and s.critic_time_dim < last.bit_length(),
        f"--critic_time_dim {s.critic_time_dim}: too few binary digits for the timesteps of "
        f"{s.env}; use at least {last.bit_length()}",
    )


def _check_recurrent(s: Settings) -> None:
    _refuse_if(
        s.critic_activation not in ("relu", "tanh"),
        f"--critic_activation {s.critic_activation}: recurrent critics have relu and tanh; "
        "use one of these",
    )
    _refuse_if(
        s.critic_normalization != "layernorm",
        f"--critic_normalization {s.critic_normalization}: recurrent critics have layernorm only; "
        "leave the flag out",
    )


def notices(settings: Settings) -> list[str]:
    """What the user should know about settings that are allowed, one sentence each."""
    said = []
    if settings.env_alias:
        said.append(f"--env {settings.env_alias} is taken as {settings.env}")
    if settings.arch != Settings.arch and not settings.recurrent:
        said.append(
            f"--arch {settings.arch} has no effect: recurrent critics are those of "
            "recurrent_main.py"
        )
    unbounded = settings.minimum_sapairs_per_iter == 0 and settings.force_no_minimum == 0
    if "-random-" in settings.env and settings.max_online_iters > 0 and unbounded:
        said.append(
            f"{settings.env}: policies from random data end their episodes early, so online "
            "iterations may collect very few steps; consider --minimum_sapairs_per_iter 1000 "
            "(--force_no_minimum 1 silences this)"
        )
    normalised = get_task(settings.env).spec.critic_layernorm or settings.override_layernorm == 1
    if settings.critic_normalization != "layernorm" and (
        not normalised or settings.override_layernorm == -1
    ):
        said.append(
            f"--critic_normalization {settings.critic_normalization} has no effect: critics of "
            f"{settings.env} have no normalisation here; add --override_layernorm 1"
        )
    return said
