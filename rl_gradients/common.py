"""What all RL gradients share: the interface to the trainer, masked means, TD targets.

Shapes: B sub-trajectories of K steps. "Masked" steps are padding; they never count.
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
    """Everything that is trained, and the targets.

    Attributes:
        actor, critic: The online networks.
        actor_target, critic_target: Their slow copies.
        log_temperature: 0-d parameter, log of the entropy's weight.
    """

    actor: Actor
    critic: Critic
    actor_target: Actor
    critic_target: Critic
    log_temperature: torch.nn.Parameter

    @property
    def temperature(self) -> Tensor:
        """The entropy's weight, outside the graph."""
        return self.log_temperature.detach().exp()


class RLGradient(ABC):
    """One algorithm as the trainer sees it.

    A batch first goes through `critic_loss` and a step of the critic, then, where the actor is
    due, through `actor_loss` with the updated critic.

    Attributes:
        num_q, with_v: Which critics it needs.
        tunes_temperature: Whether the entropy's weight is learned whatever `--use_entropy_reg`.
        tau: Rate of the target networks.
    """

    num_q: ClassVar[int] = 2
    with_v: ClassVar[bool] = False
    tunes_temperature: ClassVar[bool] = False
    tau: float

    @abstractmethod
    def __init__(self, settings: Settings) -> None: ...

    @abstractmethod
    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        """The critic's loss and what to log of it."""

    @abstractmethod
    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]:
        """The RL part of the actor's loss.

        Args:
            nets: The networks, the critic already updated on this batch.
            batch: The batch.
            policy: The actor's output on it, with gradient.
            noise: Source of normal draws.

        Returns:
            The loss, and information to log; its entry "rl_scale" is what
            `--normalized_rl_coeff 1` divides the RL coefficient by.
        """


def next_policy(nets: Networks, batch: Batch) -> PolicyOutput:
    """The target actor's output at the next states: pi'(. | s_{t+1}), t = 0 .. K-1.

    The batch is shifted by one step; what follows the last action is not known (0), and the
    timestep stays below the horizon. As in the published runs this forward attends to padding.
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
        q: (num_q, B, K) all critics at the data's actions.
        target: (B, K) y, without gradient.
        mask: (B, K) bool.
    """
    error = without_padding(q - target, mask)
    loss = critic_mean(error.square().sum(dim=0), mask)
    return loss, {"Q_mean": masked_mean(q[0].detach(), mask)}


def gaussian(policy: PolicyOutput) -> TanhGaussian:
    """The policy as a distribution, for algorithms that need one."""
    if not isinstance(policy, TanhGaussian):
        raise TypeError("this algorithm needs a stochastic policy")
    return policy


def log_likelihood(policy: PolicyOutput, actions: Tensor) -> Tensor:
    """log pi(a | s), (B, K), of actions (B, K, act_dim).

    For a deterministic policy -||pi(s) - a||^2: a Gaussian's, up to scale and constant.
    """
    if isinstance(policy, TanhGaussian):
        return policy.log_prob(actions)
    return -(policy.mean - actions).square().sum(-1)


def weighted_regression_loss(weights: Tensor, log_prob: Tensor, mask: Tensor) -> Tensor:
    """-mean w(s, a) log pi(a | s).

    Args:
        weights: (B, K) without gradient.
        log_prob: (B, K) with gradient to the policy.
        mask: (B, K) bool.
    """
    return -masked_mean(without_padding(weights, mask) * log_prob, mask)
