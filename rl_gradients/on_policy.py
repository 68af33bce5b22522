"""What PPO and AWR share: a V critic, TD(lambda) returns, batches from an online buffer."""

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
    """A batch from the online buffer, with what its refresh computed.

    Attributes:
        returns: (B, K) TD(lambda) returns.
        advantages: (B, K) returns minus values.
        log_probs: (B, K) log-likelihood of the actions when they were collected.
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
    """TD(lambda) returns of trajectories that lie one after another (Sutton, Barto, eq. 12.18).

        G_t = r_t + gamma (1 - d_t) ((1 - lambda) V(s_{t+1}) + lambda G_{t+1})

    At a trajectory's last step lambda is 0: its cut end bootstraps from V.

    Args:
        rewards: (N,).
        terminals: (N,) bool d_t.
        next_values: (N,) V(s_{t+1}).
        last: (N,) bool, the last step of each trajectory.
        gamma, td_lambda: Discount and trace decay.

    Returns:
        (N,)
    """
    discount = gamma * (1.0 - terminals.to(rewards.dtype))
    trace = td_lambda * (~last).to(rewards.dtype)
    # G_t = known_t + factor_t G_{t+1}; after round k the recurrence reaches 2^k steps ahead
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
    """mean 0.5 (V(s) - target)^2, all (B, K), the target without gradient."""
    return critic_mean(0.5 * without_padding(values - target, mask).square(), mask)


class OnPolicyGradient(RLGradient):
    """An algorithm that learns from an online buffer beside the replay buffer.

    In pretraining there is no such buffer: V is trained by one-step TD and the actor by the
    supervised loss alone.

    Attributes:
        td_lambda: Trace decay of the returns.
        buffer_size: Transitions of the online buffer: its newest whole trajectories up to that
            many; 0: the episodes of this iteration alone.
        critic_first: All critic updates of an iteration come before the actor's, with new
            returns in between.
        compares_to_old_policy: The actor at the iteration's start recomputes `log_probs`.
        normalizes_advantages: Advantages have mean 0 and deviation 1 over the online buffer.
        starts_late: The first online iteration has no RL gradient.
    """

    num_q: ClassVar[int] = 0
    with_v: ClassVar[bool] = True
    # nothing reads target networks
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
    """The batch, known to come from an online buffer."""
    if not isinstance(batch, OnlineBatch):
        raise TypeError("this algorithm's policy learns from an online buffer")
    return batch
