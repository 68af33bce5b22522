"""Networks and optimisers from settings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from critic import Critic, CriticConfig
from decision_transformer import Actor, DecisionMLP, DecisionTransformer, TransformerSize
from get_args import Settings
from lamb import Lamb
from recurrent_critic import RecurrentCritic
from rl_gradients import RLGradient
from tasks import Task

Module = TypeVar("Module", bound=nn.Module)

# maximum global gradient norm: with --grad_clip 1, and LAMB's own without it
GRADIENT_CLIP, LAMB_GRADIENT_BOUND = 0.25, 1.0


def make_actor(settings: Settings, task: Task) -> Actor:
    """The policy network."""
    autocast_dtype = torch.bfloat16 if settings.precision == "bf16" else None
    if settings.policy == "mlp":
        return DecisionMLP(
            task.obs_dim,
            task.act_dim,
            width=settings.embed_dim,
            depth=settings.n_layer,
            activation=settings.activation_function,
            stochastic=bool(settings.stoc),
            autocast_dtype=autocast_dtype,
        )
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
        dtype=autocast_dtype or torch.float32,
    )


def slow_copy(module: Module) -> Module:
    """A copy without gradients, in evaluation mode and not compiled."""
    return copy.deepcopy(module).requires_grad_(False).eval()


def compile_policies(*actors: Actor) -> None:
    """Compile policies in place, which fuses their element-wise operations."""
    for actor in actors:
        actor.compile(fullgraph=True)


def make_actor_optimizer(settings: Settings, actor: Actor) -> torch.optim.Optimizer:
    """LAMB, or AdamW with `--actor_optimizer adamw`."""
    if settings.actor_optimizer == "adamw":
        return adamw(actor.parameters(), settings.learning_rate, settings.weight_decay)
    # gradients clipped by the trainer are below LAMB's own bound
    bound = 0.0 if settings.grad_clip else LAMB_GRADIENT_BOUND
    return Lamb(
        actor.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=bound,
        capturable=next(actor.parameters()).is_cuda,
    )


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW in one kernel on a CPU or an NVIDIA GPU, with multi-tensor operations elsewhere.

    On a GPU, CUDA graphs can replay it, and its learning rate is a tensor that they read.
    """
    parameters = list(parameters)
    device = parameters[0].device
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameters,
        lr=torch.tensor(lr, device=device) if device.type == "cuda" else lr,
        weight_decay=weight_decay,
        fused=fused,
        foreach=not fused,
        capturable=device.type == "cuda",
    )


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore moments and step counts but keep the current learning rate, decay and bounds."""
    # options come first: they determine the device of the step counts
    groups = [
        saved | {k: v for k, v in own.items() if k not in ("params", "step")}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def make_critic(settings: Settings, task: Task, algorithm: RLGradient) -> Critic:
    """The critics of an algorithm; LayerNorm follows the task unless `--override_layernorm`."""
    default = task.critic_layernorm
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
