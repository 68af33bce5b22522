"""Shared by all RL gradients: the interface to the trainer, TD targets, regression losses.

Shapes: B sub-trajectories of K steps. Padding never contributes to a loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from critic import Critic
from decision_transformer import Actor, Noise, PolicyOutput, TanhGaussian
from get_args import Settings
from trajectories import MAX_TIMESTEPS, Batch, Info, critic_mean, masked_mean, without_padding


@dataclass
class Networks:
    """The trained networks and their targets.

    Attributes:
        actor, critic: The trained networks.
        actor_target, critic_target: Target networks, Polyak averages of them.
        log_temperature: 0-d parameter, log of the entropy temperature.
    """

    actor: Actor
    critic: Critic
    actor_target: Actor
    critic_target: Critic
    log_temperature: torch.nn.Parameter

    @property
    def temperature(self) -> Tensor:
        """The entropy temperature, detached."""
        return self.log_temperature.detach().exp()


class RLGradient(ABC):
    """Interface of an RL algorithm to the trainer.

    For each batch the trainer steps the critic on `critic_loss` and then, if the actor is updated,
    the actor on `actor_loss` with the updated critic.

    Attributes:
        num_q, with_v: Number of Q networks, and whether there is a V network.
        tunes_temperature: Learn the entropy temperature regardless of `--use_entropy_reg`.
        tau: Update rate of the target networks.
    """

    num_q: ClassVar[int] = 2
    with_v: ClassVar[bool] = False
    tunes_temperature: ClassVar[bool] = False
    tau: float

    @abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abstractmethod
    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        """The critic loss and metrics to log."""

    @abstractmethod
    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        """The RL term of the actor loss.

        Args:
            nets: The networks; the critic is already updated on this batch.
            batch: The batch.
            policy: The actor's output on the batch, with gradient.
            noise: Source of normal draws.

        Returns:
            The loss and metrics to log. The entry "rl_scale" is not logged:
            `--normalized_rl_coeff 1` divides the RL coefficient by it.
        """


def next_policy(nets: Networks, batch: Batch) -> PolicyOutput:
    """The target actor's output at the next states: pi'(. | s_{t+1}), t = 0 .. K-1.

    The batch is shifted by one step; the unknown action after the last one is 0, and timesteps are
    clamped to the embedding table. As in the published runs this forward pass attends to padding.
    """
    actions = torch.cat([batch.actions[:, 1:], torch.zeros_like(batch.actions[:, :1])], dim=1)
    last = (batch.timesteps[:, -1:] + 1).clamp(max=MAX_TIMESTEPS - 1)
    timesteps = torch.cat([batch.timesteps[:, 1:], last], dim=1)
    return nets.actor_target(batch.next_states, actions, batch.rtg[:, 1:], timesteps)


def td_target(batch: Batch, gamma: float, next_value: Tensor) -> Tensor:
    """r + gamma (1 - d) V(s'), all (B, K)."""
    return batch.rewards + gamma * (1.0 - batch.dones) * next_value


def twin_q_loss(q: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Info]:
    """sum_i mean (Q_i(s, a) - y)^2.

    Args:
        q: (num_q, B, K) all Q networks at the data's actions.
        target: (B, K) y, detached.
        mask: (B, K) bool.
    """
    error = without_padding(q - target, mask)
    loss = critic_mean(error.square().sum(dim=0), mask)
    return loss, {"Q_mean": masked_mean(q[0].detach(), mask)}


def gaussian(policy: PolicyOutput) -> TanhGaussian:
    """The policy output, narrowed to a distribution.

    Raises:
        TypeError: the policy is deterministic.
    """
    if not isinstance(policy, TanhGaussian):
        raise TypeError("this algorithm needs a stochastic policy")
    return policy


def log_likelihood(policy: PolicyOutput, actions: Tensor) -> Tensor:
    """log pi(a | s), (B, K), of actions (B, K, act_dim).

    For a deterministic policy -||pi(s) - a||^2, a Gaussian log-likelihood up to scale and constant.
    """
    if isinstance(policy, TanhGaussian):
        return policy.log_prob(actions)
    return -(policy.mean - actions).square().sum(-1)


def weighted_regression_loss(weights: Tensor, log_prob: Tensor, mask: Tensor) -> Tensor:
    """-mean w(s, a) log pi(a | s).

    Args:
        weights: (B, K) detached.
        log_prob: (B, K) with gradient.
        mask: (B, K) bool.
    """
    return -masked_mean(without_padding(weights, mask) * log_prob, mask)
