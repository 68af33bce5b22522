"""Validation of the parts of a policy read from a file or a checkpoint.

Each check raises `UserError` with a one-line message. `owner` is where the part was read from, for
that message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from build_networks import make_actor
from decision_transformer import Actor
from get_args import Settings, flags_with
from run.checkpoint import check_shapes
from run.setting_checks import check_value, model_problems
from tasks import OwnTask, Task, get_task
from tasks.task_file import recorded_task
from utils import UserError

POLICY_SETTINGS = flags_with("policy", "model") + flags_with("policy", "acting")
_LARGEST_SETTING = 2**31


def task_facts(task: Task) -> dict[str, Any]:
    """The facts of a task on which a policy depends; with "definition" for a task file."""
    own = {"definition": task.record()} if isinstance(task, OwnTask) else {}
    return own | {
        "name": task.name,
        "obs_dim": task.obs_dim,
        "act_dim": task.act_dim,
        "reward_divisor": task.reward_divisor,
        "reward_shift": task.reward_shift,
        "rtg_scale": task.rtg_scale,
    }


def checked_task(owner: object, recorded: Any) -> Task:
    """The task of recorded `task_facts`; does not make its environment.

    Raises:
        UserError: the task is unknown, or its facts differ from the recorded ones.
    """
    if not isinstance(recorded, dict) or not isinstance(recorded.get("name"), str):
        raise UserError(f"{owner}: no task name in it")
    try:
        own = recorded.get("definition")
        task = recorded_task(own, owner) if own else get_task(recorded["name"][:100])
    except UserError as error:
        raise UserError(str(error) if own else f"{owner}: task {error}") from None
    for name, ours in task_facts(task).items():
        if recorded.get(name) != ours:
            theirs = str(recorded.get(name))[:20]
            raise UserError(f"{owner}: {name} is {theirs}, but {ours} for {task.name}")
    return task


def checked_settings(owner: object, recorded: Any, extra: tuple[str, ...] = ()) -> Settings:
    """Default settings with a policy's recorded settings in them.

    Args:
        recorded: Settings by name; those on which no policy depends are ignored.
        extra: More settings to use.

    Raises:
        UserError: a setting is missing, out of range, or incompatible with another.
    """
    names = POLICY_SETTINGS + extra
    if not isinstance(recorded, dict):
        raise UserError(f"{owner}: no settings in it")
    # older files lack this setting, because there was only one kind of policy
    recorded = {"policy": Settings.policy} | recorded
    missing = [name for name in names if name not in recorded]
    if missing:
        raise UserError(f"{owner}: no {', '.join(missing)} in its settings")
    values = {name: recorded[name] for name in names}
    for name, value in values.items():
        if isinstance(value, int | float) and not abs(value) <= _LARGEST_SETTING:
            raise UserError(f"{owner}: {name} is out of range")
    try:
        for name, value in values.items():
            check_value(name, value)
    except UserError as error:
        raise UserError(f"{owner}: {error}") from None
    settings = Settings(**values)
    for problem in model_problems(settings):
        raise UserError(f"{owner}: {problem}")
    return settings


def checked_moments(owner: object, name: str, values: Any, task: Task) -> np.ndarray:
    """The "mean" or "std" of the states, (obs_dim,) float64, from a list.

    Raises:
        UserError: not a list of obs_dim numbers, or a number is out of range.
    """
    numbers = isinstance(values, list) and all(type(x) in (int, float) for x in values)
    if not numbers or len(values) != task.obs_dim:
        raise UserError(f"{owner}: state_{name} is not a list of {task.obs_dim} numbers")
    tiny, largest = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
    lowest = -largest if name == "mean" else tiny
    if not all(lowest <= x <= largest for x in values):
        raise UserError(f"{owner}: state_{name} has a number out of range")
    return np.array(values, np.float64)


def checked_actor(
    owner: object,
    settings: Settings,
    task: Task,
    weights: Mapping[str, Any],
    device: torch.device | str,
) -> Actor:
    """The actor with these weights, ready to act.

    Nothing is allocated from recorded sizes before the weights are known to have these sizes.

    Raises:
        UserError: a tensor is missing, has the wrong shape or type, or is not finite.
    """
    for name, x in weights.items():
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise UserError(f"{owner}: {str(name)[:100]} is {kind}, not float32")
    if settings.n_layer > len(weights):
        raise UserError(f"{owner}: {len(weights)} tensors, too few for n_layer {settings.n_layer}")
    try:
        with torch.device("meta"):
            actor = make_actor(settings, task)
    except (RuntimeError, OverflowError):
        raise UserError(f"{owner}: embed_dim {settings.embed_dim} is too large") from None
    check_shapes(actor, {str(name): x for name, x in weights.items()}, f"{owner}:")
    for name, x in weights.items():
        if not torch.isfinite(x).all():
            raise UserError(f"{owner}: {name} contains NaN or infinity; training had diverged")
    actor.load_state_dict(weights, assign=True)
    # no `requires_grad_(False)`: it changes the last bit of PyTorch's results
    return actor.to(device).eval()
