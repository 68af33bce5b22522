"""One pretraining for all runs of a sweep that would pretrain identically (`share_pretraining`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from get_args import ABLATION, FLAGS, ONLINE, Settings, flags_with

# first part of the method of a shared pretraining run
PRETRAINING = "pretraining/"
# flags that act only online; evaluations in pretraining use the exceptions
_ONLINE_ONLY = {*flags_with("group", ONLINE), *flags_with("group", ABLATION)}
_ONLINE_ONLY -= {"eval_rtg", "num_eval_episodes"}
# coefficients that pretraining uses only with --RL_from_start 1
_COEFFICIENTS = ("actor_rl_coeff", "actor_sup_coeff", "normalized_rl_coeff")


def pretraining_settings(settings: Settings, seed: int) -> Settings:
    """Settings of a run that only pretrains: equal for all runs that can share it.

    Args:
        settings: Those of a run that would pretrain itself.
        seed: Seed of the pretraining.
    """
    unused = _ONLINE_ONLY if settings.RL_from_start else {*_ONLINE_ONLY, *_COEFFICIENTS}
    defaults: dict[str, Any] = {name: FLAGS[name].default for name in unused}
    own = {"seed": seed, "max_online_iters": 0, "suffix": "-pretraining"}
    return dataclasses.replace(settings, **defaults | own)


def pretraining_name(settings: Settings) -> str:
    """A name for `pretraining_settings`: the algorithm and a hash of what changes the networks."""
    values = {
        name: value
        for name, value in changed_flags(settings).items()
        if name not in (*flags_with("same_numbers"), "seed")
    }
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return f"{settings.rl_algo}-{digest[:8]}"


def changed_flags(settings: Settings) -> dict[str, Any]:
    """The flags that do not have their default value."""
    values = {name: getattr(settings, name) for name in FLAGS}
    return {name: value for name, value in values.items() if value != FLAGS[name].default}
