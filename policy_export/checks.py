"""Checks of a policy's parts, wherever they were read: every fault is one `UserError` line.

In all functions `owner` is what the part was read from, for the messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from build_networks import make_actor
from decision_transformer import Actor
from get_args import Settings
from run.checkpoint import check_shapes
from run.setting_checks import check_model, check_value
from tasks import Task, get_task
from utils import UserError

# the settings that make the network, and those that say how it acts
MODEL_SETTINGS = ("policy", "embed_dim", "n_layer", "n_head", "activation_function", "dropout",
                  "ordering", "stoc", "precision")  # fmt: skip
ACTING_SETTINGS = ("K", "eval_context_length", "eval_rtg", "delayed_reward")
_LARGEST_SETTING = 2**31


def task_facts(task: Task) -> dict[str, Any]:
    """What of the task table a policy depends on."""
    return {
        "name": task.name,
        "obs_dim": task.obs_dim,
        "act_dim": task.act_dim,
        "reward_divisor": task.reward_divisor,
        "reward_shift": task.reward_shift,
        "rtg_scale": task.rtg_scale,
    }


def checked_task(owner: object, recorded: Any) -> Task:
    """The task of recorded `task_facts`, which have to be those of the table.

    Raises:
        UserError: so.
    """
    if not isinstance(recorded, dict) or not isinstance(recorded.get("name"), str):
        raise UserError(f"{owner}: names no task")
    try:
        task = get_task(recorded["name"][:100])
    except UserError as error:
        raise UserError(f"{owner}: {error}".replace("--env", "task", 1)) from None
    for name, ours in task_facts(task).items():
        if recorded.get(name) != ours:
            theirs = str(recorded.get(name))[:20]
            raise UserError(f"{owner}: {name} is {theirs} there, but {ours} for {task.name}")
    return task


def checked_settings(owner: object, recorded: Any, extra: tuple[str, ...] = ()) -> Settings:
    """Settings with those in the place of the defaults that a policy depends on.

    Args:
        recorded: Settings by name; those that no policy depends on are ignored.
        extra: Names of more settings to take.

    Raises:
        UserError: one is missing, out of its range, or does not go with another.
    """
    names = (*MODEL_SETTINGS, *ACTING_SETTINGS, *extra)
    if not isinstance(recorded, dict):
        raise UserError(f"{owner}: no settings in it")
    # older policies and runs do not say, because there was no other
    recorded = {"policy": Settings.policy} | recorded
    missing = [name for name in names if name not in recorded]
    if missing:
        raise UserError(f"{owner}: no {', '.join(missing)} in its settings")
    values = {name: recorded[name] for name in names}
    for name, value in values.items():
        if isinstance(value, int | float) and not abs(value) <= _LARGEST_SETTING:
            raise UserError(f"{owner}: {name} is out of all bounds")
    try:
        for name, value in values.items():
            check_value(name, value)
        settings = Settings(**values)
        check_model(settings)
    except UserError as error:
        raise UserError(f"{owner}: {error}") from None
    return settings


def checked_moments(owner: object, name: str, values: Any, task: Task) -> np.ndarray:
    """The states' "mean" or "std", (obs_dim,) float64, from a list.

    Raises:
        UserError: it is no list of as many numbers, or one cannot be.
    """
    numbers = isinstance(values, list) and all(type(x) in (int, float) for x in values)
    if not numbers or len(values) != task.obs_dim:
        raise UserError(f"{owner}: state_{name} is not a list of {task.obs_dim} numbers")
    tiny, largest = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
    lowest = -largest if name == "mean" else tiny
    if not all(lowest <= x <= largest for x in values):
        raise UserError(f"{owner}: state_{name} has a number in it that is impossible")
    return np.array(values, np.float64)


def checked_actor(
    owner: object,
    settings: Settings,
    task: Task,
    weights: Mapping[str, Any],
    device: torch.device | str,
) -> Actor:
    """The actor with these weights, ready to act.

    Nothing of a recorded size is made before the weights turn out to have that size.

    Raises:
        UserError: a tensor is missing, has another shape or type, or is not finite.
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
        raise UserError(f"{owner}: no network can have embed_dim {settings.embed_dim}") from None
    check_shapes(actor, {str(name): x for name, x in weights.items()}, f"{owner}:")
    for name, x in weights.items():
        if not torch.isfinite(x).all():
            raise UserError(f"{owner}: {name} has NaN or infinity in it; training had diverged")
    actor.load_state_dict(weights, assign=True)
    # not `requires_grad_(False)`: that makes PyTorch round differently, in the last bit
    return actor.to(device).eval()
