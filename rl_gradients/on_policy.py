"""Shared by PPO and AWR: a V critic, TD(lambda) returns and batches of recent episodes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from decision_transformer import Noise, PolicyOutput
from rl_gradients.common import Networks, RLGradient, td_target
from trajectories import Batch, Info, critic_mean, masked_mean, without_padding


@dataclass
class OnlineBatch(Batch):
    """A batch from the on-policy buffer.

    Attributes:
        returns: (B, K) TD(lambda) returns.
        advantages: (B, K) returns minus values.
        log_probs: (B, K) log-likelihood of the actions under the policy that collected them.
    """

    returns: Tensor
    advantages: Tensor
    log_probs: Tensor


def td_lambda_returns(
    rewards: Tensor,
    terminals: Tensor,
    next_values: Tensor,
    last: Tensor,
    gamma: float,
    td_lambda: float,
) -> Tensor:
    """TD(lambda) returns of consecutive trajectories (Sutton, Barto 2018, equation 12.18).

        G_t = r_t + gamma (1 - d_t) ((1 - lambda) V(s_{t+1}) + lambda G_{t+1})

    lambda is 0 at the last step of a trajectory, so truncated ends bootstrap from V.

    Args:
        rewards: (N,).
        terminals: (N,) bool d_t.
        next_values: (N,) V(s_{t+1}).
        last: (N,) bool, True at the last step of each trajectory.
        gamma, td_lambda: Discount and trace decay.

    Returns:
        (N,)
    """
    discount = gamma * (1.0 - terminals.to(rewards.dtype))
    trace = td_lambda * (~last).to(rewards.dtype)
    # G_t = known_t + factor_t G_{t+1}; after round k each entry covers 2^k steps
    known = rewards + discount * (1.0 - trace) * next_values
    factor = discount * trace
    step = 1
    while step < len(rewards) and bool(factor.any()):
        ahead = torch.zeros_like(known)
        ahead[:-step] = known[step:]
        known = known + factor * ahead
        beyond = torch.zeros_like(factor)
        beyond[:-step] = factor[step:]
        factor = factor * beyond
        step *= 2
    return known


def value_loss(values: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """mean 0.5 (V(s) - target)^2, all (B, K), with a detached target."""
    return critic_mean(0.5 * without_padding(values - target, mask).square(), mask)


class OnPolicyGradient(RLGradient):
    """An algorithm that learns from an on-policy buffer in addition to the replay buffer.

    There is no such buffer in pretraining: V is trained by one-step TD and the actor by the
    supervised loss only.

    Attributes:
        td_lambda: Trace decay of the returns.
        buffer_size: The on-policy buffer holds the newest whole trajectories with at least this
            many transitions; 0 for the episodes of the current iteration only.
        critic_first: Do all critic updates of an iteration before the actor updates, and recompute
            the returns in between.
        compares_to_old_policy: Recompute `log_probs` with the actor as of the iteration's start.
        normalizes_advantages: Normalise advantages to mean 0 and standard deviation 1 over the
            buffer.
        starts_late: Skip the RL gradient in the first online iteration.
    """

    num_q: ClassVar[int] = 0
    with_v: ClassVar[bool] = True
    # no loss uses target networks
    tau = 0.0
    critic_first: ClassVar[bool] = False
    starts_late: ClassVar[bool] = False
    gamma: float
    td_lambda: float
    buffer_size: int = 0
    compares_to_old_policy: bool = False
    normalizes_advantages: bool = False

    def critic_loss(self, nets: Networks, batch: Batch, noise: Noise) -> tuple[Tensor, Info]:
        values = nets.critic.v(batch.states)
        if isinstance(batch, OnlineBatch):
            target = batch.returns
        else:
            with torch.no_grad():
                target = td_target(batch, self.gamma, nets.critic.v(batch.next_states))
        loss = value_loss(values, target, batch.mask)
        return loss, {"V_mean": masked_mean(values.detach(), batch.mask)}

    @abstractmethod
    def actor_loss(
        self, nets: Networks, batch: Batch, policy: PolicyOutput, noise: Noise
    ) -> tuple[Tensor, Info]: ...


def online_batch(batch: Batch) -> OnlineBatch:
    """The batch, narrowed to one from the on-policy buffer.

    Raises:
        TypeError: it comes from the replay buffer.
    """
    if not isinstance(batch, OnlineBatch):
        raise TypeError("the actor loss of this algorithm needs a batch from the on-policy buffer")
    return batch
