"""The networks that the settings describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from critic import Critic, CriticConfig
from decision_transformer import DecisionTransformer, TransformerSize
from envs.tasks import Task
from recurrent_critic import RecurrentCritic
from rl_gradients import RLGradient
from settings import Settings


def make_actor(settings: Settings, task: Task) -> DecisionTransformer:
    """The policy that the settings describe."""
    size = TransformerSize(
        embed_dim=settings.embed_dim,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        activation=settings.activation_function,
        dropout=settings.dropout,
    )
    return DecisionTransformer(
        task.obs_dim,
        task.act_dim,
        size,
        stochastic=bool(settings.stoc),
        ordering=bool(settings.ordering),
        autocast_dtype=torch.bfloat16 if settings.precision == "bf16" else None,
    )


def make_critic(settings: Settings, task: Task, algorithm: RLGradient) -> Critic:
    """The critics that the algorithm needs, with LayerNorm where the family has it by default."""
    default = task.spec.critic_layernorm
    normalize = {1: True, -1: False}.get(settings.override_layernorm, default)
    config = CriticConfig(
        activation=settings.critic_activation,
        normalization=settings.critic_normalization if normalize else None,
        time_aware=settings.critic_time_aware,
        time_dim=settings.critic_time_dim,
    )
    make: Callable[..., Critic] = Critic
    if settings.recurrent:
        make = partial(RecurrentCritic, arch=settings.arch)
    return make(task.obs_dim, task.act_dim, config, num_q=algorithm.num_q, with_v=algorithm.with_v)
