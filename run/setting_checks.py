"""Checks of single flags and of their combinations, and notices about unusual settings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from get_args import FLAGS, Settings, flag_type
from tasks.task_file import change_notice
from utils import UserError


def inside(value: float, interval: str) -> bool:
    """Whether a number is in an interval in mathematical notation, such as "(0, 1]"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low or (value == low and interval[0] == "[")
    return above and (value < high or (value == high and interval[-1] == "]"))


def check_settings(settings: Settings) -> None:
    """Check that a run is possible with these settings, before anything is loaded.

    Raises:
        UserError: it is not; the message gives the flag and a fix.
    """
    for name in FLAGS:
        check_value(name, getattr(settings, name))
    settings.task  # noqa: B018 - raises for an unknown one
    for find in (_path_problems, model_problems, _algorithm_problems, _policy_problems,
                 _critic_problems, _ablation_problems, _recurrent_problems):  # fmt: skip
        for problem in find(settings):
            raise UserError(problem)


def check_value(name: str, value: Any) -> None:
    """Check one flag's type, choices and interval.

    Raises:
        UserError: the value is not allowed.
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
        raise UserError(f"--{name} {value}: out of range; use a number in {about['within']}")
    if kind is str and any(ord(letter) < 32 for letter in value):
        raise UserError(f"--{name} {value!r}: contains control characters; remove them")


def _path_problems(s: Settings) -> Iterator[str]:
    if s.custom_dataset == 1 and not s.dataset:
        yield "--custom_dataset 1: no dataset given; add --dataset, and --env for its task"
    if s.env_backend == "d4rl" and s.video_debug == 1:
        yield "--video_debug 1: --env_backend d4rl cannot render; drop one of them"
    if s.init_optimizer == 1 and not s.init_from:
        yield "--init_optimizer 1: there is no run to take optimisers from; add --init_from"
    if s.own_task is not None and s.env_backend == "d4rl":
        yield "--env_backend d4rl: has only D4RL's tasks; drop it for a --task_file"
    if s.own_task is not None and not s.dataset and s.max_pretrain_iters > 0:
        yield (
            f"--task_file {s.task_file}: no dataset to pretrain on; add --dataset, or "
            "--max_pretrain_iters 0 to learn purely online"
        )
    if not s.save_dir:
        yield "--save_dir is empty; give a folder"
    if not s.data_dir:
        yield "--data_dir is empty; give a folder"
    for name in ("exp_name", "suffix"):
        value = getattr(s, name)
        if "/" in value or "\\" in value:
            yield (
                f"--{name} {value}: becomes part of a folder name, so it cannot contain slashes; "
                "choose the folder with --save_dir or --run_dir"
            )
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", s.device) is None:
        yield f"--device {s.device}: unknown device; use auto, cpu, cuda or cuda:N"


def model_problems(s: Settings) -> Iterator[str]:
    """Contradictions among the settings of the policy network, one line each."""
    if s.eval_context_length > s.K:
        yield (
            f"--eval_context_length {s.eval_context_length}: longer than the training context "
            f"--K {s.K}; decrease it or increase --K"
        )
    if s.policy == "transformer" and s.embed_dim % s.n_head != 0:
        yield (
            f"--embed_dim {s.embed_dim}: not a multiple of --n_head {s.n_head}; change one of them"
        )
    if s.policy == "mlp" and s.ordering == 1:
        yield "--ordering 1: --policy mlp has no timestep embedding; drop one of them"
    if s.delayed_reward == 1:
        yield "--delayed_reward 1: delays nothing; use 0 for no delay, or M > 1"


def _algorithm_problems(s: Settings) -> Iterator[str]:
    algo = s.rl_algo
    if algo != "TD3" and s.num_actor_update_interval != 1:
        yield (
            f"--rl_algo {algo}: updates the actor with every critic update; "
            "add --num_actor_update_interval 1"
        )
    if algo in ("SAC", "PPO") and s.stoc == 0:
        yield f"--rl_algo {algo}: needs a stochastic policy; add --stoc 1"
    if algo in ("SAC", "AWAC", "PPO", "AWR") and s.use_entropy_reg == 1:
        yield (
            f"--rl_algo {algo}: cannot be combined with the entropy bonus of the supervised loss; "
            "add --use_entropy_reg 0"
        )
    for name in ("AWAC_soft_flag", "AWAC_normalize_adv"):
        if algo == "AWAC" and getattr(s, name) is None:
            yield (
                f"--rl_algo AWAC: needs --{name}, which has no default; "
                f"set it to one of {', '.join(map(str, FLAGS[name].metadata['choices']))}"
            )


def _policy_problems(s: Settings) -> Iterator[str]:
    if s.stoc == 0 and s.use_entropy_reg == 1:
        yield (
            "--stoc 0 --use_entropy_reg 1: a deterministic policy has no entropy; "
            "add --use_entropy_reg 0, or use --stoc 1"
        )
    if (
        s.policy == "transformer"
        and s.actor_rl_coeff == 0
        and not (s.stoc == 1 and s.use_entropy_reg == 1)
    ):
        yield (
            "--actor_rl_coeff 0: plain ODT needs --stoc 1 --use_entropy_reg 1; add them, or set "
            "--actor_rl_coeff to a positive value"
        )
    if s.actor_rl_coeff == 0 and s.actor_sup_coeff == 0:
        yield (
            "--actor_rl_coeff 0 --actor_sup_coeff 0: the actor has no loss; set one of them to a "
            "positive value"
        )


def _critic_problems(s: Settings) -> Iterator[str]:
    if s.gamma == 1 and s.critic_time_aware == 0:
        yield (
            "--gamma 1: needs a time-aware critic; add --critic_time_aware 1 (or 2), or decrease "
            "--gamma"
        )
    last = min(s.task.horizon, 999)
    if s.critic_time_aware == 2 and s.critic_time_dim < last.bit_length():
        yield (
            f"--critic_time_dim {s.critic_time_dim}: too few binary digits for the timesteps of "
            f"{s.env}; use at least {last.bit_length()}"
        )


def _ablation_problems(s: Settings) -> Iterator[str]:
    start = s.rtg_curriculum_start
    if s.own_task is not None and not s.dataset and s.rtg_curriculum_decay > 0 and start is None:
        yield (
            f"--rtg_curriculum_decay {s.rtg_curriculum_decay}: without a dataset there is no mean "
            "return to start from; add --rtg_curriculum_start"
        )
    if s.rtg_curriculum_iters > 0 and s.rtg_curriculum_decay > 0:
        yield (
            f"--rtg_curriculum_iters {s.rtg_curriculum_iters} --rtg_curriculum_decay "
            f"{s.rtg_curriculum_decay}: two schedules of one target return; drop one of them"
        )
    if s.rtg_curriculum_iters > 0 and start is None:
        yield (
            f"--rtg_curriculum_iters {s.rtg_curriculum_iters}: needs --rtg_curriculum_start, which "
            "has no default; set it, in training rewards"
        )
    if s.rtg_curriculum_iters == 0 and s.rtg_curriculum_decay == 0 and start is not None:
        yield (
            f"--rtg_curriculum_start {start}: there is no curriculum; add --rtg_curriculum_iters "
            "or --rtg_curriculum_decay"
        )
    end = "eval_rtg" if s.rtg_curriculum_decay else "online_rtg"
    if start is not None and start >= getattr(s, end):
        yield (
            f"--rtg_curriculum_start {start}: the curriculum rises, so it must start below "
            f"--{end} {getattr(s, end)}; decrease it"
        )
    for name in ("rtg_curriculum_iters", "rtg_curriculum_decay"):
        if s.policy == "mlp" and getattr(s, name) > 0:
            yield (
                f"--{name} {getattr(s, name)}: --policy mlp does not use the return-to-go; drop "
                "one of them"
            )
    if s.jump_start_decay > 0 and s.jump_start_steps == 0:
        yield (
            f"--jump_start_decay {s.jump_start_decay}: there is no jump start; add "
            "--jump_start_steps"
        )
    if s.jump_start_guide != "" and s.jump_start_steps == 0:
        yield (
            f"--jump_start_guide {s.jump_start_guide}: there is no jump start; add "
            "--jump_start_steps"
        )
    if s.jump_start_decay > 0 and s.jump_start_iters != Settings.jump_start_iters:
        yield (
            f"--jump_start_iters {s.jump_start_iters}: --jump_start_decay replaces the linear "
            "schedule; drop one of them"
        )
    start_given = s.init_from or s.jump_start_guide
    if s.jump_start_steps > 0 and s.max_pretrain_iters == 0 and not start_given:
        yield (
            f"--jump_start_steps {s.jump_start_steps}: needs a pretrained policy, but "
            "--max_pretrain_iters is 0; change one of them, or pass --init_from or "
            "--jump_start_guide"
        )
    if s.jump_start_steps > 0 and s.rl_algo == "PPO":
        yield (
            f"--jump_start_steps {s.jump_start_steps}: --rl_algo PPO learns only from its own "
            "policy's actions; drop one of them"
        )


def _recurrent_problems(s: Settings) -> Iterator[str]:
    if not s.recurrent:
        return
    if s.critic_activation not in ("relu", "tanh"):
        yield (
            f"--critic_activation {s.critic_activation}: recurrent critics support only relu and "
            "tanh; use one of them"
        )
    if s.critic_normalization != "layernorm":
        yield (
            f"--critic_normalization {s.critic_normalization}: recurrent critics support only "
            "layernorm; drop the flag"
        )


def notices(settings: Settings) -> list[str]:
    """Notices about allowed but unusual settings, one sentence each."""
    found: list[str] = []
    if settings.own_task is not None and settings.resume:
        changed = change_notice(Path(settings.task_file), settings.own_task)
        found += [changed] if changed else []
    if settings.env_alias:
        found.append(f"--env {settings.env_alias} is an alias of {settings.env}")
    if settings.arch != Settings.arch and not settings.recurrent:
        found.append(f"--arch {settings.arch} has no effect: it is for recurrent_main.py")
    if settings.policy == "mlp":
        found += _unread_by_mlp(settings)
    if settings.critic_time_aware and settings.rl_algo in ("PPO", "AWR"):
        found.append(
            f"--critic_time_aware {settings.critic_time_aware} has no effect: --rl_algo "
            f"{settings.rl_algo} has only a V critic, which does not see the timestep"
        )
    unbounded = settings.minimum_sapairs_per_iter == 0 and settings.force_no_minimum == 0
    if "-random-" in settings.env and settings.max_online_iters > 0 and unbounded:
        found.append(
            f"{settings.env}: policies from random data end their episodes early, so online "
            "iterations may collect very few steps; consider --minimum_sapairs_per_iter 1000 "
            "(--force_no_minimum 1 silences this)"
        )
    normalised = settings.task.critic_layernorm or settings.override_layernorm == 1
    if settings.critic_normalization != "layernorm" and (
        not normalised or settings.override_layernorm == -1
    ):
        found.append(
            f"--critic_normalization {settings.critic_normalization} has no effect: critics of "
            f"{settings.env} are not normalised here; add --override_layernorm 1"
        )
    return found


def _unread_by_mlp(settings: Settings) -> list[str]:
    names = ("n_head", "dropout", "eval_context_length", "eval_rtg", "online_rtg")
    given = [name for name in names if getattr(settings, name) != getattr(Settings, name)]
    if not given:
        return []
    flags = ", ".join(f"--{name}" for name in given)
    return [f"{flags} without effect: --policy mlp sees only the state and has no dropout"]
